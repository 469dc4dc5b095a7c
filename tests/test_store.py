"""Cells on disk: training and embedding as in memory, shards put together, and what can't be read said in words."""

import shutil

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from _model_data import N_LATENT, QUICK, TINY, counts, prepared, trained

from diffvae import _keys
from diffvae._core.io.backed import open_store
from diffvae.model import PCA, VAE, CellStateClassifier, DiffVAE
from diffvae.pp import DataError, check
from diffvae.train import StreamSource

pytestmark = pytest.mark.filterwarnings("ignore:.*zarr v2:UserWarning")


def written(adata, path):
    (adata.write_zarr if path.suffix == ".zarr" else adata.write_h5ad)(path)
    return path


def as_sparse(adata):
    adata = adata.copy()
    adata.X = sp.csr_matrix(adata.X)
    for name in list(adata.layers):
        adata.layers[name] = sp.csr_matrix(adata.layers[name])
    return adata


@pytest.mark.parametrize(
    ("form", "name"), [(lambda adata: adata, "cells.h5ad"), (as_sparse, "cells.h5ad"), (as_sparse, "cells.zarr")]
)
def test_trains_and_embeds_from_disk_exactly_as_from_memory(form, name, tmp_path):
    path = written(form(prepared()), tmp_path / name)
    kept, model = trained("DiffVAE"), DiffVAE(**TINY).train(path, **QUICK)
    pd.testing.assert_frame_equal(model.history, kept.history)
    z = kept.get_latent_representation()
    np.testing.assert_array_equal(model.get_latent_representation(), z)
    np.testing.assert_array_equal(kept.get_latent_representation(path), z)
    assert model.features.target_sum == kept.features.target_sum
    np.testing.assert_array_equal(model.features.scaling, kept.features.scaling)
    assert model.diagnose().terms.equals(kept.diagnose().terms)


