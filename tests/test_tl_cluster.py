"""Clustering: each method, the choice of the number of clusters by stability, and what ``tl.cluster`` writes."""

import functools
import random

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from diffvae import tl
from diffvae._core import graphs
from diffvae.pp import DataError
from diffvae.tl import _cluster

METHODS = ("leiden", "kmeans", "gmm", "dbscan")
NAN = float("nan")


def cells(x) -> ad.AnnData:
    obs = pd.DataFrame(index=[f"cell {i}" for i in range(len(x))])
    return ad.AnnData(obs=obs, obsm={"X_diffvae": np.asarray(x)})


@functools.cache
def blobs(k=3):
    """Round blobs on the corners of a cube, far apart, of different sizes."""
    rng = np.random.default_rng(k)
    corners, sizes = np.array([(0, 0, 0), (6, 0, 0), (0, 6, 0), (6, 6, 6)])[:k], (36, 30, 24, 20)[:k]
    x = np.concatenate([rng.normal(c, 0.5, (n, 3)) for c, n in zip(corners, sizes, strict=True)])
    return x.astype(np.float32), np.repeat(np.arange(k), sizes)


@functools.cache
def auto(method) -> ad.AnnData:
    """Blobs whose number was found, among few candidates; no test may change them."""
    adata = cells(blobs(4)[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cluster, "RESOLUTIONS", (0.1, 0.3, 1.0))
        patch.setattr(_cluster, "MAX_CLUSTERS", 6)
        tl.cluster(adata, method)
    return adata


def record(adata):
    return adata.uns["diffvae"]["cluster"]


# The methods


def test_leiden_separates_components():
    graph = sparse.csr_matrix(np.kron(np.eye(3), np.ones((6, 6)) - np.eye(6)))
    labels = graphs.leiden(graph, 1.0, seed=3)
    assert adjusted_rand_score(np.repeat([0, 1, 2], 6), labels) == 1.0
    assert labels.dtype == np.int64
    assert sorted(set(labels)) == [0, 1, 2]


def test_leiden_with_a_number_bisects_and_takes_the_nearest():
    asked = []

    def communities(resolution):
        asked.append(resolution)
        return np.arange(40) % max(1, int(10 * resolution))  # 10 r communities

    labels, resolution = _cluster.leiden_with(communities, 7)
    assert labels.max() + 1 == 7
    assert 0.7 <= resolution < 0.8
    assert len(asked) < 15
    for number, nearest in ((5, 6), (3, 2)):
        labels, _ = _cluster.leiden_with(lambda r: np.arange(40) % (2 if r < 1 else 6), number)
        assert labels.max() + 1 == nearest


def test_dbscan_by_hand_and_by_its_knee():
    # five cells within 0.4 of each other, one far away
    labels, eps, samples = _cluster.dbscan(np.array([[0.0], [0.1], [0.2], [0.3], [0.4], [9.0]]), 0.5, 3)
    assert labels.tolist() == [0, 0, 0, 0, 0, -1]
    assert (eps, samples) == (0.5, 3)
    for n_dims, expected in ((1, 5), (4, 8), (50, 20)):
        assert _cluster.dbscan(np.random.default_rng(0).normal(size=(40, n_dims)), 1.0, None)[2] == expected
    assert 0.2 < _cluster.dbscan(blobs()[0], None, None)[1] < 4  # between the distances within and between blobs


def test_mixture_bic_prefers_the_truth_whatever_the_unit():
    x, y = blobs()
    for unit in (1.0, 1e-4):
        fits = {k: _cluster.gaussian_mixture(unit * x, k, seed=0, n_init=1) for k in (2, 3, 4)}
        assert min(fits, key=lambda k: fits[k][1]) == 3
        assert adjusted_rand_score(y, fits[3][0]) == 1.0


# The choice by stability


def line(n=20):
    return np.arange(n, dtype=float)[:, None]


def halves(part):
    """Clusterings of points on a line; candidate k cuts it at multiples of 20 / k, whichever cells there are."""
    return lambda k: np.floor(part[:, 0] * k / 20).astype(int)


def test_stability_is_the_mean_agreement_with_subsamples():
    mean, sd = _cluster.stability(halves, line(), [2, 4], np.random.default_rng(0))
    assert (mean.tolist(), sd.tolist()) == ([1, 1], [0, 0])
    chance = np.random.default_rng(1)
    mean, _ = _cluster.stability(
        lambda part: lambda k: chance.integers(k, size=len(part)), line(200), [2, 5], np.random.default_rng(0)
    )
    assert np.abs(mean).max() < 0.1

    def splits_when_complete(part):
        return lambda k: part[:, 0].astype(int) // (5 if len(part) == 20 else 10)

    mean, _ = _cluster.stability(splits_when_complete, line(), [2], np.random.default_rng(0))
    assert mean[0] < 0.7  # though all subsamples agree with each other


def test_agreement_with_the_whole_by_hand():
    # all cells are cut into evens and odds; a subsample into its lower and upper half
    whole, halved = np.arange(20) % 2, np.arange(16) // 8
    mean, sd = _cluster.stability(
        lambda part: lambda k: whole if len(part) == 20 else halved, line(), [2], np.random.default_rng(3)
    )
    rng, by_hand = np.random.default_rng(3), []
    for _ in range(4):
        rows = np.sort(rng.choice(20, 16, replace=False))
        together, halves_ = (np.equal.outer(x, x)[np.triu_indices(16, 1)] for x in (whole[rows], halved))
        expected = together.sum() * halves_.sum() / len(halves_)
        by_hand.append(((together & halves_).sum() - expected) / ((together.sum() + halves_.sum()) / 2 - expected))
    assert mean[0] == pytest.approx(np.mean(by_hand))
    assert sd[0] == pytest.approx(np.std(by_hand))
    assert sd[0] > 0


@pytest.mark.parametrize("piece", range(5))
def test_one_piece_has_no_stability(piece):
    fits = iter(range(100))

    def clustering(part):
        whole = next(fits) == piece  # all cells come first, then four subsamples
        return lambda k: np.zeros(len(part), int) if whole else (part[:, 0] > 9).astype(int)

    assert np.isnan(_cluster.stability(clustering, line(), [2], np.random.default_rng(0))).all()


def test_subsamples_are_four_fifths_and_seeded_and_the_cloud_has_fewer():
    seen = []

    def clustering(part):
        seen.append(part[:, 0].tolist())
        return lambda k: (part[:, 0] > part[:, 0].mean()).astype(int)

    for seed in (0, 0, 1):
        _cluster.stability(clustering, line(), [2], np.random.default_rng(seed))
    assert [len(s) for s in seen] == [20, 16, 16, 16, 16] * 3
    assert seen[:5] == seen[5:10] != seen[10:]
    assert len({tuple(s) for s in seen[1:5]}) == 4
    seen.clear()
    _cluster.choose(clustering, line(), [2], np.random.default_rng(0))
    assert [len(s) for s in seen] == [20, 16, 16, 16, 16, 20, 16, 16]
    assert len({tuple(s) for s in seen if len(s) == 20}) == 2


def choice(monkeypatch, stability, null):
    """Let ``choose`` decide on given stabilities; the null is that of the cloud."""
    answers = iter([(np.array(row, dtype=float), np.zeros(len(row))) for row in (stability, null)])
    monkeypatch.setattr(_cluster, "stability", lambda *args: next(answers))
    chosen, record = _cluster.choose(halves, line(), list(range(2, 2 + len(stability))), np.random.default_rng(0))
    return chosen, record["candidates"]


def test_the_largest_excess_over_the_null_is_chosen(monkeypatch):
    chosen, table = choice(monkeypatch, [0.9, 0.85, 0.8, 0.4], [0.8, 0.7, 0.3, 0.2])
    assert chosen == 4
    assert table["chosen"].tolist() == [False, False, True, False]
    assert table.columns.tolist() == ["candidate", "stability", "sd", "null_stability", "excess", "chosen"]
    assert table["null_stability"].tolist() == pytest.approx([0.8, 0.7, 0.3, 0.2])
    assert table["excess"].tolist() == pytest.approx([0.5, 0.5, 5 / 7, 0.25])


@pytest.mark.parametrize(
    ("stability", "null", "chosen"),
    [
        ([0.9, 0.5, NAN], [NAN, 0.1, NAN], 3),
        ([0.9, 0.5, NAN], [1.0, 0.1, NAN], 3),
        ([1.0, 1.0, 0.5], [0.2, 0.4, 0.1], 3),
        ([0.2, 0.5, NAN], [NAN, NAN, NAN], 3),
        ([NAN, NAN, NAN], [NAN, NAN, NAN], 2),
    ],
)
def test_without_an_excess_stability_decides_and_else_the_coarsest(monkeypatch, stability, null, chosen):
    assert choice(monkeypatch, stability, null)[0] == chosen


def test_another_null_takes_the_place_of_the_cloud():
    seen = []

    def clustering(part):
        seen.append(part[0, 0])
        return lambda k: (part[:, 0] > part[:, 0].mean()).astype(int)

    _cluster.choose(clustering, line(), [2], np.random.default_rng(0), lambda x, rng: x + 1000)
    assert sum(value >= 1000 for value in seen) == 3


def test_the_null_has_the_same_moments_and_no_clusters():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(c, 0.2, (500, 2)) for c in ((0, 0), (5, 5))]).astype(np.float32)
    null = _cluster.structureless(x, rng)
    assert (null.shape, null.dtype) == (x.shape, x.dtype)
    assert null.mean(0) == pytest.approx(x.mean(0), abs=0.3)
    assert np.cov(null.T) == pytest.approx(np.cov(x.T), rel=0.15)
    assert (np.abs(x.mean(1) - 2.5) < 1).mean() == 0  # the blobs leave the middle empty,
    assert (np.abs(null.mean(1) - 2.5) < 1).mean() > 0.2  # the cloud doesn't
    assert _cluster.structureless(line(), rng).shape == (20, 1)
    assert np.isfinite(_cluster.structureless(rng.normal(size=(10, 30)), rng)).all()


