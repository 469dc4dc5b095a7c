import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData

import diffvae as dv
from diffvae._errors import DataError
from diffvae.tl import _neighbors


@pytest.fixture(scope="module")
def cells():
    adata = dv.datasets.simulate_differentiation(150, 80)
    dv.pp.prepare(adata)
    return adata


@pytest.fixture(scope="module")
def model(cells):
    return dv.model.DiffVAE(n_latent=5, hidden=(16,)).train(cells, max_epochs=3, progress=False)


@pytest.fixture(scope="module")
def embedded(cells, model):
    return dv.tl.embed(cells, model, copy=True)


def graph(adata, **options):
    return dv.tl.neighbors(adata, copy=True, **options).obsp["diffvae_connectivities"]


def test_neighbour_graph_by_hand():
    # on a line: 0 and 1 have each other, 2 has 1, 3 has 2
    graph = _neighbors.posterior_graph(np.array([[0.0], [1.0], [2.1], [4.0]]), None, n_neighbors=1).toarray()
    # neighbourhoods with self: {0,1}, {1,0}, {2,1}, {3,2}; Jaccard of 0-1: 2/2, 1-2: 1/3, 2-3: 1/3
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = 1.0
    expected[1, 2] = expected[2, 1] = expected[2, 3] = expected[3, 2] = 1 / 3
    assert graph == pytest.approx(expected)
    equal = _neighbors.posterior_graph(np.zeros((5, 2)), None)
    assert equal.toarray() == pytest.approx(1 - np.eye(5))  # all are neighbours of all


def test_without_deviations_it_is_the_graph_of_the_means(embedded):
    bare = embedded.copy()
    del bare.obsm["X_diffvae_sd"]
    plain = graph(bare)
    np.testing.assert_array_equal(graph(embedded, scale=0).toarray(), plain.toarray())
    for adata, options, n_draws in ((bare, {}, 0), (embedded, {"scale": 0}, 0), (embedded, {"n_draws": 3}, 3)):
        made = dv.tl.neighbors(adata, copy=True, **options)
        assert made.uns["diffvae_neighbors"]["params"]["n_draws"] == n_draws


def test_a_draw_lies_where_the_deviations_put_it(embedded):
    # the first axis of two groups has no uncertainty, so they never mix; within them the second axis is all noise
    rng = np.random.default_rng(0)
    mean = np.column_stack([np.repeat([0, 100], 50), np.linspace(0, 1, 100)]).astype(np.float32)
    sd = np.column_stack([np.zeros(100), np.full(100, 50.0)]).astype(np.float32)
    drawn = _neighbors.posterior_graph(mean, sd, 5, 20, 0.5, rng)
    assert drawn[:50, 50:].nnz == 0
    plain = _neighbors.posterior_graph(mean, None, 5)
    assert drawn[:50, :50].nnz > 4 * plain[:50, :50].nnz


def test_weights_are_means_of_jaccard_indices(embedded):
    weights = graph(embedded, n_draws=3)
    assert weights.dtype == np.float32
    assert abs(weights - weights.T).max() < 1e-6
    assert weights.data.min() > 0
    assert weights.data.max() <= 1
    assert weights.diagonal().sum() == 0
    assert weights.nnz > graph(embedded, scale=0).nnz  # draws add edges


def test_same_seed_same_graph(embedded):
    assert (graph(embedded, rng=1) != graph(embedded, rng=1)).nnz == 0
    assert (graph(embedded, rng=1) != graph(embedded, rng=2)).nnz > 0


def test_the_posterior_of_a_network_is_that_of_its_encoder(cells, model):
    mean, sd = model.get_posterior(cells)
    np.testing.assert_array_equal(mean, model.get_latent_representation(cells))
    assert sd.min() > 0
    _, none = dv.model.AutoEncoder(n_latent=5, hidden=(16,)).train(cells, max_epochs=1, progress=False).get_posterior()
    assert not none.any()


def test_the_posterior_of_pca_is_that_of_probabilistic_pca(cells):
    model = dv.model.PCA(n_latent=5).train(cells)
    _, sd = model.get_posterior(cells)
    x = np.asarray(cells.layers["unit"].todense())[(cells.obs["diffvae_split"] == "train").to_numpy()]
    variances = np.sort(np.linalg.eigvalsh(np.cov(x.T, bias=True)))[::-1]
    noise = variances[5:].mean()
    np.testing.assert_allclose(sd[0], np.sqrt(noise * (1 - noise / variances[:5])), rtol=1e-3)
    np.testing.assert_array_equal(sd, np.broadcast_to(sd[0], sd.shape))


