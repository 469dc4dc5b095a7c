import numpy as np
import pytest
import scanpy as sc

import diffvae as dv
from diffvae.tl._cluster import neighbor_graph


@pytest.fixture(scope="module")
def cells():
    adata = dv.datasets.simulate_differentiation(150, 80)
    dv.pp.prepare(adata)
    return adata


@pytest.fixture(scope="module")
def model(cells):
    return dv.model.DiffVAE(n_latent=5, hidden=(16,)).train(cells, max_epochs=3, progress=False)


def graph(cells, model, **options):
    return dv.tl.neighbors(cells, model, copy=True, **options).obsp["diffvae_connectivities"]


def test_without_noise_it_is_the_graph_of_the_posterior_means(cells, model):
    plain = neighbor_graph(model.get_latent_representation(cells), 0)
    np.testing.assert_array_equal(graph(cells, model, scale=0).toarray(), plain.toarray())


def test_weights_are_means_of_jaccard_indices(cells, model):
    weights = graph(cells, model, n_draws=3)
    assert abs(weights - weights.T).max() < 1e-12
    assert weights.data.min() > 0
    assert weights.data.max() <= 1
    assert weights.diagonal().sum() == 0
    assert weights.nnz > graph(cells, model, scale=0).nnz  # draws add edges


def test_same_seed_same_graph(cells, model):
    assert (graph(cells, model, rng=1) != graph(cells, model, rng=1)).nnz == 0
    assert (graph(cells, model, rng=1) != graph(cells, model, rng=2)).nnz > 0


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


def test_scanpy_takes_the_graph(cells, model):
    adata = dv.tl.neighbors(cells, model, copy=True)
    dv.tl.embed(adata, model)
    sc.tl.leiden(adata, 1.0, neighbors_key="diffvae_neighbors", flavor="igraph", n_iterations=2, directed=False)
    sc.tl.paga(adata, "leiden", neighbors_key="diffvae_neighbors")
    sc.tl.umap(adata, neighbors_key="diffvae_neighbors", maxiter=5)
    assert adata.obs["leiden"].nunique() > 1
    assert adata.obsm["X_umap"].shape == (adata.n_obs, 2)


@pytest.mark.parametrize("option", [{"n_neighbors": 0}, {"n_draws": 0}, {"scale": -1}])
def test_options_out_of_range(cells, model, option):
    with pytest.raises(ValueError, match="it must be"):
        dv.tl.neighbors(cells, model, **option)