# tl.cluster


@pytest.mark.parametrize("method", ["leiden", "kmeans", "gmm"])
def test_given_number_of_separated_blobs(method):
    x, y = blobs(4)
    adata = cells(x)
    tl.cluster(adata, method, n_clusters=4)
    assert adjusted_rand_score(y, adata.obs["diffvae_cluster"]) == 1.0
    # named from the largest to the smallest
    assert adata.obs["diffvae_cluster"].cat.categories.tolist() == ["0", "1", "2", "3"]
    assert adata.obs["diffvae_cluster"].value_counts(sort=False).tolist() == [36, 30, 24, 20]
    assert record(adata)["n_clusters"] == 4
    assert record(adata)["chosen_by"] == "user"
    assert "candidates" not in record(adata)


@pytest.mark.parametrize("method", METHODS)
def test_auto_finds_the_number_and_can_be_written(method, tmp_path):
    adata = auto(method)
    labels = adata.obs["diffvae_cluster"]
    clustered = (labels != "noise").to_numpy()
    assert clustered.mean() > 0.85
    assert adjusted_rand_score(blobs(4)[1][clustered], labels[clustered]) == 1.0
    assert record(adata)["n_clusters"] == 4
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    assert set(record(back)) == set(record(adata))
    assert (back.obs["diffvae_cluster"] == labels).all()


