"""Adapters of scvi-tools: what they hand to the library, what they refuse, and the library where it is installed."""

import importlib.util
import logging
import os
import random
import sys
import types

import numpy as np
import pytest
import torch
from _model_data import N_GENES, counts, prepared

import diffvae as dv
from diffvae._errors import DataError
from diffvae.benchmark import _methods
from diffvae.benchmark._methods import DRVI, SCVI, LinearSCVI
from diffvae.model._base import NotTrainedError

MODELS = {model.name: model for model in (SCVI, LinearSCVI, DRVI)}
INSTALLED = {
    "scVI": importlib.util.find_spec("scvi") is not None,
    "LinearSCVI": importlib.util.find_spec("scvi") is not None,
    "DRVI": importlib.util.find_spec("drvi") is not None,
}


@pytest.fixture
def present(monkeypatch):
    """Let models be made as if the libraries were there."""
    monkeypatch.setattr(_methods, "find_spec", lambda module: object())


class Settings:
    """Does to the process what scvi-tools does when its seed is set."""

    def __init__(self):
        self._seed = None

    @property
    def seed(self):
        return self._seed

    @seed.setter
    def seed(self, seed):
        self._seed = seed
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002 - as the library does
            torch.manual_seed(seed)
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
            os.environ["PL_GLOBAL_SEED"] = str(seed)
            os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --deterministic"


class Library:
    """Stands for a class of scvi-tools: keeps what it is given, and embeds cells by global random numbers."""

    error: Exception | None = None

    @staticmethod
    def setup_anndata(cells):
        cells.uns["registered"] = True

    def __init__(self, cells, **params):
        self.cells, self.params = cells, params

    def train(self, **options):
        self.options = options
        self.level = logging.getLogger("lightning.pytorch").level
        if self.error:
            raise self.error
        self.weights = [random.random(), np.random.rand(), torch.rand(1).item()]  # noqa: NPY002 - the global numbers

    def get_latent_representation(self, cells):
        x = (self.cells if cells is None else cells).X
        return np.outer(np.asarray(x.sum(axis=1)).ravel(), self.weights)


@pytest.fixture
def library(monkeypatch, present):
    """Put a small stand-in where scvi-tools would be."""
    scvi, models = types.ModuleType("scvi"), types.ModuleType("scvi.model")
    scvi.settings, scvi.model, models.SCVI = Settings(), models, type("Library", (Library,), {})
    monkeypatch.setitem(sys.modules, "scvi", scvi)
    monkeypatch.setitem(sys.modules, "scvi.model", models)
    return scvi


def test_names_and_parameters(present):
    assert {name: repr(make(7)) for name, make in MODELS.items()} == {
        "scVI": "SCVI(n_latent=7; not trained)",
        "LinearSCVI": "LinearSCVI(n_latent=7; not trained)",
        "DRVI": "DRVI(n_latent=7; not trained)",
    }
    model = SCVI(n_layers=2)
    assert model.get_params() == {"n_latent": 10, "n_layers": 2}
    assert SCVI(**model.get_params()).get_params() == model.get_params()
    assert (LinearSCVI().n_latent, DRVI().n_latent) == (10, 32)
    with pytest.raises(ValueError, match="n_latent is 0; it must be a whole number of 1 or more"):
        SCVI(0)


@pytest.mark.parametrize(
    ("name", "package"), [("scVI", "scvi-tools"), ("LinearSCVI", "scvi-tools"), ("DRVI", "drvi-py")]
)
def test_library_that_is_not_installed_is_named_with_its_pip_line(monkeypatch, name, package):
    absent = {"scvi-tools": "scvi", "drvi-py": "drvi"}[package]
    monkeypatch.setattr(_methods, "find_spec", lambda module: None if module == absent else object())
    with pytest.raises(ImportError, match=f"{name} needs {package}, which is not installed: pip install {package}$"):
        MODELS[name](5)


def test_cells_without_counts_are_refused(present):
    logs = counts()
    logs.X = np.log1p(logs.X / logs.X.sum(1, keepdims=True) * 1e4)
    dv.pp.prepare(logs, n_top_genes=None)
    with pytest.raises(
        DataError, match=r"scVI models counts, but adata.layers\['counts'\] is missing .*given 'log' val"
    ):
        SCVI(3).train(logs)
    unprepared = counts()
    with pytest.raises(
        DataError, match=r"\['counts'\] is missing; run diffvae.pp.prepare on raw counts, or leave DRVI"
    ):
        DRVI(3).train(unprepared)


