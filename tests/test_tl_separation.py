"""Clusters with gaps between them, and cuts of a continuum."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from diffvae import tl
from diffvae._core.graphs import leiden
from diffvae.tl._cluster import kmeans
from diffvae.tl._neighbors import posterior_graph
from diffvae.tl._separation import sentence, separation

N = 600


def spiral(rng):
    t = np.sqrt(rng.uniform(0.05, 1, N)) * 4 * np.pi
    return np.column_stack([t * np.cos(t), t * np.sin(t)]) + rng.normal(0, 0.5, (N, 2))


def branches(rng):
    angle, t = rng.integers(3, size=N) * 2 * np.pi / 3, rng.uniform(0, 10, N)
    return np.column_stack([t * np.cos(angle), t * np.sin(angle)]) + rng.normal(0, 0.6, (N, 2))


def cloud(rng):
    return rng.normal(size=(N, 10))


def moons(rng):
    t, second = rng.uniform(0, np.pi, N), rng.integers(2, size=N)[:, None]
    x = np.where(second, np.column_stack([1 - np.cos(t), 0.5 - np.sin(t)]), np.column_stack([np.cos(t), np.sin(t)]))
    return x + rng.normal(0, 0.06, (N, 2))


def blobs(rng, distance=8.0, n_dims=4):
    return rng.normal(size=(N, n_dims)) + distance / np.sqrt(2) * np.eye(4, n_dims)[np.arange(N) % 4]


def continua(x, labels):
    return separation(posterior_graph(x, None), labels)[1]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [spiral, branches, cloud])
def test_clusters_of_a_continuum_are_its_cuts(shape, seed):
    x = shape(np.random.default_rng(seed))
    for labels in (kmeans(x, 5, seed, 3), leiden(posterior_graph(x, None), 1.0, seed)):
        assert labels.max() >= 4
        assert not continua(x, labels).any()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("distance", "n_dims"), [(8, 4), (6, 4), (6, 10)])
def test_blobs_are_separated_and_their_parts_are_not(distance, n_dims, seed):
    x = blobs(np.random.default_rng(seed), distance, n_dims)
    truth = np.arange(N) % 4
    assert continua(x, truth).tolist() == [0, 1, 2, 3]
    halved = np.where(
        truth == 2, np.where(kmeans(x[truth == 2], 2, seed, 3)[np.cumsum(truth == 2) - 1] == 1, 4, 2), truth
    )
    assert continua(x, halved).tolist() == [0, 1, 2, 3, 2]


@pytest.mark.parametrize("seed", range(3))
def test_two_moons_are_two_continua(seed):
    x = moons(np.random.default_rng(seed))
    labels = leiden(posterior_graph(x, None), 1.0, seed)
    assert labels.max() > 3
    assert continua(x, labels).max() == 1


def test_openness_by_hand():
    # a path of 20 cells: every cut, inside or between clusters, crosses one link
    path = sparse.csr_matrix(np.diag(np.ones(19), 1) + np.diag(np.ones(19), -1))
    openness, continuum = separation(path, np.repeat([0, 1], 10))
    assert openness.tolist() == [1, 1]
    assert continuum.tolist() == [0, 0]
    openness, _ = separation(path, np.repeat([0, 1, 2], [5, 10, 5]))
    assert openness.tolist() == [1, 1, 1]  # the middle has two borders, and so has each cut parallel to them
    middle = path.tolil()
    middle[9, 10] = middle[10, 9] = 0
    cut = sparse.csr_matrix(middle)
    cut.eliminate_zeros()
    assert separation(cut, np.repeat([0, 1], 10))[0].tolist() == [0, 0]
    assert separation(cut, np.repeat([0, 1], 10))[1].tolist() == [0, 1]


def test_cells_without_a_cluster_are_left_out():
    x = blobs(np.random.default_rng(0))
    labels = np.where(np.arange(N) % 4 == 3, -1, np.arange(N) % 4)
    assert continua(x, labels).tolist() == [0, 1, 2]
    assert len(continua(x, np.full(N, -1))) == 0
    assert continua(x, np.zeros(N, dtype=int)).tolist() == [0]


def test_the_sentence_names_the_clusters():
    assert sentence(["0", "1"], np.array([0, 1])) is None
    assert sentence([], np.array([], dtype=int)) is None
    assert sentence(["0", "1", "2"], np.array([0, 0, 0])).startswith("These 3 clusters are cuts of one continuum: ")
    several = sentence(list("01234"), np.array([0, 1, 0, 2, 1]))
    assert several.startswith(
        "Clusters 0 and 2 are cuts of one continuum; clusters 1 and 4 are cuts of one continuum: "
    )
    assert sentence(list("012"), np.array([0, 1, 0])).startswith("Clusters 0 and 2 are cuts of one continuum: ")
    assert sentence(list("0123"), np.array([0, 0, 1, 0])).startswith("Clusters 0, 1 and 3 are cuts")


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        (spiral, {"method": "kmeans", "n_clusters": 5}, "These 5 clusters are cuts of one continuum"),
        (branches, {"method": "leiden"}, "clusters are cuts of one continuum"),
        (branches, {"method": "gmm", "n_clusters": 4}, "These 4 clusters are cuts of one continuum"),
        (blobs, {"method": "kmeans", "n_clusters": 4}, None),
        (blobs, {"method": "leiden", "n_clusters": 4}, None),
        (blobs, {"method": "dbscan", "eps": 2.5}, None),
    ],
)
def test_cluster_records_and_warns(shape, options, said):
    x = shape(np.random.default_rng(0)).astype(np.float32)
    adata = ad.AnnData(obs=pd.DataFrame(index=[f"cell {i}" for i in range(N)]), obsm={"X_diffvae": x})
    tl.cluster(adata, **options)
    record = adata.uns["diffvae"]["cluster"]
    table = record["separation"]
    assert table["cluster"].tolist() == [c for c in adata.obs["diffvae_cluster"].cat.categories if c != "noise"]
    assert record["n_separated"] == table["separated"].sum() == (0 if said else 4)
    assert ("warning" in record) == bool(said)
    if said:
        assert said in record["warning"]
        assert set(table["continuum"]) == {0}