def test_stability_and_its_null_are_reported():
    report = record(auto("kmeans"))
    table = report["candidates"]
    chosen = table[table["chosen"]]
    assert chosen["candidate"].item() == report["n_clusters"]
    assert chosen["stability"].item() == report["stability"] == 1.0
    assert chosen["null_stability"].item() == report["null_stability"] < 0.9
    assert "warning" not in report

    table = record(auto("gmm"))["candidates"]
    assert table.loc[table["chosen"], "candidate"].tolist() == [4]
    assert table.loc[table["bic"].idxmin(), "candidate"] == 4


def test_the_clusters_of_a_cloud_are_cuts_of_one_continuum(monkeypatch):
    monkeypatch.setattr(_cluster, "MAX_CLUSTERS", 6)
    adata = cells(np.random.default_rng(1).normal(size=(120, 4)))
    for method in ("kmeans", "leiden"):
        tl.cluster(adata, method)
        report = record(adata)
        assert report["n_clusters"] > 1
        assert report["n_separated"] == 0
        assert report["warning"].startswith(f"These {report['n_clusters']} clusters are cuts of one continuum")
        assert abs(report["candidates"]["excess"].median()) < 0.4
        assert report["candidates"]["excess"].max() < 0.9  # separate blobs reach 1


def uncertain():
    """Cells on a line, whose posterior is 100 times wider across it than they are."""
    rng = np.random.default_rng(0)
    adata = cells(np.column_stack([rng.uniform(0, 10, 150), np.zeros((150, 2))]).astype(np.float32))
    adata.obsm["X_diffvae_sd"] = np.broadcast_to(np.float32([0, 1, 1]), (150, 3)).copy()
    return adata


