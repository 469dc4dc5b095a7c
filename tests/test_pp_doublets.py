"""Doublet scores: the equation, what they find, and what is refused."""

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from diffvae.pp import doublet_score
from diffvae.pp._doublets import likelihood


def cells(n=150, n_doublets=30, n_genes=120, seed=0):
    """Two types with 40 genes each, and doublets of the two at the end."""
    rng = np.random.default_rng(seed)
    rate = np.full((2, n_genes), 0.5)
    rate[0, :40] = rate[1, 40:80] = 4.0
    types = np.repeat([0, 1], n)
    counts = rng.poisson(rate[types])
    first, second = rng.choice(n, n_doublets), n + rng.choice(n, n_doublets)
    return AnnData(sp.csr_matrix(np.vstack([counts, counts[first] + counts[second]]).astype(np.float32)))


def test_equation_worked_by_hand():
    # q = (5 + 1) / (8 + 2) = .6; .6 * .1 / 2 / (1 - .1 - .6 * (1 - .1 - .1 / 2)) = .03 / .39
    assert likelihood(np.array([5]), np.array([8]), 0.1, 2.0)[0] == pytest.approx(0.03 / 0.39)
    # where simulated cells are as frequent as everywhere (r of 1 + r), the score is the expected rate
    many = 10**9
    assert likelihood(np.array([2 * many]), np.array([3 * many]), 0.06, 2.0)[0] == pytest.approx(0.06, rel=1e-6)


def test_doublets_of_two_types_score_higher_than_cells():
    adata = cells()
    doublet_score(adata, layer=None)
    score = adata.obs["diffvae_doublet_score"].to_numpy()
    assert (score[300:, None] > score[None, :300]).mean() > 0.97
    assert ((score > 0) & (score < 1)).all()
    stored = adata.uns["diffvae"]["doublets"]
    assert stored["layer"] == "X"
    assert np.median(score[:300]) < 0.5 * stored["mean_of_simulated"] < np.median(score[300:])


def test_cells_without_counts_have_no_score_and_a_copy_leaves_the_input():
    adata = cells()
    adata.X = sp.csr_matrix(adata.X.toarray() * (np.arange(adata.n_obs) > 4)[:, None])
    adata.layers["counts"] = adata.X.toarray()
    scored = doublet_score(adata, copy=True, key_added="score")
    assert "score" not in adata.obs
    assert scored.obs["score"].isna().sum() == 5
    assert scored.obs["score"].isna().head(5).all()


def test_same_seed_same_scores():
    a, b, c = (doublet_score(cells(), layer=None, rng=seed, copy=True) for seed in (0, 0, 1))
    key = "diffvae_doublet_score"
    np.testing.assert_array_equal(a.obs[key], b.obs[key])
    assert (a.obs[key] != c.obs[key]).any()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda a: a, {}, r"adata.layers\['counts'\] is missing"),
        (lambda a: AnnData(a.X * 0.3), {"layer": None}, "other values than counts"),
        (lambda a: AnnData(-a.X), {"layer": None}, "other values than counts"),
        (lambda a: a[:15].copy(), {"layer": None}, "15 cells with counts; doublet scores need 20"),
        (lambda a: a, {"layer": None, "expected_rate": 0.0}, "expected_rate is 0.0"),
        (lambda a: a, {"layer": None, "n_comps": 0}, "n_comps is 0"),
    ],
)
def test_refusals(change, options, message):
    adata = change(cells())
    with pytest.raises(ValueError, match=message):
        doublet_score(adata, **options)
    assert "diffvae_doublet_score" not in adata.obs


def test_samples_are_scored_apart_and_small_integers_do_not_overflow():
    rng = np.random.default_rng(0)
    counts = rng.poisson(60, (300, 40))
    wide, narrow = (AnnData(counts.astype(kind)) for kind in (np.float32, np.uint8))
    for cells in (wide, narrow):
        cells.obs["sample"] = np.repeat(["a", "b", "few"], [150, 140, 10])
        doublet_score(cells, layer=None, batch_key="sample")
    np.testing.assert_array_equal(wide.obs["diffvae_doublet_score"], narrow.obs["diffvae_doublet_score"])
    assert wide.obs["diffvae_doublet_score"].isna().tolist() == [False] * 290 + [True] * 10
    alone = wide[:150].copy()
    doublet_score(alone, layer=None)
    np.testing.assert_array_equal(alone.obs["diffvae_doublet_score"], wide.obs["diffvae_doublet_score"][:150])
    assert wide.obs["diffvae_doublet_score_high"].dtype == bool
