"""Preparing cells on disk gives what preparing them in memory gives."""

import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import diffvae as dv
from diffvae import _keys
from diffvae._core.io import backed_matrix, matrix
from diffvae._core.io.backed import open_store
from diffvae._core.io.writer import adata_writer
from diffvae.pp import DataError
from diffvae.pp._normalise import ranking

pytestmark = pytest.mark.filterwarnings("ignore:.*zarr v2:UserWarning")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Cut three hundred cells into many blocks."""
    monkeypatch.setattr(matrix, "BLOCK", 2000)
    monkeypatch.setattr(backed_matrix.BackedMatrix.blocks, "__defaults__", (2000,))
    monkeypatch.setattr(backed_matrix.BackedMatrix.cuts, "__defaults__", (2000,))


def cells(form=sp.csr_matrix, n=300, genes=80):
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.5, 1.0, (4, genes)) * 2
    x = rng.poisson(rates[rng.integers(0, 4, n)]).astype(np.float32)
    x[:, 5] = 0
    adata = AnnData(form(x))
    adata.obs["batch"] = pd.Categorical(rng.choice(["a", "b"], n))
    adata.obs_names = [f"cell{i}" for i in range(n)]
    adata.var_names = [f"gene{i}" for i in range(genes)]
    return adata


def logged(adata):
    import scanpy as sc

    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    del adata.uns["log1p"]
    return adata


def written(adata, path):
    (adata.write_zarr if path.suffix == ".zarr" else adata.write_h5ad)(path)
    return path


def read(path):
    return ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)


def dense(x):
    return x.toarray() if sp.issparse(x) else np.asarray(x)


def assert_same(found, expected):
    pd.testing.assert_frame_equal(found.obs.drop(columns="file", errors="ignore"), expected.obs)
    pd.testing.assert_frame_equal(found.var, expected.var)
    pd.testing.assert_frame_equal(found.raw.var, expected.raw.var)
    np.testing.assert_array_equal(dense(found.X), dense(expected.X))
    np.testing.assert_array_equal(dense(found.raw.X), dense(expected.raw.X))
    assert set(found.layers) == set(expected.layers)
    for name in expected.layers:
        assert sp.issparse(found.layers[name]) == sp.issparse(expected.layers[name])
        np.testing.assert_array_equal(dense(found.layers[name]), dense(expected.layers[name]))
        assert found.layers[name].dtype == expected.layers[name].dtype
    a, b = ({**adata.uns[_keys.UNS]["prepare"]} for adata in (found, expected))
    assert a.pop("validation_clipped_share") == pytest.approx(b.pop("validation_clipped_share"))
    assert list(a.pop("warnings")) == list(b.pop("warnings"))
    assert a == b


CASES = {
    "counts": (cells, {"n_top_genes": 30}),
    "median total": (cells, {"n_top_genes": 30, "target_sum": None}),
    "all genes": (cells, {"n_top_genes": None, "rng": 3}),
    "batches": (cells, {"n_top_genes": 30, "batch_key": "batch"}),
    "dense": (lambda: cells(np.asarray), {"n_top_genes": 30, "validation_size": 0.5}),
    "logs": (lambda: logged(cells()), {"n_top_genes": 30}),
    "no validation": (cells, {"validation_size": 0.0}),
}


@pytest.mark.parametrize("case", CASES)
def test_as_in_memory(case, tmp_path):
    make, options = CASES[case]
    expected = dv.pp.prepare(make(), copy=True, **options)
    out = tmp_path / "prepared.h5ad"
    assert dv.pp.prepare(written(make(), tmp_path / "cells.h5ad"), out=out, **options) == out
    assert_same(read(out), expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.h5ad", "prepared.h5ad"]
    with h5py.File(out) as file:
        assert file["layers/unit"].attrs["encoding-type"] in ("csr_matrix", "array")


def test_shards_and_zarr_as_the_whole_in_memory(tmp_path):
    a, b = cells()[:120].copy(), cells()[120:, ::-1].copy()
    a.write_h5ad(tmp_path / "a.h5ad")
    b.write_zarr(tmp_path / "b.zarr")
    out = tmp_path / "prepared.zarr"
    dv.pp.prepare([tmp_path / "a.h5ad", tmp_path / "b.zarr"], out=out, n_top_genes=30)
    assert_same(read(out), dv.pp.prepare(cells(), n_top_genes=30, copy=True))


def test_names_that_occur_twice_and_raw_that_has_more_genes(tmp_path):
    adata = logged(cells())
    adata.raw = adata.copy()
    adata = adata[:, :50].copy()
    expected = dv.pp.prepare(adata, n_top_genes=20, copy=True)
    assert expected.raw.n_vars == 80
    dv.pp.prepare(written(adata, tmp_path / "raw.h5ad"), out=tmp_path / "a.h5ad", n_top_genes=20)
    assert_same(read(tmp_path / "a.h5ad"), expected)
    twice = cells()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twice.var_names = ["gene0", *twice.var_names[:-1]]
        expected = dv.pp.prepare(twice, n_top_genes=20, copy=True)
        dv.pp.prepare(written(twice, tmp_path / "twice.h5ad"), out=tmp_path / "b.h5ad", n_top_genes=20)
    assert_same(read(tmp_path / "b.h5ad"), expected)


def test_prepared_file_trains_as_prepared_cells(tmp_path):
    options = {"max_epochs": 2, "progress": False, "precision": "float32"}
    out = dv.pp.prepare(written(cells(), tmp_path / "cells.h5ad"), out=tmp_path / "p.h5ad", n_top_genes=30)
    expected = dv.model.DiffVAE(n_latent=3, hidden=(8,)).train(
        dv.pp.prepare(cells(), n_top_genes=30, copy=True), **options
    )
    found = dv.model.DiffVAE(n_latent=3, hidden=(8,)).train(out, **options)
    pd.testing.assert_frame_equal(found.history, expected.history)


def test_refused_before_anything_is_written(tmp_path):
    path, out = written(cells(), tmp_path / "cells.h5ad"), tmp_path / "out.h5ad"
    scaled = cells(np.asarray)
    scaled.X = scaled.X - 1
    written(scaled, tmp_path / "scaled.h5ad")
    prepared = dv.pp.prepare(path, out=tmp_path / "prepared.h5ad")
    for source, options, sentence in (
        (path, {}, "name the prepared file to write"),
        (path, {"out": tmp_path / "out.csv"}, r"written as \.h5ad or \.zarr"),
        (path, {"out": path}, "is there already"),
        (tmp_path / "scaled.h5ad", {"out": out}, "negative values"),
        (prepared, {"out": out}, "has been prepared already"),
        (path, {"out": out, "batch_key": "donor"}, "no column 'donor'"),
        (path, {"out": out, "validation_size": 1.0}, "validation_size is 1.0"),
        (cells(), {"out": out}, "out is for cells on disk"),
    ):
        with pytest.raises(ValueError, match=sentence):
            dv.pp.prepare(source, **options)
    assert not out.exists()
    assert len(list(tmp_path.iterdir())) == 3


def test_failure_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    from diffvae._core.io.writer import AnnDataWriter

    original, calls = AnnDataWriter.append, []

    def fail(self, key, block):
        calls.append(key)
        if len(calls) > 6:
            raise OSError("the disk is full")
        original(self, key, block)

    monkeypatch.setattr(AnnDataWriter, "append", fail)
    for name in ("p.h5ad", "p.zarr"):
        calls.clear()
        with pytest.raises(OSError, match="disk is full"):
            dv.pp.prepare(written(cells(), tmp_path / "cells.h5ad"), out=tmp_path / name)
        assert [p.name for p in tmp_path.iterdir()] == ["cells.h5ad"]


@pytest.mark.parametrize("form", [sp.csr_matrix, np.asarray])
@pytest.mark.parametrize("n_batches", [1, 2, 7])
def test_variable_genes_are_ranked_as_by_scanpy(tmp_path, form, n_batches):
    import scanpy as sc

    adata = logged(cells(form, n=400, genes=300))
    rng = np.random.default_rng(1)
    batch = rng.integers(0, n_batches, adata.n_obs)
    x = dense(adata.X)
    x[np.ix_(batch == 0, np.arange(40, 60))] = 0  # genes that one batch lacks
    adata.X = form(x)
    adata.obs["batch"] = pd.Categorical([f"b{i}" for i in batch])
    genes = np.setdiff1d(np.arange(300), [5, 7])
    found = ranking(open_store(written(adata, tmp_path / "cells.h5ad")).matrix(None), genes, batch, 50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sc.pp.highly_variable_genes(
            adata[:, genes], n_top_genes=50, batch_key="batch" if n_batches > 1 else None, inplace=False
        )
    for column in ("dispersions", "dispersions_norm", "highly_variable_nbatches"):
        if column in expected:
            np.testing.assert_allclose(found[column], expected[column].to_numpy(), rtol=1e-5, atol=1e-6)
    if n_batches == 1:
        assert (found["highly_variable"].to_numpy() == expected["highly_variable"].to_numpy()).all()


def test_four_passes_whatever_the_number_of_batches(tmp_path, monkeypatch):
    adata, passes, blocks = cells(n=600), [], backed_matrix.BackedMatrix.blocks
    monkeypatch.setattr(
        backed_matrix.BackedMatrix, "blocks", lambda self, *args: passes.append(self) or blocks(self, *args)
    )
    adata.obs["batch"] = pd.Categorical([f"b{i % 20}" for i in range(600)])
    dv.pp.prepare(written(adata, tmp_path / "cells.h5ad"), out=tmp_path / "p.h5ad", n_top_genes=30, batch_key="batch")
    assert len(passes) == 4


def test_wide_dense_cells_are_compressed_in_small_pieces(tmp_path):
    for genes, rows in ((100, 128), (30_000, 8)):
        with adata_writer(tmp_path / f"{genes}.h5ad", AnnData(shape=(2, genes))) as file:
            file.append("X", np.zeros((2, genes), np.float32))
        with h5py.File(tmp_path / f"{genes}.h5ad") as file:
            assert file["X"].chunks == (rows, genes)


def test_a_batch_that_is_not_there_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    path = written(cells(), tmp_path / "cells.h5ad")
    monkeypatch.setattr(backed_matrix.BackedMatrix, "blocks", lambda *_: pytest.fail("was read"))
    with pytest.raises(DataError, match="no column 'donor'"):
        dv.pp.prepare(path, out=tmp_path / "p.h5ad", batch_key="donor")