def test_a_backed_anndata_stands_for_its_file(tmp_path):
    path = written(prepared(), tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(path, backed="r")
    model = DiffVAE(**TINY).train(backed, **QUICK)
    pd.testing.assert_frame_equal(model.history, trained("DiffVAE").history)
    with pytest.raises(DataError, match="is a part of a file"):
        DiffVAE(**TINY).train(backed[:50], **QUICK)
    backed.file.close()


def test_windows_smaller_than_the_file_train_as_well(tmp_path, monkeypatch):
    adata = as_sparse(prepared())
    path = written(adata, tmp_path / "cells.h5ad")
    monkeypatch.setattr(
        "diffvae.model._neural.StreamSource", lambda *a: StreamSource(*a, block=1, window_bytes=1), raising=True
    )
    options = {**QUICK, "max_epochs": 15, "lr": 5e-3}
    ends = [VAE(**TINY).train(x, **options).history["validation_nll"].iloc[-1] for x in (path, path, adata)]
    assert ends[0] == ends[1] != ends[2]
    assert ends[0] == pytest.approx(ends[2], rel=0.05)


def test_shards_are_one_atlas_with_genes_matched_by_name(tmp_path):
    adata = as_sparse(prepared())
    other = adata[60:, ::-1].copy()
    paths = [written(adata[:60].copy(), tmp_path / "a.h5ad"), written(other, tmp_path / "b.zarr")]
    model = DiffVAE(**TINY).train(paths, **QUICK)
    pd.testing.assert_frame_equal(model.history, trained("DiffVAE").history)
    np.testing.assert_array_equal(model.get_latent_representation(paths), model.get_latent_representation(adata))


def test_names_and_genes_of_shards(tmp_path):
    a, b = counts()[:50].copy(), counts()[50:, 5:].copy()
    b.obs_names = a.obs_names
    a.obs["type"], b.obs["type"] = pd.Categorical(["x"] * 50), pd.Categorical(["y"] * 50)
    store = open_store([written(a, tmp_path / "a.h5ad"), written(b, tmp_path / "b.h5ad")])
    assert store.shape == (100, 35)
    assert store.obs_names[[0, 50]].tolist() == ["cell0_0-a", "cell0_0-b"]
    assert store.obs["type"].dtype == "category"
    np.testing.assert_array_equal(store.matrix(None).read(0, 100), counts().X[:, 5:])
    assert len(store.notes) == 2
    taken = store.take(np.array([70, 3]))
    assert taken.obs_names.tolist() == ["cell0_3-a", "cell0_20-b"]
    np.testing.assert_array_equal(taken.X, counts().X[[3, 70], 5:])


def test_new_cells_on_disk_are_scaled_as_in_memory(tmp_path):
    new = as_sparse(counts(seed=5))
    expected = trained("DiffVAE").get_latent_representation(new)
    assert expected.shape == (100, N_LATENT)
    for adata in (new, new[:, ::-1].copy()):
        found = trained("DiffVAE").get_latent_representation(written(adata, tmp_path / "new.h5ad"))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def refused(tmp_path):
    adata = as_sparse(prepared())
    bad = adata.copy()
    bad.layers[_keys.UNIT].data[3] = np.nan
    wide = adata.copy()
    wide.layers[_keys.UNIT] = adata.layers[_keys.UNIT] * 2
    by_genes = adata.copy()
    by_genes.layers[_keys.UNIT] = sp.csc_matrix(adata.layers[_keys.UNIT])
    other = adata.copy()
    other.var_names = [f"other{i}" for i in range(other.n_vars)]
    rescaled = adata.copy()
    rescaled.var[_keys.UNIT_MAX] *= 2
    first = written(adata, tmp_path / "first.h5ad")
    damaged = tmp_path / "damaged.h5ad"
    damaged.write_bytes(first.read_bytes()[:5000])
    (tmp_path / "cells.csv").write_text("cell,a\nc,1\n")
    return {
        "NaN": (written(bad, tmp_path / "bad.h5ad"), "holds NaN or infinite values"),
        "beyond 1": (
            written(wide, tmp_path / "wide.h5ad"),
            r"from 0 to 2, but the Bernoulli likelihood needs \[0, 1\]",
        ),
        "CSC": (written(by_genes, tmp_path / "csc.h5ad"), "is stored as csc_matrix, of which rows can't be read"),
        "raw": (
            written(counts(), tmp_path / "raw.h5ad"),
            r"layers\['unit'\] is missing in raw.h5ad; run diffvae.pp.prep",
        ),
        "genes": ([first, written(other, tmp_path / "other.h5ad")], "have 0 genes in common, of up to 40"),
        "limits": ([first, written(rescaled, tmp_path / "re.h5ad")], "were scaled by different limits"),
        "damaged": (damaged, "can't be read; it may be damaged"),
        "csv": (tmp_path / "cells.csv", r"only \.h5ad and \.zarr can"),
        "absent": (tmp_path / "absent.h5ad", "There is no file or folder"),
        "none": ([], "The list of files is empty"),
    }


def test_what_cannot_be_read_is_refused_in_words(tmp_path):
    for path, sentence in refused(tmp_path).values():
        model = DiffVAE(**TINY)
        with pytest.raises(DataError, match=sentence):
            model.train(path, **QUICK)
        assert not model.is_trained


def test_what_needs_the_cells_in_memory_says_so(tmp_path):
    path = written(prepared(), tmp_path / "cells.h5ad")
    adata = prepared()
    adata.obs["type"] = ["a", "b"] * 50
    for use in (
        lambda: PCA(n_latent=3).train(path),
        lambda: CellStateClassifier().train(path, "type"),
        lambda: CellStateClassifier().train(adata, "type", max_epochs=1, progress=False).predict(path),
    ):
        with pytest.raises(DataError, match="read them, or some of them, into memory first"):
            use()
    z = trained("PCA").get_latent_representation()
    np.testing.assert_allclose(trained("PCA").get_latent_representation(path), z, atol=1e-5)


def test_names_that_may_be_missing(tmp_path):
    adata = as_sparse(counts())
    adata.obs.index = pd.Index(adata.obs_names, dtype="string")
    adata.var.index = pd.Index(adata.var_names, dtype="string")
    before = ad.settings.allow_write_nullable_strings
    ad.settings.allow_write_nullable_strings = True
    try:
        store = open_store(written(adata, tmp_path / "cells.h5ad"))
    finally:
        ad.settings.allow_write_nullable_strings = before
    assert store.obs_names.dtype == store.var_names.dtype == object
    assert store.obs_names.tolist() == list(adata.obs_names)


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_the_old_way_to_keep_sparse_matrices(form, tmp_path):
    adata = as_sparse(counts())
    adata.X = adata.X.asformat(form)
    path = written(adata, tmp_path / "old.h5ad")
    with h5py.File(path, "r+") as file:
        shape = file["X"].attrs["shape"]
        for name in list(file["X"].attrs):
            del file["X"].attrs[name]
        file["X"].attrs["h5sparse_format"], file["X"].attrs["h5sparse_shape"] = form, shape
    if form == "csr":
        np.testing.assert_array_equal(open_store(path).matrix(None).read(0, 100).toarray(), adata.X.toarray())
    else:
        with pytest.raises(DataError, match="is stored as csc_matrix"):
            open_store(path).matrix(None)


def test_capital_letters(tmp_path):
    path = shutil.copy(written(as_sparse(counts()), tmp_path / "cells.h5ad"), tmp_path / "CELLS.H5AD")
    assert open_store(path).shape == (100, 40)


def replaced(name, change):
    def damage(file):
        values = change(file[name][...])
        del file[name]
        file[name] = values

    return damage


def put(value):
    def change(values):
        values[5] = value
        return values

    return change


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (replaced("X/indices", lambda x: x[:-50]), "values are announced"),
        (replaced("X/data", lambda x: x[:-50]), "values are announced"),
        (replaced("X/indptr", lambda x: x[:-5]), "rows don't add up to 100 cells"),
        (replaced("X/indptr", put(10**6)), "rows don't add up to 100 cells"),
        (replaced("X/indices", put(40)), "gene numbers go from 0 to 40, of 40 genes"),
        (replaced("X/indices", put(-1)), "gene numbers go from -1 to 39, of 40 genes"),
    ],
)
def test_damage_is_told(damage, sentence, tmp_path):
    path = written(as_sparse(counts()), tmp_path / "bad.h5ad")
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(DataError, match=rf"bad.h5ad' is damaged: in 'X' .*{sentence}"):
        open_store(path).matrix(None).read(0, 100)


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_damage_in_memory_is_told(form):
    adata = as_sparse(counts())
    adata.X = adata.X.asformat(form)
    adata.X.indices[5] = 1000
    with pytest.raises(DataError, match=r"adata.X is damaged: it has values of .* to 1,000"):
        check(adata)


