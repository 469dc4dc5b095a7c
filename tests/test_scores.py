import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from diffvae import metrics
from diffvae._core.components import principal_components
from diffvae.pipeline._scores import score_labels, verdict


def cells(n=60, n_genes=12, n_latent=3) -> ad.AnnData:
    """Three types that the latent tells apart and the expression doesn't; the clusters are the types."""
    rng = np.random.default_rng(0)
    types = np.repeat(["T", "B", "NK"], n // 3)
    clusters = pd.Categorical(np.repeat(["0", "1", "2"], n // 3))
    obs = pd.DataFrame({"type": types, "diffvae_cluster": clusters}, index=[f"cell {i}" for i in range(n)])
    x = rng.uniform(size=(n, n_genes)).astype(np.float32)
    adata = ad.AnnData(x, obs=obs, layers={"unit": x})
    centres = {"T": 0, "B": 5, "NK": 10}
    z = rng.normal(0, 0.3, (n, n_latent)) + np.array([centres[t] for t in types])[:, None]
    adata.obsm["X_diffvae"] = z.astype(np.float32)
    return adata


def value(table, method, name):
    return table[(table["method"] == method) & table["score"].str.startswith(name)].iloc[0]


def test_a_perfect_latent_beside_a_useless_baseline():
    table = score_labels(cells(), "type")
    assert table.columns.tolist() == ["method", "score", "mean", "sd", "n"]
    for name in ("kNN purity", "k-means, k = 3", "clusters: adjusted", "clusters: normalised", "clusters: overlap"):
        assert value(table, "DiffVAE", name)["mean"] == pytest.approx(1)
    assert value(table, "DiffVAE", "silhouette")["mean"] > 0.8
    assert value(table, "PCA", "kNN purity")["mean"] < 0.5
    assert value(table, "PCA", "k-means, k = 3")["mean"] < 0.2
    assert abs(value(table, "null", "clusters: adjusted")["mean"]) < 0.05
    assert 1 / 3 < value(table, "null", "clusters: overlap")["mean"] < 0.55
    assert value(table, "null", "clusters: adjusted")["n"] == 10
    assert value(table, "null", "clusters: adjusted")["sd"] > 0
    assert value(table, "DiffVAE", "k-means, k = 3")["n"] == 10
    assert np.isnan(value(table, "DiffVAE", "kNN purity")["sd"])


def test_numbers_are_those_of_the_metrics():
    adata = cells()
    adata.obs["diffvae_cluster"] = pd.Categorical(["0"] * 30 + ["1"] * 30)
    table = score_labels(adata, "type")
    labels, clusters = adata.obs["type"], adata.obs["diffvae_cluster"].astype(str)
    assert value(table, "DiffVAE", "clusters: adj")["mean"] == metrics.adjusted_rand_index(labels, clusters)
    assert value(table, "DiffVAE", "clusters: over")["mean"] == pytest.approx(2 / 3)


def test_seed():
    first, same, other = (score_labels(cells(), "type", rng=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, same)
    assert not first.equals(other)


def test_cells_without_a_label_are_left_out():
    adata = cells()
    # labels that would ruin every score, were they read as a type of their own
    adata.obs.loc[adata.obs_names[::2], "type"] = None
    table = score_labels(adata, "type")
    assert value(table, "DiffVAE", "clusters: adjusted")["mean"] == 1
    assert value(table, "DiffVAE", "k-means, k = 3")["mean"] == 1


def test_few_labelled_cells_still_get_scores():
    adata = cells()
    adata.obs["diffvae_split"] = ["train", "validation"] * 30
    adata.obs.loc[adata.obs_names[5:55], "type"] = None
    table = score_labels(adata, "type")
    assert not table["score"].str.startswith("kNN").any()  # ten cells have no fifteen neighbours
    assert value(table, "PCA", "k-means")["n"] == 10


def test_baseline_has_no_more_components_than_the_data_allow():
    adata = cells(n_genes=4, n_latent=20)
    table = score_labels(adata, "type")
    assert value(table, "PCA", "silhouette")["mean"] < 0.5


def test_the_baseline_reads_log_expression_not_the_scaled_layer():
    adata = cells()
    told = np.repeat([[3.0, 0, 0], [0, 3, 0], [0, 0, 3]], 20, axis=0)
    adata.X = np.hstack([told, adata.X[:, 3:]]).astype(np.float32)
    for x in (adata.X, sparse.csr_matrix(adata.X)):
        adata.X = x
        assert value(score_labels(adata, "type"), "PCA", "k-means")["mean"] == 1
    assert value(score_labels(adata, "type", layer="unit"), "PCA", "k-means")["mean"] < 0.2


@pytest.mark.parametrize("shape", [(80, 60), (60, 80)])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_the_baseline_is_50_principal_components(shape, form):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    components = principal_components(form(x), 0)
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    assert components.shape == (len(x), 50)
    assert np.abs(components) == pytest.approx(np.abs(u * s)[:, :50], abs=1e-3)


def test_labels_may_be_numbers():
    adata = cells()
    adata.obs["type"] = adata.obs["type"].map({"T": 1, "B": 2, "NK": 10})
    assert value(score_labels(adata, "type"), "DiffVAE", "clusters: adjusted")["mean"] == 1


def test_verdict_names_where_the_baseline_is_as_good():
    rows = [
        *[
            ("DiffVAE", "a", 0.5, 0.01),
            ("PCA", "a", 0.6, 0.01),
            ("DiffVAE", "b", 0.5, np.nan),
            ("PCA", "b", 0.4, np.nan),
        ],
        *[
            ("DiffVAE", "c", 0.5, np.nan),
            ("PCA", "c", 0.5, np.nan),
            ("DiffVAE", "d", 0.5, 0.01),
            ("PCA", "d", 0.47, 0.04),
        ],
        *[("DiffVAE", "e", 0.5, 0.02), ("PCA", "e", 0.47, 0.02)],
        *[("DiffVAE", "clusters", 0.1, np.nan), ("null", "clusters", 0.9, 0.1)],
    ]
    sentences = verdict(pd.DataFrame(rows, columns=["method", "score", "mean", "sd"]))
    assert sentences == [
        "PCA scores at least as well on 'a': 0.600 against 0.500.",
        "PCA scores at least as well on 'c': 0.500 against 0.500.",
        "DiffVAE is no better than PCA on 'd': 0.500 against 0.470, within one standard deviation (0.040) of the "
        "repeats.",
    ]
