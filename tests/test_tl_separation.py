"""Clusters with gaps between them, and cuts of a continuum."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from diffvae import tl
from diffvae._core.graphs import leiden
from diffvae.tl._cluster import kmeans
from diffvae.tl._neighbors import nearest_neighbors, posterior_graph
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
    return separation(nearest_neighbors(x), labels)[1]


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
    # each cell has one neighbour, the next on a path: every cut, inside or between clusters, crosses one link
    path = np.append(np.arange(1, 30), 28)[:, None]
    openness, continuum = separation(path, np.repeat([0, 1], 15))
    assert openness.tolist() == [1, 1]
    assert continuum.tolist() == [0, 0]
    openness, _ = separation(path, np.repeat([0, 1, 2], 10))
    assert openness.tolist() == [1, 1, 1]  # the middle has two borders, and so has each cut parallel to them
    cut = path.copy()
    cut[14] = 13
    assert separation(cut, np.repeat([0, 1], 15))[0].tolist() == [0, 0]
    assert separation(cut, np.repeat([0, 1], 15))[1].tolist() == [0, 1]


def test_a_gap_inside_a_cluster_opens_no_border():
    # cluster 0 is two paths without a link between them; only the second touches cluster 1, over one link
    path = np.append(np.arange(1, 40), 38)[:, None]
    path[9] = 8
    openness, continuum = separation(path, np.repeat([0, 1], 20))
    assert openness.tolist() == [1, 1]
    assert continuum.tolist() == [0, 0]
    # both parts touch cluster 1: two links out, and a parallel cut crosses one link in each part
    path[30] = 0
    openness, _ = separation(path, np.repeat([0, 1], 20))
    assert openness[0] == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_cluster_of_two_blobs_is_separated_if_their_borders_are(seed):
    rng = np.random.default_rng(seed)
    places = np.array([[0, 0], [0, 30], [6, 30]])
    x = np.concatenate([rng.normal(size=(200, 2)) + place for place in places])
    openness, continuum = separation(nearest_neighbors(x), np.repeat([0, 0, 1], 200))
    assert 0 < openness.max() < 0.25, openness
    assert continuum.tolist() == [0, 1]
    x = np.concatenate([x[:200], rng.normal(size=(400, 2)) + places[1]])
    halves = np.concatenate([np.zeros(200, dtype=int), (x[200:, 0] > 0).astype(int)])
    assert continua(x, halves).tolist() == [0, 0]  # one half of a cloud and a blob, the other half


def rare(rng, m, distance, *big):
    """Blobs, and m cells far from them; labels."""
    parts = [rng.normal(size=(n, 4)) + 50 * i for i, n in enumerate(big)]
    return np.concatenate([*parts, rng.normal(size=(m, 4)) - distance / 2]), np.repeat(range(len(big) + 1), [*big, m])


@pytest.mark.parametrize("m", [9, 12, 15, 16, 40])
@pytest.mark.parametrize("big", [(300,), (300, 300), (20,)])
@pytest.mark.parametrize("distance", [8, 1000])
def test_rare_cells_far_away_are_separated(m, big, distance):
    for seed in range(3):
        x, labels = rare(np.random.default_rng(seed), m, distance, *big)
        openness, continuum = separation(nearest_neighbors(x), labels)
        assert continuum.tolist() == list(range(len(big) + 1))
        assert openness[-1] < 0.25


@pytest.mark.parametrize("m", [1, 3, 8])
def test_fewer_than_nine_cells_are_not_judged_and_change_nothing(m):
    for distance in (0, 1000):
        x, labels = rare(np.random.default_rng(0), m, distance, 300, 300)
        openness, continuum = separation(nearest_neighbors(x), labels)
        assert np.isnan(openness).tolist() == [False, False, True]
        assert openness[:2].max() < 0.25
        assert continuum.tolist() == [0, 1, 2]


def test_small_cuts_of_a_continuum_are_not_separated():
    judged = separated = 0
    for seed in range(4):
        for shape in (spiral, branches, cloud):
            x = shape(np.random.default_rng(seed))
            openness, continuum = separation(nearest_neighbors(x), kmeans(x, 40, seed, 1))
            judged += (~np.isnan(openness)).sum()
            separated += (~np.isnan(openness) & (np.bincount(continuum)[continuum] == 1)).sum()
    assert judged > 200
    assert separated <= 0.01 * judged


def test_cells_without_a_cluster_are_left_out():
    x = blobs(np.random.default_rng(0))
    labels = np.where(np.arange(N) % 4 == 3, -1, np.arange(N) % 4)
    assert continua(x, labels).tolist() == [0, 1, 2]
    assert len(continua(x, np.full(N, -1))) == 0
    assert continua(x, np.zeros(N, dtype=int)).tolist() == [0]


def said_of(names, continuum, small=()):
    openness = np.where(np.isin(list(names), list(small)), np.nan, 1.0)
    return sentence(list(names), openness, np.array(continuum, dtype=int))


def test_the_sentence_names_the_clusters():
    assert said_of("01", [0, 1]) is None
    assert said_of("", []) is None
    assert said_of("012", [0, 0, 0]).startswith("These 3 clusters are cuts of one continuum: ")
    assert said_of("01234", [0, 1, 0, 2, 1]).startswith(
        "Clusters 0 and 2 are cuts of one continuum; clusters 1 and 4 are cuts of one continuum: "
    )
    assert said_of("012", [0, 1, 0]).startswith("Clusters 0 and 2 are cuts of one continuum: ")
    assert said_of("0123", [0, 0, 1, 0]).startswith("Clusters 0, 1 and 3 are cuts")
    assert said_of("0", [0], "0") is None
    assert said_of("01", [0, 1], "1") == "Cluster 1 is too small to tell whether it is separated (below 9 cells)."
    assert said_of("0123", [0, 0, 1, 2], "23").startswith("Clusters 0 and 1 are cuts of one continuum: ")
    assert said_of("0123", [0, 0, 1, 2], "23").endswith(
        " Clusters 2 and 3 are too small to tell whether they are separated (below 9 cells)."
    )


@pytest.mark.parametrize(("m", "n_separated"), [(8, 0), (12, 2)])
def test_cluster_says_which_clusters_are_too_small(m, n_separated):
    x, _ = rare(np.random.default_rng(0), m, 1000, 300)
    adata = ad.AnnData(obs=pd.DataFrame(index=[f"cell {i}" for i in range(len(x))]), obsm={"X_diffvae": x})
    tl.cluster(adata, "kmeans", n_clusters=2)
    record = adata.uns["diffvae"]["cluster"]
    assert record["n_separated"] == record["separation"]["separated"].sum() == n_separated
    assert record.get("warning", "").startswith("Cluster 1 is too small to tell" if m == 8 else "")
    assert ("warning" in record) == (m == 8)


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