def test_scanpy_takes_the_graph(embedded):
    adata = dv.tl.neighbors(embedded, copy=True)
    sc.tl.leiden(adata, 1.0, neighbors_key="diffvae_neighbors", flavor="igraph", n_iterations=2, directed=False)
    sc.tl.paga(adata, "leiden", neighbors_key="diffvae_neighbors")
    sc.tl.umap(adata, neighbors_key="diffvae_neighbors", maxiter=5)
    assert adata.obs["leiden"].nunique() > 1
    assert adata.obsm["X_umap"].shape == (adata.n_obs, 2)


@pytest.mark.parametrize("option", [{"n_neighbors": 0}, {"n_draws": 0}, {"scale": -1}])
def test_options_out_of_range(embedded, option):
    with pytest.raises(ValueError, match="it must be"):
        dv.tl.neighbors(embedded, **option)


def test_deviations_of_other_dimensions_are_refused(embedded):
    adata = embedded.copy()
    adata.obsm["X_diffvae_sd"] = adata.obsm["X_diffvae_sd"][:, :2]
    with pytest.raises(DataError, match="does not fit"):
        dv.tl.neighbors(adata)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_cells_are_refused(embedded, n):
    with pytest.raises(DataError, match=f"The number of cells is {n}; a graph of neighbours needs at least 2"):
        dv.tl.neighbors(embedded[:n].copy())
    assert graph(embedded[:2].copy()).nnz == 2


@pytest.fixture(scope="module")
def two_batches():
    """Three types in batches that are far apart; type 2 is missing from batch y."""
    rng = np.random.default_rng(0)
    kind, batch = np.repeat([0, 1, 2], 60), np.tile([0, 1], 90)
    batch[kind == 2] = 0
    z = rng.normal(size=(180, 4)) + np.outer(kind, [6.0, 0, 0, 0])
    z[:, 3] = 15.0 * batch
    adata = AnnData(
        np.zeros((180, 1), np.float32),
    )
    adata.obs["batch"], adata.obs["kind"] = np.array(["x", "y"])[batch], kind
    adata.obsm["X_diffvae"] = z.astype(np.float32)
    return adata


def test_balanced_neighbours_join_batches_but_not_other_types(two_batches):
    kind, batch = (two_batches.obs[name].to_numpy() for name in ("kind", "batch"))
    plain = graph(two_batches, n_neighbors=6).tocoo()
    assert (batch[plain.row] == batch[plain.col]).all()
    made = dv.tl.neighbors(two_batches, n_neighbors=6, balance_by="batch", copy=True)
    balanced = made.obsp["diffvae_connectivities"].tocoo()
    across = batch[balanced.row] != batch[balanced.col]
    assert across.mean() > 0.2
    assert (kind[balanced.row] == kind[balanced.col])[across].mean() > 0.9
    assert (kind[balanced.row[across]] == 2).mean() < 0.05  # they have no partner in the other batch
    assert abs(balanced - balanced.T).max() < 1e-6
    assert 0 < balanced.data.min() < balanced.data.max() <= 1
    nearest = _neighbors.nearest_neighbors(two_batches.obsm["X_diffvae"], 6, 0, (batch == "y").astype(int))
    assert made.obsp["diffvae_distances"].nnz == (nearest >= 0).sum() < nearest.size


def test_weights_of_neighbourhoods_of_different_size_by_hand():
    # 0: {0,1}, 1: {1,0,2}, 2: {2}; 0-1 share {0,1} of {0,1,2}, 1-2 share {2} of {0,1,2}
    weights = _neighbors.shared_neighbor_graph(np.array([[1, -1], [0, 2], [-1, -1]])).toarray()
    assert weights == pytest.approx(np.array([[0, 2 / 3, 0], [2 / 3, 0, 1 / 3], [0, 1 / 3, 0]]))


def test_batches_that_can_not_be_balanced_are_said(two_batches):
    adata = two_batches.copy()
    adata.obs["one"], adata.obs["each"] = "x", adata.obs_names
    adata.obs["gap"] = adata.obs["batch"].where(np.arange(180) > 0)
    adata.obs["small"] = np.where(np.arange(180) < 3, "tiny", "rest")
    for key, message in {
        "one": "has only one batch; leave balance_by out",
        "each": "has 1 cells, but each cell takes 1 neighbours from each of 180 batches",
        "gap": "has 1 cells without a value",
        "small": "Batch 'tiny' of .* has 3 cells, but each cell takes 3 neighbours from each of 2 batches; merge",
        "nothing": "is missing",
    }.items():
        with pytest.raises(DataError, match=message):
            dv.tl.neighbors(adata, n_neighbors=6, balance_by=key)
