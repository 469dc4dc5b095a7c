import re
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData, read_h5ad
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffvae._core.io.matrix import blocks, gene_range
from diffvae.pp import DataError, check
from diffvae.pp._check import near_whole, summarise

SHARED = Path(__file__).parents[2] / "shared" / "data"


def counts(n_cells=60, n_genes=40, seed=0, mean=2.0):
    """Counts whose cells differ in depth and whose genes differ in level."""
    rng = np.random.default_rng(seed)
    depth = rng.lognormal(0, 0.5, (n_cells, 1))
    return rng.poisson(depth * rng.gamma(0.7, mean, n_genes) + 0.02).astype(np.float32)


def per(x, total):
    return x / np.maximum(x.sum(axis=1, keepdims=True), 1) * total


def data(x, **kwargs):
    return AnnData(np.asarray(x, dtype=np.float32) if not sp.issparse(x) else x, **kwargs)


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        (counts(), "counts"),
        (counts() + 1e-6, "counts"),
        (counts().astype(bool), "counts"),
        # Counts that somebody got back from ln(1e4 count / total + 1), in float32.
        (np.expm1(np.log1p(per(counts(), 1e4))) / 1e4 * counts().sum(axis=1, keepdims=True), "counts"),
        (per(counts(), 1e6), "normalised"),
        (per(counts(), 1e4), "normalised"),
        (per(counts(200, 300, mean=0.2), 50), "normalised"),
        (counts() * np.random.default_rng(1).gamma(1, 90, 40), "normalised"),
        (np.log1p(per(counts(), 1e4)), "log"),
        (np.log2(1 + per(counts(), 1e6)), "log"),
        (np.log10(1 + per(counts(), 1e4)), "log"),
        (np.round(np.log1p(per(counts(), 1e4)), 3)[:, :20], "log"),
        (np.log2(1 + counts()), "log"),
        (counts() - counts().mean(axis=0), "scaled"),
    ],
)
@pytest.mark.parametrize("form", [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
def test_kinds(x, kind, form):
    x = np.asarray(x, dtype=np.float32)
    dense, other = check(data(x)), check(AnnData(form(x)))
    assert dense.kind == kind
    assert other == dense


def test_estimated_counts_are_normalised_with_a_remark():
    x = counts()
    x[::7] *= 0.93
    report = check(data(x))
    assert report.kind == "normalised"
    assert "estimated or corrected counts" in report.warnings[0]


def test_log_of_counts_is_remarked_on():
    assert "log2(count + 1)" in check(data(np.log2(1 + counts()))).warnings[0]


def test_small_linear_values_are_doubtful_and_the_user_decides():
    x = np.minimum(counts() * np.random.default_rng(0).gamma(0.3, 1.0, (60, 40)), 19.0)
    report = check(data(x))
    assert report.kind == "log"
    assert "kind='normalised'" in report.warnings[0]
    assert check(data(x), kind="normalised").kind == "normalised"


def test_values_in_unit_interval_are_remarked_on():
    x = counts()
    assert "between 0 and 1" in check(data(x / x.max(axis=0).clip(1) * 0.99)).warnings[0]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float32, np.float64])
def test_numbers_of_every_type_are_taken(dtype):
    assert check(AnnData(counts().astype(dtype))).kind == "counts"


def test_report_says_what_it_found():
    x = counts(50, 30) + np.arange(50)[:, None]
    x[:, :3] = 0
    report = check(data(x))
    assert (report.n_cells, report.n_genes, report.n_constant_genes) == (50, 30, 3)
    assert str(report).startswith("50 cells x 30 genes, counts: all values are whole numbers, up to ")
    assert str(report).splitlines()[1] == "Genes that don't vary: 3."


def bad(x, **kwargs):
    return lambda: AnnData(x, **kwargs)


def with_nan():
    x = counts()
    x[3, 5], x[7, 1] = np.nan, np.inf
    return AnnData(sp.csr_matrix(x))


def twice(axis):
    def make():
        adata = data(counts(), obs=pd.DataFrame(index=[f"c{i}" for i in range(60)]))
        if axis == "obs":
            adata.obs_names = ["c0", "c0", *adata.obs_names[2:]]
        return adata

    return make


def scaled(raw=False, layer=False):
    def make():
        adata = data(counts())
        if raw:
            adata.raw = adata.copy()
        if layer:
            adata.layers["counts"] = adata.X.copy()
        adata.X = adata.X - 1
        return adata

    return make