def test_what_is_kept_by_genes_stops_only_what_needs_it(tmp_path):
    adata = as_sparse(counts())
    by_genes = adata.copy()
    by_genes.X = by_genes.X.tocsc()
    adata.raw, adata.layers["spliced"] = by_genes, by_genes.X
    store = open_store(written(adata, tmp_path / "cells.h5ad"))
    assert store.raw.n_vars == 40
    with pytest.raises(DataError, match=r"'raw/X' in .*raw = adata.raw.to_adata\(\)"):
        _ = store.raw.X
    with pytest.raises(DataError, match=r"adata.layers\['spliced'\].tocsr\(\)"):
        store.matrix("spliced")
    with (
        pytest.warns(UserWarning, match=r"layers\['spliced'\] was left out"),
        pytest.warns(UserWarning, match="adata.raw was left out"),
    ):
        taken = store.take(np.array([3, 1]))
    assert taken.raw is None
    assert not taken.layers
    np.testing.assert_array_equal(taken.X.toarray(), adata.X[[1, 3]].toarray())


@pytest.mark.parametrize("change", ["var_names", "obs", "values", "layers"])
def test_changes_of_a_backed_anndata_are_not_passed_over(change, tmp_path):
    adata = as_sparse(counts())
    adata.obs["type"] = pd.Categorical(["x", None] * 50)
    path = written(adata, tmp_path / "cells.h5ad")
    for mode in ("r", "r+"):
        backed = ad.read_h5ad(path, backed=mode)
        assert open_store(backed).shape == (100, 40)
        if change == "var_names":
            backed.var_names = [f"new{i}" for i in range(40)]
        elif change == "obs":
            backed.obs["new"] = "a"
        elif change == "values":
            backed.obs["type"] = pd.Categorical(["y"] * 100)
        else:
            backed.layers["new"] = adata.X
        with pytest.raises(DataError, match="adata was changed since its file was opened"):
            open_store(backed)
        backed.file.close()