def test_leiden_clusters_the_graph_that_it_stores_for_scanpy():
    adata = uncertain()
    tl.cluster(adata, resolution=1.0)
    again = tl.cluster(adata, resolution=1.0, n_draws=0, copy=True)
    assert [record(a)["n_draws"] for a in (adata, again)] == [5, 0]
    assert record(adata)["n_clusters"] < record(again)["n_clusters"]
    for a in (adata, again):
        assert a.uns["diffvae_neighbors"]["params"]["n_draws"] == record(a)["n_draws"]
        graph = a.obsp["diffvae_connectivities"]
        expected = graphs.leiden(graph, 1.0, record(a)["seed"])
        assert adjusted_rand_score(expected, a.obs["diffvae_cluster"]) == 1.0
    assert adata.obsp["diffvae_connectivities"].nnz > again.obsp["diffvae_connectivities"].nnz


def test_subsamples_and_clouds_get_their_graph_in_the_same_way(monkeypatch):
    seen = []
    made = _cluster.posterior_graph
    monkeypatch.setattr(_cluster, "posterior_graph", lambda *a, **k: seen.append((a, k)) or made(*a, **k))
    adata = uncertain()
    tl.cluster(adata)
    assert record(adata)["chosen_by"] == "stability"
    assert [len(a[0]) for a, _ in seen] == [150, *[120] * 4, 150, 120, 120]
    for (mean, sd, *more), options in seen:
        assert mean.shape == sd.shape
        assert (sd == [0, 1, 1]).all()
        assert (more or [options["n_neighbors"], options["n_draws"]]) == [15, 5]
        assert options["rng"] == record(adata)["seed"]


@pytest.mark.parametrize("options", [{}, {"n_neighbors": 8, "n_draws": 3}])
@pytest.mark.parametrize("rng", [0, 1])
def test_neighbors_and_leiden_store_the_same_graph(options, rng):
    adata = uncertain()
    tl.cluster(adata, resolution=1.0, rng=rng, **options)
    alone = tl.neighbors(uncertain(), rng=rng, copy=True, **options)
    for key in ("diffvae_connectivities", "diffvae_distances"):
        assert (adata.obsp[key] != alone.obsp[key]).nnz == 0
    assert adata.uns["diffvae_neighbors"] == alone.uns["diffvae_neighbors"]
    other = tl.neighbors(adata, rng=rng + 2, copy=True, **options)
    assert (adata.obsp["diffvae_connectivities"] != other.obsp["diffvae_connectivities"]).nnz > 0