BAD = {
    "no cells": (bad(np.zeros((0, 5), np.float32)), {}, "adata.X is empty: 0 cells x 5 genes"),
    "no genes": (bad(np.zeros((20, 0), np.float32)), {}, "adata.X is empty: 20 cells x 0 genes"),
    "too few cells": (bad(counts(9)), {}, "adata has 9 cells; at least 10"),
    "NaN and infinity": (with_nan, {}, "2 missing or infinite values, the first in cell '3', gene '5'"),
    "objects": (bad(np.array([["a"] * 5] * 20, dtype=object)), {}, "values of type object, not numbers"),
    "complex": (bad(counts() + 1j), {}, "values of type complex64, not numbers"),
    "cells twice": (twice("obs"), {}, "Cell names occur more than once: 'c0'; call adata.obs_names_make_"),
    "no variable gene": (bad(np.ones((20, 5), np.float32)), {}, "No gene varies in adata.X: each of the 5"),
    "all zero": (bad(sp.csr_matrix((20, 5), dtype=np.float32)), {}, "No gene varies in adata.X"),
    "no such layer": (scaled(layer=True), {"layer": "x"}, "adata.layers['x'] is missing; it has the layers 'co"),
    "no layers at all": (bad(counts()), {"layer": "x"}, "adata.layers['x'] is missing; it has no layers."),
    "no X": (lambda: AnnData(obs=pd.DataFrame(index=list("abc"))), {}, "adata.X is missing; it has no layers"),
    "unknown kind": (
        bad(counts()),
        {"kind": "raw"},
        "kind is 'raw'; it must be None or 'counts', 'normal",
    ),
    "counts that are not": (bad(counts() / 3), {"kind": "counts"}, "kind is 'counts', but only "),
    "log that is not": (bad(counts() * 1e3), {"kind": "log"}, "kind is 'log', but adata.X holds values"),
    "negative counts": (scaled(), {"kind": "counts"}, "kind is 'counts', but adata.X has"),
    "not an AnnData": (lambda: pd.DataFrame(counts()), {}, "adata is of type DataFrame; give an AnnData"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses_with_a_sentence(case):
    make, kwargs, message = BAD[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        check(make(), **kwargs)


@pytest.mark.parametrize(
    ("make", "way"),
    [
        (scaled(), "pass counts or log-normalised values instead."),
        (scaled(raw=True), "adata.raw has 40 genes: pass adata.raw.to_adata() instead."),
        (scaled(layer=True), "adata has the layers 'counts': pass layer=... if one holds counts or logs."),
    ],
)
def test_way_out_of_scaled_data(make, way):
    report = check(make())
    assert report.kind == "scaled"
    assert report.warnings[-1].endswith(way)


def test_backed_data_are_refused(tmp_path):
    data(counts()).write_h5ad(tmp_path / "a.h5ad")
    backed = read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(DataError, match=r"to_memory\(\)"):
        check(backed)
    backed.file.close()


def test_odd_things_are_warnings():
    x = counts()
    x[4:6] = 0
    with pytest.warns(UserWarning, match="not unique"):
        adata = data(x, var=pd.DataFrame(index=["A", "A", *map(str, range(38))]))
    report = check(adata)
    assert report.warnings[0].startswith("Gene names occur more than once: 'A'; ")
    assert report.warnings[1].startswith("Cells without any expression: 2; ")
    adata.raw = data(counts(60, 90))
    assert "adata.raw has 90 genes and adata.X 40" in check(adata).warnings[2]


def test_nothing_is_changed():
    x = sp.csr_matrix(counts())
    x.indices = x.indices[::-1].copy()  # unsorted, with duplicates within rows
    adata, before = AnnData(x), x.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(adata)
    assert (adata.X.indices == before.indices).all()
    assert (adata.X.data == before.data).all()


@pytest.mark.parametrize("form", [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix])
def test_pieces_add_up_to_the_whole(form, monkeypatch):
    monkeypatch.setattr("diffvae._core.io.matrix.BLOCK", 50)
    x = counts(23, 17) - 1
    seen = np.zeros_like(x)
    pieces = list(blocks(form(x)))
    for rows, columns, block in pieces:
        seen[rows, columns] += block.toarray() if sp.issparse(block) else block
    assert len(pieces) > 3
    assert (seen == x).all()
    low, high = gene_range(form(x))
    assert (low == x.min(axis=0)).all()
    assert (high == x.max(axis=0)).all()
    summary = summarise(form(x))
    assert (summary.smallest, summary.largest, summary.n_negative) == (-1, x.max(), (x < 0).sum())
    np.testing.assert_allclose(summary.cell_sums, x.sum(axis=1), atol=1e-5)


@given(arrays(np.float64, (12, 4), elements=st.floats(width=32)))
def test_whatever_the_values_the_answer_is_a_report_or_a_sentence(x):
    with suppress(DataError):
        assert check(AnnData(x)).kind in ("counts", "normalised", "log", "scaled")


def test_near_whole_by_hand():
    assert near_whole(np.array([0, 3, 3.0009, 3.002, 4e4 + 0.04, 4e4 + 0.06])).tolist() == [1, 1, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("paul15", "counts"), ("hsmm_myoblast", "normalised")],
)
def test_real_data(name, kind):
    path = SHARED / f"{name}.h5ad"
    if not path.exists():
        pytest.skip(f"{name} is not there")
    adata = read_h5ad(path)
    report = check(adata)
    assert report.kind == kind
    assert report.warnings == ()
    adata.X.data = np.log1p(adata.X.data)
    assert check(adata).kind == "log"


def test_bundled_data_are_logs_rounded_to_three_digits():
    import scanpy as sc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = sc.datasets.pbmc68k_reduced()
    assert check(adata).kind == "scaled"
    report = check(adata.raw.to_adata())
    assert report.kind == "log"
    assert report.warnings == ()
