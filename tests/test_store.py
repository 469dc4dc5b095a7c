"""Cells on disk: training and embedding as in memory, shards put together, and what can't be read said in words."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from _model_data import N_LATENT, QUICK, TINY, counts, prepared, trained

from diffvae import _keys
from diffvae._store import open_store
from diffvae.model import PCA, VAE, CellStateClassifier, DiffVAE
from diffvae.pp import DataError
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


@pytest.mark.parametrize("form", [lambda adata: adata, as_sparse], ids=["dense", "sparse"])
@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
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
    options = {**QUICK, "max_epochs": 30, "lr": 5e-3}
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
        "CSC": (written(by_genes, tmp_path / "csc.h5ad"), "is kept as csc_matrix, of which rows can't be read"),
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
