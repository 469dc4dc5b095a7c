"""One file: the forms in which AnnData is kept, and damage said in words."""

import shutil

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from _model_data import counts

from diffvae._store import open_store
from diffvae.pp import DataError, check

pytestmark = pytest.mark.filterwarnings("ignore:.*zarr v2:UserWarning")


def cells():
    adata = counts()
    adata.X = sp.csr_matrix(adata.X)
    return adata


def written(adata, path):
    adata.write_h5ad(path)
    return path


def test_names_that_may_be_missing(tmp_path):
    adata = cells()
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
    adata = cells()
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
        with pytest.raises(DataError, match="is kept as csc_matrix"):
            open_store(path).matrix(None)


def test_capital_letters(tmp_path):
    path = shutil.copy(written(cells(), tmp_path / "cells.h5ad"), tmp_path / "CELLS.H5AD")
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
    path = written(cells(), tmp_path / "bad.h5ad")
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(DataError, match=rf"bad.h5ad' is damaged: in 'X' .*{sentence}"):
        open_store(path).matrix(None).read(0, 100)


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_damage_in_memory_is_told(form):
    adata = cells()
    adata.X = adata.X.asformat(form)
    adata.X.indices[5] = 1000
    with pytest.raises(DataError, match=r"adata.X is damaged: it has values of .* to 1,000"):
        check(adata)


def test_what_is_kept_by_genes_stops_only_what_needs_it(tmp_path):
    adata = cells()
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
    adata = cells()
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
