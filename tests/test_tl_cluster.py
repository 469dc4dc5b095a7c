import random

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from diffvae import tl
from diffvae.pp import DataError
from diffvae.tl import _cluster

SIZES = {3: (36, 30, 24), 4: (36, 32, 28, 24)}


def cells(x) -> ad.AnnData:
    obs = pd.DataFrame(index=[f"cell {i}" for i in range(len(x))])
    return ad.AnnData(obs=obs, obsm={"X_diffvae": np.asarray(x)})


def blobs(k):
    """Round blobs on the corners of a square, far apart, of different sizes."""
    rng = np.random.default_rng(k)
    corners = np.array([(0, 0, 0), (6, 0, 0), (0, 6, 0), (6, 6, 6)])[:k]
    x = np.concatenate([rng.normal(c, 0.5, (n, 3)) for c, n in zip(corners, SIZES[k], strict=True)])
    return x.astype(np.float32), np.repeat(np.arange(k), SIZES[k])


def found(adata):
    return adata.uns["diffvae"]["cluster"]


@pytest.mark.parametrize("method", ["leiden", "kmeans", "gmm"])
def test_given_number_of_separated_blobs(method):
    x, y = blobs(4)
    adata = cells(x)
    tl.cluster(adata, method, n_clusters=4)
    assert adjusted_rand_score(y, adata.obs["diffvae_cluster"]) == 1.0
    # named from the largest to the smallest
    assert adata.obs["diffvae_cluster"].cat.categories.tolist() == ["0", "1", "2", "3"]
    assert adata.obs["diffvae_cluster"].value_counts(sort=False).tolist() == [36, 32, 28, 24]
    assert found(adata)["n_clusters"] == 4
    assert found(adata)["chosen_by"] == "user"
    assert "candidates" not in found(adata)


@pytest.mark.parametrize("method", ["leiden", "kmeans", "gmm", "dbscan"])
@pytest.mark.parametrize("k", [3, 4])
def test_auto_finds_the_number(method, k):
    x, y = blobs(k)
    adata = cells(x)
    tl.cluster(adata, method)
    labels = adata.obs["diffvae_cluster"]
    kept = (labels != "noise").to_numpy()
    assert kept.mean() > 0.9
    assert adjusted_rand_score(y[kept], labels[kept]) == 1.0
    assert found(adata)["n_clusters"] == k


@pytest.mark.parametrize(("method", "steers"), [("leiden", "resolution"), ("kmeans", "n_clusters")])
def test_stability_and_its_null_are_reported(method, steers):
    x, _ = blobs(4)
    adata = cells(x)
    tl.cluster(adata, method)
    report = found(adata)
    table = report["candidates"]
    chosen = table[table["chosen"]]
    assert len(chosen) == 1
    assert chosen["candidate"].item() == report[steers]
    assert chosen["stability"].item() == report["stability"] == 1.0
    assert chosen["null_stability"].item() == report["null_stability"]
    assert report["null_stability"] < 0.9
    assert report["p_value"] == pytest.approx(1 / 9)
    assert "warning" not in report


@pytest.mark.parametrize("method", ["leiden", "kmeans"])
def test_the_choice_on_a_cloud_without_clusters_is_a_warning(method):
    # of nine such clouds one is expected to exceed its eight nulls; this one doesn't
    adata = cells(np.random.default_rng(1).normal(size=(120, 4)))
    tl.cluster(adata, method)
    report = found(adata)
    assert report["n_clusters"] > 1
    assert report["p_value"] > 0.2
    assert report["warning"].startswith("The clusters are no more stable than the best that the same choice finds")
    assert abs(report["candidates"]["excess"].median()) < 0.25
    assert report["candidates"]["excess"].max() < 0.9  # separate blobs reach 1


def test_only_more_than_every_cloud_is_enough():
    table = pd.DataFrame({"candidate": [2, 3], "stability": [0.9, 0.6], "null_stability": [0.2, 0.6]})
    good = _cluster._report(table.assign(chosen=[True, False]), 1 / 9)
    assert (good["stability"], good["null_stability"], good["p_value"]) == (0.9, 0.2, 1 / 9)
    assert good["chosen_by"] == "stability"
    assert "warning" not in good
    for p_value in (2 / 9, float("nan")):
        bad = _cluster._report(table.assign(chosen=[False, True]), p_value)
        assert f"(stability 0.60, clouds 0.60 on average; p = {p_value:.2f}): they may cut" in bad["warning"]


def test_mixture_chooses_by_bic():
    x, _ = blobs(3)
    adata = cells(x)
    tl.cluster(adata, "gmm")
    table = found(adata)["candidates"]
    assert found(adata)["chosen_by"] == "bic"
    assert table.loc[table["bic"].idxmin(), "candidate"] == 3
    assert table.loc[table["chosen"], "candidate"].tolist() == [3]


def test_dbscan_names_what_it_leaves_out():
    x, _ = blobs(3)
    adata = cells(np.concatenate([x, np.full((1, 3), 50.0)]))
    tl.cluster(adata, "dbscan", eps=1.5, min_samples=4)
    labels = adata.obs["diffvae_cluster"]
    assert labels.cat.categories.tolist() == ["0", "1", "2", "noise"]
    assert labels.iloc[-1] == "noise"
    assert (labels == "noise").sum() == 1
    assert (found(adata)["eps"], found(adata)["min_samples"], found(adata)["n_clusters"]) == (1.5, 4, 3)
    tl.cluster(adata, "dbscan", eps=1e-6)
    assert found(adata)["n_clusters"] == 0
    assert set(adata.obs["diffvae_cluster"]) == {"noise"}


