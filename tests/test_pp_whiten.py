"""Whitened components: unit covariance within types, whatever turns and stretches the input."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from scipy.spatial.distance import pdist

import diffvae as dv
from diffvae.pp import DataError
from diffvae.pp._whiten import whitened


def cells(seed=0, n=600, wide=9) -> ad.AnnData:
    """Return three types in five dimensions that differ in the last; the first two are wide and correlated."""
    rng = np.random.default_rng(seed)
    types = np.array(["red", "green", "blue"])[np.arange(n) % 3]
    x = rng.normal(size=(n, 5)) * [wide, wide / 2, 1, 0.5, 0.5]
    x[:, 1] += x[:, 0]
    x[:, 4] += 3 * (np.arange(n) % 3)
    adata = ad.AnnData(
        rng.random((n, 8)).astype(np.float32), obs=pd.DataFrame({"type": types}, index=map(str, range(n)))
    )
    adata.obsm["X_mine"] = x
    return adata


def test_covariance_within_types_is_the_identity():
    adata = cells(wide=2)
    dv.pp.whiten(adata, "type", use_rep="X_mine")
    y = adata.obsm["X_white"].astype(float)
    residuals = y - pd.DataFrame(y).groupby(adata.obs["type"].to_numpy()).transform("mean").to_numpy()
    # almost: Ledoit-Wolf shrinks S
    assert residuals.T @ residuals / len(y) == pytest.approx(np.eye(5), abs=0.15)
    assert y.mean(axis=0) == pytest.approx(0, abs=1e-5)
    record = adata.uns["diffvae"]["whiten"]
    assert record["n_types"] == 3
    assert record["n_comps"] == 5
    assert 0 < record["shrinkage"] < 0.1


def test_types_lie_further_apart_than_before():
    adata = cells()
    dv.pp.whiten(adata, "type", use_rep="X_mine")

    def ratio(x):
        means = np.stack([x[adata.obs["type"] == t].mean(0) for t in ("red", "green", "blue")])
        return pdist(means).min() / np.median(pdist(x[adata.obs["type"] == "red"]))

    assert ratio(adata.obsm["X_mine"]) < 0.5
    assert ratio(adata.obsm["X_white"]) > 1


def test_rotation_of_the_input_changes_no_distance():
    adata, turned = cells(), cells()
    turned.obsm["X_mine"] = turned.obsm["X_mine"] @ np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0] + 7
    for one in (adata, turned):
        dv.pp.whiten(one, "type", use_rep="X_mine")
    assert pdist(turned.obsm["X_white"]) == pytest.approx(pdist(adata.obsm["X_white"]), rel=1e-3)


def test_a_type_left_out_does_not_enter():
    adata = cells()
    odd = cells()
    blue = (odd.obs["type"] == "blue").to_numpy()
    odd.obsm["X_mine"][blue, 0] *= 30
    for one in (adata, odd):
        dv.pp.whiten(one, "type", use_rep="X_mine", without=["blue"])
    a, b = (one.obsm["X_white"][~blue] for one in (adata, odd))
    assert a - a.mean(0) == pytest.approx(b - b.mean(0), abs=1e-4)
    assert adata.uns["diffvae"]["whiten"]["n_types"] == 2


def test_shrinkage_is_that_of_scikit_learn():
    from sklearn.covariance import LedoitWolf

    x, codes = np.random.default_rng(0).normal(size=(40, 6)) * np.arange(1, 7), np.arange(40) % 2
    y, shrinkage = whitened(x, codes, np.ones(40, bool))
    residuals = x - np.stack([x[codes == c].mean(0) for c in (0, 1)])[codes]
    fitted = LedoitWolf(assume_centered=True).fit(residuals)
    assert shrinkage == pytest.approx(fitted.shrinkage_)
    gaps = x[1:] - x[:-1]
    expected = np.sqrt(np.einsum("ij,jk,ik->i", gaps, np.linalg.inv(fitted.covariance_), gaps))
    assert np.linalg.norm(y[1:] - y[:-1], axis=1) == pytest.approx(expected)


def test_without_labels_clusters_stand_in():
    adata = dv.datasets.simulate_differentiation(400, 150, rng=0)
    dv.pp.prepare(adata)
    copy = dv.pp.whiten(adata, n_comps=10, copy=True)
    assert "X_white" not in adata.obsm
    assert copy.obsm["X_white"].shape == (400, 10)
    record = copy.uns["diffvae"]["whiten"]
    assert record["groupby"] == "leiden"
    assert 2 <= record["n_types"] < 30
    again = dv.pp.whiten(adata, n_comps=10, copy=True)
    assert (again.obsm["X_white"] == copy.obsm["X_white"]).all()


def test_a_constant_dimension_stays_finite():
    adata = cells()
    adata.obsm["X_mine"][:, 3] = 2.0
    dv.pp.whiten(adata, "type", use_rep="X_mine")
    assert np.isfinite(adata.obsm["X_white"]).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"groupby": "kind"}, r"obs\['kind'\] is missing"),
        (
            {"groupby": "type", "without": ["pink"]},
            "without has 'pink', but adata.obs.'type'. has 'blue', 'green', 'red'",
        ),
        ({"without": ["red"]}, "groupby is missing; give their column"),
        ({"groupby": "type", "without": ["red", "green", "blue"]}, "without has every type of adata.obs.'type'."),
        ({"groupby": "type", "without": "red"}, "without is a list of types; write .'red'., not 'red'"),
        ({"n_comps": 51}, "n_comps is 51; it must be a whole number from 1 to 50"),
        ({"use_rep": "X_other"}, r"obsm\['X_other'\] is missing"),
    ],
)
def test_errors_are_sentences(arguments, sentence):
    adata = cells()
    with pytest.raises(ValueError, match=sentence):
        dv.pp.whiten(adata, **{"use_rep": "X_mine", **arguments})
    assert list(adata.obsm) == ["X_mine"]


def test_a_name_of_one_letter_is_no_list():
    adata = cells()
    adata.obs["type"] = adata.obs["type"].str[0]
    with pytest.raises(ValueError, match="without is a list of types"):
        dv.pp.whiten(adata, "type", without="rg", use_rep="X_mine")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("sparse", [False, True])
def test_expression_that_is_not_finite_is_refused(bad, sparse):
    adata = cells()
    adata.X[3, 3] = bad
    adata.X = csr_matrix(adata.X) if sparse else adata.X
    for call in (
        dv.pp.whiten,
        lambda a, key: dv.tl.commitment(a, "red", key),
        lambda a, key: dv.tl.fates(a, "red", key),
    ):
        with pytest.raises(DataError, match=r"adata.X holds NaN or infinite values; diffvae.pp.check\(adata\)"):
            call(adata, "type")


def test_cells_that_do_not_differ_are_refused():
    adata = cells()
    adata.obsm["X_mine"] = (adata.obs["type"] == "red").to_numpy(float)[:, None] * np.ones(3)
    with pytest.raises(DataError, match="Cells of the same type do not differ"):
        dv.pp.whiten(adata, "type", use_rep="X_mine")