@pytest.mark.parametrize("method", [m for m in METHODS if m != "leiden"])
def test_other_methods_make_no_posterior_graph(method, monkeypatch):
    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr(_cluster, "posterior_graph", never)
    tl.cluster(uncertain(), method)
    with pytest.raises(AssertionError):
        tl.cluster(uncertain(), "leiden")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *((method, {}) for method in METHODS),
        *((m, {"n_clusters": 3}) for m in METHODS[:3]),
        ("leiden", {"resolution": 1}),
    ],
)
def test_identical_cells_are_one_cluster(method, options):
    for sd in (None, np.ones((50, 3))):
        adata = cells(np.full((50, 3), 2.5))
        if sd is not None:
            adata.obsm["X_diffvae_sd"] = sd
        tl.cluster(adata, method, **options)
        assert adata.obs["diffvae_cluster"].tolist() == ["0"] * 50
        assert record(adata)["n_clusters"] == 1
        assert record(adata)["n_separated"] == 0
        assert record(adata)["warning"].startswith("All cells have the same values in the representation")


def test_other_methods_cluster_the_means():
    adata = uncertain()
    bare = cells(adata.obsm["X_diffvae"])
    for a in (adata, bare):
        tl.cluster(a, "kmeans", n_clusters=4)
        assert not len(a.obsp)
        assert "n_draws" not in record(a)
        assert record(a)["n_neighbors"] == 15  # of the graph on which borders are judged
    assert (adata.obs["diffvae_cluster"] == bare.obs["diffvae_cluster"]).all()


def test_dbscan_names_what_it_leaves_out():
    adata = cells(np.concatenate([blobs()[0], np.full((1, 3), 50.0)]))
    tl.cluster(adata, "dbscan", eps=1.5, min_samples=4)
    labels = adata.obs["diffvae_cluster"]
    assert labels.cat.categories.tolist() == ["0", "1", "2", "noise"]
    assert np.flatnonzero(labels == "noise").tolist() == [len(labels) - 1]
    assert (record(adata)["eps"], record(adata)["min_samples"], record(adata)["n_clusters"]) == (1.5, 4, 3)
    tl.cluster(adata, "dbscan", eps=1e-6)
    assert record(adata)["n_clusters"] == 0
    assert set(adata.obs["diffvae_cluster"]) == {"noise"}


def test_leiden_by_resolution_and_a_number_that_it_can_not_reach(monkeypatch):
    adata = cells(blobs()[0])
    tl.cluster(adata, resolution=0.2)
    coarse = record(adata)["n_clusters"]
    assert record(adata)["resolution"] == 0.2
    tl.cluster(adata, resolution=5.0)
    assert coarse < record(adata)["n_clusters"]
    monkeypatch.setattr(_cluster, "communities", lambda graph, seed: lambda r: np.arange(graph.shape[0]) % 3)
    tl.cluster(adata, n_clusters=5)
    assert record(adata)["n_clusters"] == 3
    assert record(adata)["warning"].startswith("No resolution gives 5 clusters; the nearest number is 3")


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_and_nothing_global_moves(method):
    x = np.random.default_rng(1).normal(size=(60, 3))
    python, numpy_ = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is the point
    options = {"n_clusters": 4} if _cluster.CLUSTERERS[method].takes_k else {}
    runs = []
    for seed in (3, 3, 4, 5, 6):
        adata = cells(x)
        tl.cluster(adata, method, rng=seed, **options)
        runs.append(adata.obs["diffvae_cluster"].tolist())
    assert runs[0] == runs[1]
    assert any(run != runs[0] for run in runs[2:]) == _cluster.CLUSTERERS[method].is_random
    assert random.getstate() == python
    assert (np.random.get_state()[1] == numpy_).all()  # noqa: NPY002 - the global state is the point