def test_leiden_by_resolution():
    x, _ = blobs(4)
    adata = cells(x)
    tl.cluster(adata, resolution=0.2)
    coarse = found(adata)["n_clusters"]
    assert found(adata)["resolution"] == 0.2
    tl.cluster(adata, resolution=5.0)
    assert coarse < found(adata)["n_clusters"]


def test_a_number_that_leiden_can_not_reach_is_said(monkeypatch):
    x, _ = blobs(3)
    adata = cells(x)
    monkeypatch.setattr(_cluster._partitions, "leiden", lambda graph, r, seed: np.arange(graph.shape[0]) % 3)
    tl.cluster(adata, n_clusters=5)
    assert found(adata)["n_clusters"] == 3
    assert found(adata)["warning"].startswith("No resolution gives 5 clusters, 3 is the nearest number")


@pytest.mark.parametrize("method", ["leiden", "kmeans", "gmm", "dbscan"])
def test_the_seed_decides_and_nothing_global_moves(method):
    x = np.random.default_rng(1).normal(size=(60, 3))
    python, numpy_ = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is the point
    options = {} if method == "dbscan" else {"n_clusters": 4}
    runs = []
    for _ in range(2):
        adata = cells(x)
        tl.cluster(adata, method, rng=3, **options)
        runs.append(adata.obs["diffvae_cluster"].tolist())
    assert runs[0] == runs[1]
    assert random.getstate() == python
    assert (np.random.get_state()[1] == numpy_).all()  # noqa: NPY002 - the global state is the point


def test_auto_is_the_same_for_the_same_seed():
    x = np.random.default_rng(1).normal(size=(40, 3))
    tables = []
    for seed in (0, 0, 1):
        adata = cells(x)
        tl.cluster(adata, "kmeans", rng=seed)
        tables.append(found(adata)["candidates"])
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0].equals(tables[2])


def test_whole_numbers_are_clustered_as_numbers():
    x = np.repeat([[0, 0], [9, 0], [0, 9]], 20, axis=0) + np.random.default_rng(0).integers(0, 3, (60, 2))
    adata = cells(x.astype(np.int32))
    tl.cluster(adata, "kmeans")
    assert found(adata)["n_clusters"] == 3


def test_copy_and_key():
    x, _ = blobs(3)
    adata = cells(x)
    adata.obsm["X_other"] = x
    other = tl.cluster(adata, "kmeans", n_clusters=3, use_rep="X_other", key_added="mine", copy=True)
    assert not len(adata.obs.columns)
    assert not adata.uns
    assert other.obs["mine"].nunique() == 3
    assert (found(other)["use_rep"], found(other)["key_added"]) == ("X_other", "mine")


def test_everything_can_be_written(tmp_path):
    x, _ = blobs(3)
    for method in ("leiden", "kmeans", "gmm", "dbscan"):
        adata = cells(x[::2])
        tl.cluster(adata, method)
        adata.write_h5ad(tmp_path / "a.h5ad")
        back = ad.read_h5ad(tmp_path / "a.h5ad")
        assert set(found(back)) == set(found(adata))
        assert (back.obs["diffvae_cluster"] == adata.obs["diffvae_cluster"]).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "louvain"}, "method is 'louvain'; it is one of leiden, kmeans, gmm, dbscan"),
        ({"n_clusters": 0}, "n_clusters is 0; it is 'auto' or a positive integer"),
        ({"n_clusters": "many"}, "n_clusters is 'many'"),
        ({"n_clusters": 2.5}, "n_clusters is 2.5"),
        ({"n_clusters": True}, "n_clusters is True"),
        ({"n_clusters": None}, "n_clusters is None"),
        ({"n_clusters": 1000}, "n_clusters is 1000, but there are 90 cells"),
        ({"method": "dbscan", "n_clusters": 3}, "DBSCAN finds the number itself; leave it at 'auto'"),
        ({"resolution": 0}, "resolution is 0; it must be positive"),
        ({"resolution": 1, "n_clusters": 3}, "exclude each other"),
        ({"method": "kmeans", "resolution": 1}, "resolution is 1, but kmeans has none; it belongs to leiden"),
        ({"eps": 1}, "eps is 1, but leiden has none; it belongs to dbscan"),
        ({"method": "dbscan", "eps": -1}, "eps is -1; it must be positive"),
        ({"method": "dbscan", "min_samples": 0}, "min_samples is 0; it must be positive"),
        ({"n_neighbors": 0}, "n_neighbors is 0"),
        ({"use_rep": "X_diffvae_tsne"}, r"is missing; run diffvae.tl.tsne\(adata\) first"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    adata = cells(blobs(3)[0])
    with pytest.raises(ValueError, match=sentence):
        tl.cluster(adata, **options)
    assert not len(adata.obs.columns)
    assert not adata.uns


def test_too_few_or_broken_cells_are_refused():
    with pytest.raises(DataError, match="Clusters of 2 cells say nothing; 3 are the least"):
        tl.cluster(cells(np.eye(2)))
    with pytest.raises(DataError, match="NaN or infinite"):
        tl.cluster(cells(np.full((20, 2), np.inf)))