def test_batches_are_registered_with_the_library(library, monkeypatch):
    registered = []

    def setup_anndata(cells, batch_key=None):
        registered.append((batch_key, None if batch_key is None else cells.obs[batch_key].tolist()))

    monkeypatch.setattr(library.model.SCVI, "setup_anndata", staticmethod(setup_anndata))
    adata = prepared()
    adata.obs["donor"] = ["x", "y"] * (adata.n_obs // 2) + ["x"] * (adata.n_obs % 2)
    assert SCVI(3).train(adata) is not None
    model = SCVI(3).train(adata, batch_key="donor")
    assert registered == [(None, None), ("donor", adata.obs["donor"].tolist())]
    assert "donor" not in SCVI(3).train(adata)._model.cells.obs
    model.get_latent_representation(adata)
    new = adata.copy()
    del new.obs["donor"]
    with pytest.raises(DataError, match=r"adata.obs\['donor'\] is missing; scVI needs the batch of each cell"):
        model.get_latent_representation(new)
    adata.obs["donor"] = [None, *adata.obs["donor"].tolist()[1:]]
    with pytest.raises(ValueError, match=r"adata.obs\['donor'\] has 1 missing values"):
        SCVI(3).train(adata, batch_key="donor")
    with pytest.raises(ValueError, match="batch_key is 'donor', but DRVI is run without batches here; leave it out"):
        DRVI(3).train(adata, batch_key="donor")
    options = {
        model: _methods.train_options(_methods.Method("", MODELS[model]), MODELS[model](3), "donor") for model in MODELS
    }
    assert options == {"scVI": {"batch_key": "donor"}, "LinearSCVI": {"batch_key": "donor"}, "DRVI": {}}


@pytest.mark.parametrize("value", [0.5, -1.0])
@pytest.mark.parametrize("sparse", [False, True])
def test_values_that_are_no_counts_are_refused(present, value, sparse):
    import scipy.sparse as sp

    adata = prepared()
    x = np.array(adata.layers["counts"])
    x[3, 2] = value
    adata.layers["counts"] = sp.csr_matrix(x) if sparse else x
    with pytest.raises(
        DataError, match=rf"LinearSCVI models counts, but adata.layers\['counts'\] holds {value:g}; counts"
    ):
        LinearSCVI(3).train(adata)


def test_model_that_is_not_trained(present):
    with pytest.raises(NotTrainedError, match="This SCVI is not trained; call train"):
        SCVI(3).get_latent_representation()


def test_the_library_gets_the_counts_and_the_split_that_the_others_get(library):
    adata = prepared()
    before = adata.copy()
    model = SCVI(3, n_layers=2).train(adata, rng=1, progress=False)
    given = model._model
    np.testing.assert_array_equal(given.cells.X, counts()[:, adata.var_names].X)
    assert list(given.cells.var_names) == list(adata.var_names)
    assert given.params == {"n_latent": 3, "n_layers": 2}
    train, validation = given.options["datasplitter_kwargs"]["external_indexing"]
    np.testing.assert_array_equal(adata.obs["diffvae_split"].iloc[train], "train")
    np.testing.assert_array_equal(adata.obs["diffvae_split"].iloc[validation], "validation")
    assert len(train) + len(validation) == adata.n_obs
    assert given.options["max_epochs"] is None  # the library's own choice
    assert not given.options["enable_progress_bar"]
    assert adata.uns.keys() == before.uns.keys()
    np.testing.assert_array_equal(adata.layers["counts"], before.layers["counts"])


@pytest.mark.parametrize(("n_cells", "drop_last"), [(2, False), (128, False), (129, True), (130, True), (131, False)])
def test_no_batch_of_one_or_two_cells_is_left_at_the_end(library, n_cells, drop_last):
    adata = dv.pp.prepare(counts(0, 140), n_top_genes=None, copy=True)
    adata.obs["diffvae_split"] = np.where(np.arange(140) < n_cells, "train", "validation")
    options = SCVI(3).train(adata)._model.options
    assert options["datasplitter_kwargs"]["drop_last"] is drop_last


def test_new_cells_are_matched_by_gene_names(library):
    adata = prepared()
    model = SCVI(3).train(adata)
    shuffled = adata[::-1, ::-1].copy()
    np.testing.assert_allclose(model.get_latent_representation(shuffled), model.get_latent_representation()[::-1])
    sentence = f"1 of the model's {N_GENES} genes are not in adata.var_names, for example 'gene0'"
    with pytest.raises(DataError, match=sentence):
        model.get_latent_representation(adata[:, 1:].copy())


def global_state():
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    levels = [logging.getLogger(name).level for name in ("scvi", "lightning.pytorch")]
    environment = {k: v for k, v in os.environ.items() if k in ("PL_GLOBAL_SEED", "XLA_FLAGS")}
    numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002 - must not move
    return flags, levels, environment, numpy_state, random.getstate(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("own_seed", [None, 4])
def test_the_seed_decides_and_global_state_is_put_back(library, monkeypatch, own_seed):
    monkeypatch.setenv("XLA_FLAGS", "--mine")
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    library.settings._seed = own_seed
    before = global_state()
    first = SCVI(3).train(prepared(), rng=0)
    assert first._model.level == logging.ERROR
    z = first.get_latent_representation()
    assert (z.dtype, z.shape) == (np.float32, (100, 3))
    assert global_state() == before
    assert library.settings.seed == own_seed
    np.testing.assert_array_equal(SCVI(3).train(prepared(), rng=0).get_latent_representation(), z)
    other = SCVI(3).train(prepared(), rng=1).get_latent_representation()
    assert np.abs(other - z).max(axis=0).min() > 0  # each of the three generators was given another seed
    library.model.SCVI.error = ValueError("Expected parameter loc of\ndistribution: tensor([nan])")
    with pytest.raises(RuntimeError, match=r"scVI could not be trained on these cells: Expected parameter loc of\.$"):
        SCVI(3).train(prepared())
    assert global_state() == before


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.skipif(not i, reason=n)) for n, i in INSTALLED.items()]
)
def test_real_library(name, monkeypatch, tmp_path, capfd):
    make = MODELS[name]
    make(2).train(prepared(), max_epochs=1, progress=False)  # what the import changes, it has
    monkeypatch.chdir(tmp_path)
    adata, before = prepared(), global_state()
    capfd.readouterr()
    model = make(4).train(adata, max_epochs=2, rng=0, progress=False)
    z = model.get_latent_representation()
    assert z.shape == (100, 4)
    assert np.isfinite(z).all()
    assert global_state() == before
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert sorted(adata.layers) == ["counts", "unit"]
    np.testing.assert_array_equal(make(4).train(adata, max_epochs=2, progress=False).get_latent_representation(), z)
    other = make(4).train(adata, max_epochs=2, rng=1, progress=False).get_latent_representation()
    assert np.abs(other - z).max() > 0.01
    np.testing.assert_allclose(model.get_latent_representation(adata[:, ::-1]), z, atol=1e-5)
    assert model.get_latent_representation(prepared(1)).shape == (100, 4)


@pytest.mark.skipif(not INSTALLED["scVI"], reason="scvi-tools")
def test_real_library_learns_from_the_training_cells_alone():
    adata = prepared()
    model = SCVI(4).train(adata, max_epochs=2, progress=False)
    np.testing.assert_array_equal(model._model.train_indices, np.flatnonzero(adata.obs["diffvae_split"] == "train"))
    x = np.array(adata.layers["counts"])
    x[adata.obs["diffvae_split"] == "validation"] = 1  # other cells to watch, the same to learn from
    other = adata.copy()
    other.layers["counts"] = x
    again = SCVI(4).train(other, max_epochs=2, progress=False)
    for ours, theirs in zip(model._model.module.parameters(), again._model.module.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.skipif(not INSTALLED["scVI"], reason="scvi-tools")
def test_real_library_with_a_last_batch_of_one_cell_and_cells_without_counts():
    adata = dv.pp.prepare(counts(0, 129), n_top_genes=None, validation_size=0, copy=True)
    adata.layers["counts"] = np.array(adata.layers["counts"])
    adata.layers["counts"][:2] = 0
    z = SCVI(4).train(adata, max_epochs=2, progress=False).get_latent_representation()
    assert z.shape == (129, 4)
    assert np.isfinite(z).all()
