"""Cells that hold different kinds of values in one matrix."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from diffvae import pp
from diffvae.pp._scales import kinds_of_cells

N, N_GENES = 200, 300
rng = np.random.default_rng(0)
DEPTH = rng.lognormal(0, 0.3, (N, 1))
COUNTS = rng.poisson(rng.lognormal(0, 1.2, N_GENES) * DEPTH).astype(float)


def cp(total, counts=COUNTS):
    return counts / counts.sum(axis=1, keepdims=True) * total


def corrected(counts=COUNTS):
    """Counts without the ambient RNA, which are not whole."""
    return np.where(counts > 0, np.maximum(counts - rng.gamma(2, 0.06, counts.shape), 0), 0)


TPM = np.exp(rng.normal(2, 1.5, (N, N_GENES))) * (rng.random((N, N_GENES)) < 0.4)
KINDS = {
    "counts": COUNTS,
    "CP10k": cp(1e4),
    "CPM": cp(1e6),
    "ln": np.log1p(cp(1e4)),
    "ln of CPM": np.log1p(cp(1e6)),
    "log2": np.log2(1 + cp(1e4)),
    "log10": np.log10(1 + cp(1e4)),
    "ln of counts": np.log1p(COUNTS),
    "ln twice": np.log1p(np.log1p(cp(1e4))),
    "root": np.sqrt(cp(1e4)),
    "corrected": corrected(),
    "ln of TPM": np.log1p(cp(1e6, TPM)),
    "residuals": rng.normal(0, 1, COUNTS.shape),
}
LINEAR = {"counts", "CP10k", "CPM", "corrected"}
FIRST = np.arange(N) < N // 2


def cells(x, **obs):
    names = [f"c{i}" for i in range(len(x))]
    return AnnData(sp.csr_matrix(x.astype("float32")), obs=pd.DataFrame(obs, index=names))


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"ln twice", "root", "residuals"}))
def test_one_kind_is_no_mixture(kind):
    report = pp.check(cells(KINDS[kind]))
    assert not any("different kinds" in warning for warning in report.warnings)


NO_SIGN = {"corrected", "residuals"}
"""Corrected counts have no sign of their own in each cell; negative values are refused anyway."""
SAME = {"ln of CPM", "ln of TPM"}
PAIRS = [(a, b) for a in KINDS for b in KINDS if a < b and not {a, b} <= LINEAR and not NO_SIGN & {a, b}]
PAIRS = [pair for pair in PAIRS if set(pair) != SAME]


@pytest.mark.parametrize("n_genes", [N_GENES, N_GENES // 2])
@pytest.mark.parametrize("pair", PAIRS, ids="|".join)
def test_two_kinds_are_refused_and_the_cells_are_named(pair, n_genes):
    if n_genes < N_GENES and ("ln of TPM" in pair or set(pair) == {"ln", "ln of CPM"}):
        pytest.skip("without all genes these have no total, and TPM are no multiples of a count")
    x = np.where(FIRST[:, None], KINDS[pair[0]], KINDS[pair[1]])[:, :n_genes]
    adata = cells(x, depth=x.sum(axis=1), run=np.where(FIRST, "a", "b"))
    with pytest.raises(pp.DataError, match="different kinds") as refused:
        pp.check(adata)
    message = str(refused.value)
    for words in ("kind=...", "obs['run'] separates", "('c0', 'c1', 'c2'", "('c10"):
        assert words in message or (words == "('c10" and "'c100'" in message)
    assert any("different kinds" in warning for warning in pp.check(adata, kind="normalised").warnings)


def test_unnormalised_and_normalised_counts_become_alike():
    x = np.where(FIRST[:, None], KINDS["counts"], KINDS["CPM"])
    report = pp.check(cells(x))
    assert report.kind == "normalised"
    assert any("makes them alike" in warning for warning in report.warnings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the one above
        mixed = pp.prepare(cells(x), copy=True)
    assert np.allclose(mixed.raw.X.toarray(), np.log1p(cp(1e4)), atol=1e-4)


@pytest.mark.parametrize("kind", ["ln twice", "root"])
def test_scales_that_are_no_single_log_are_refused(kind):
    with pytest.raises(pp.DataError, match=r"logs of logs|square roots"):
        pp.check(cells(KINDS[kind]))


def test_a_few_cells_of_another_kind_are_found():
    x = KINDS["ln"].copy()
    x[7:17] = COUNTS[7:17]
    with pytest.raises(pp.DataError, match=r"whole numbers in 10 \('c7', 'c8', 'c9' and 7 more\)"):
        pp.check(cells(x))


def test_negative_values_in_some_cells_are_named():
    x = np.where(FIRST[:, None], KINDS["counts"], KINDS["residuals"])
    report = pp.check(cells(x))
    assert report.kind == "scaled"
    assert any("negative values in 100 ('c100'" in warning for warning in report.warnings)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    st.integers(0, 10**6), st.floats(0.05, 0.8), st.sampled_from(["counts", "log", "estimated", "fpkm"]),
    st.integers(20, 200), st.integers(20, 400), st.booleans(),
)  # fmt: skip
def test_ordinary_matrices_are_never_called_mixed(seed, sd, kind, n, n_genes, some_genes):
    draw = np.random.default_rng(seed)
    counts = draw.poisson(draw.lognormal(0, 1, n_genes) * draw.lognormal(0, sd, (n, 1))).astype(float)
    x = {
        "counts": counts,
        "log": np.log1p(cp(1e4, counts + 1e-12)),
        "estimated": np.where(draw.random(counts.shape) < 0.2, counts * draw.random(counts.shape) * 2, counts),
        "fpkm": draw.lognormal(1, 1.5, counts.shape) * (draw.random(counts.shape) < 0.5),
    }[kind]
    x = x[:, : max(5, n_genes // 3)] if some_genes else x
    groups = kinds_of_cells(sp.csr_matrix(x)).groups
    assert len({group.scale for group in groups} - {"linear"}) <= 1


def shallow(n=1500, n_genes=100, depth=25):
    """Counts of a small panel."""
    draw = np.random.default_rng(1)
    share = draw.dirichlet(np.full(n_genes, 0.3))
    totals = np.maximum(5, draw.poisson(depth * draw.gamma(4, 0.25, n)))
    return np.array([draw.multinomial(total, share) for total in totals]).astype(float)


@pytest.mark.parametrize("total", [1e4, 100, None])
def test_a_panel_of_few_counts_is_one_kind(total):
    counts = shallow()
    sums = counts.sum(axis=1, keepdims=True)
    report = pp.check(cells(np.log1p(counts / sums * (np.median(sums) if total is None else total))))
    assert report.kind == "log"
    assert not any("different kinds" in warning for warning in report.warnings)


@pytest.mark.parametrize("log", [np.log1p, lambda x: np.log2(x + 1)])
def test_logs_of_few_counts_are_logs_of_counts(log):
    report = pp.check(cells(log(shallow())))
    assert report.kind == "log"
    assert "leaves whole numbers" in report.reason


def test_logs_of_corrected_counts_are_one_kind():
    totals = COUNTS.sum(axis=1, keepdims=True)
    assert "leaves whole numbers" in pp.check(cells(np.log1p(np.round(COUNTS * np.median(totals) / totals)))).reason


def test_few_cells_of_counts_among_many_of_logs_are_named():
    counts = np.tile(COUNTS, (8, 1))
    x = np.log1p(cp(1e4, counts))
    x[:8] = counts[:8]
    with pytest.raises(pp.DataError, match=r"whole numbers in 8 \('c0', 'c1'"):
        pp.check(cells(x))


def test_two_target_sums_are_told_apart_without_all_genes():
    x = np.log1p(np.where(FIRST[:, None], cp(1e4), cp(1e6)))[:, : N_GENES // 2]
    with pytest.raises(pp.DataError, match="different kinds"):
        pp.check(cells(x))


def test_cells_of_two_depths_are_one_kind():
    """A tenth of the depth is a larger unit, but fewer genes as well."""
    draw = np.random.default_rng(2)
    mean = draw.lognormal(0, 1.2, N_GENES)
    counts = draw.poisson(np.where(FIRST[:, None], mean, mean / 12)).astype(float)
    report = pp.check(cells(np.log1p(cp(1e4, counts))[:, : N_GENES // 2]))
    assert not any("different kinds" in warning for warning in report.warnings)