def test_auto_is_the_same_for_the_same_seed_and_for_whole_numbers():
    x = np.repeat([[0, 0], [9, 0], [0, 9]], 12, axis=0) + np.random.default_rng(0).integers(0, 3, (36, 2))
    tables = []
    for seed in (0, 0, 1):
        adata = cells(x.astype(np.int32))
        tl.cluster(adata, "kmeans", rng=seed)
        assert record(adata)["n_clusters"] == 3
        tables.append(record(adata)["candidates"])
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0].equals(tables[2])


def test_copy_and_key():
    x, _ = blobs()
    adata = cells(x)
    adata.obsm["X_other"] = x
    other = tl.cluster(adata, "kmeans", n_clusters=3, use_rep="X_other", key_added="mine", copy=True)
    assert not len(adata.obs.columns)
    assert not adata.uns
    assert other.obs["mine"].nunique() == 3
    assert (record(other)["use_rep"], record(other)["key_added"]) == ("X_other", "mine")


def test_a_new_clusterer_needs_its_entry_only(monkeypatch):
    thirds = _cluster.Clusterer("thirds", lambda x, *_: (np.arange(len(x)) % 3, {"chosen_by": "us"}), "us", False)
    monkeypatch.setitem(_cluster.CLUSTERERS, "thirds", thirds)
    monkeypatch.setitem(_cluster.RULES, "method", _cluster.Choice(*_cluster.CLUSTERERS))
    adata = cells(blobs()[0])
    tl.cluster(adata, "thirds")
    assert (record(adata)["n_clusters"], record(adata)["chosen_by"]) == (3, "us")
    with pytest.raises(ValueError, match="n_clusters is 2, but thirds determines the number itself"):
        tl.cluster(adata, "thirds", n_clusters=2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "louvain"}, "method is 'louvain'; it must be 'leiden', 'kmeans', 'gmm' or 'dbscan'"),
        ({"n_clusters": 0}, "n_clusters is 0; it must be 'auto' or a whole number of 1 or more"),
        ({"n_clusters": "many"}, "n_clusters is 'many'"),
        ({"n_clusters": 2.5}, "n_clusters is 2.5"),
        ({"n_clusters": True}, "n_clusters is True"),
        ({"n_clusters": None}, "n_clusters is None"),
        ({"n_clusters": 1000}, "n_clusters is 1000, but there are 90 cells"),
        ({"method": "dbscan", "n_clusters": 3}, "dbscan determines the number itself; leave n_clusters at 'auto'"),
        ({"resolution": 0}, "resolution is 0; it must be None or a number above 0"),
        ({"resolution": 1, "n_clusters": 3}, "n_clusters is 3 and resolution is 1; give only one of them"),
        ({"method": "kmeans", "resolution": 1}, "resolution is 1, but only leiden uses it; leave it out for kmeans"),
        ({"eps": 1}, "eps is 1, but only dbscan uses it; leave it out for leiden"),
        ({"method": "dbscan", "eps": -1}, "eps is -1; it must be None or a number above 0"),
        ({"method": "dbscan", "min_samples": 0}, "min_samples is 0; it must be None or a whole number of 1 or more"),
        ({"n_neighbors": 0}, "n_neighbors is 0"),
        ({"use_rep": "X_diffvae_tsne"}, r"is missing; run diffvae.tl.tsne\(adata\) first"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    adata = cells(blobs()[0])
    with pytest.raises(ValueError, match=sentence):
        tl.cluster(adata, **options)
    assert not len(adata.obs.columns)
    assert not adata.uns


def test_too_few_or_broken_cells_are_refused():
    with pytest.raises(DataError, match="There are only 2 cells; clustering needs at least 3"):
        tl.cluster(cells(np.eye(2)))
    with pytest.raises(DataError, match="NaN or infinite"):
        tl.cluster(cells(np.full((20, 2), np.inf)))
