"""Batches that nobody named are noticed; random columns, biology and identifiers are not."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from diffvae import tl
from diffvae._core.runtime import StepLog
from diffvae._errors import DataError
from diffvae.pipeline._identify import notice_batches
from diffvae.tl._batches import candidates, crossing_types, sentence

N = 400


def cells(shift=0.0, seed=0, n=N, **columns):
    """Return cells of three types in two batches that are ``shift`` standard deviations apart in dimension 2."""
    rng = np.random.default_rng(seed)
    types, batch = rng.integers(3, size=n), rng.integers(2, size=n)
    z = rng.normal(size=(n, 5))
    z[:, 0] += 6 * types
    z[:, 2] += shift * batch
    obs = pd.DataFrame({"cell_type": np.array(["a", "b", "c"])[types], "batch": np.array(["x", "y"])[batch], **columns})
    adata = ad.AnnData(np.zeros((n, 1), np.float32), obs=obs.set_index(obs.index.astype(str)))
    adata.obsm["X_diffvae"] = z.astype(np.float32)
    return adata


def row(adata, key="batch", **options):
    return tl.batch_association(adata, keys=key, copy=True, **options).iloc[0]


def test_the_numbers_are_those_of_the_equations():
    adata = cells(shift=3)
    z, batch = adata.obsm["X_diffvae"].astype(float), adata.obs["batch"].to_numpy()
    total = np.square(z - z.mean(0)).sum(0)
    within = sum(np.square(z[batch == b] - z[batch == b].mean(0)).sum(0) for b in "xy")
    distance = np.linalg.norm(z[:, None] - z, axis=2) + 1e9 * np.eye(N)
    near = np.argsort(distance, axis=1)[:, :15]
    found = row(adata)
    assert found["share"] == pytest.approx(1 - within.sum() / total.sum(), rel=1e-4)
    assert found["own"] == pytest.approx((batch[near] == batch[:, None]).mean(), abs=1e-9)
    assert found["dimension"] == 2
    assert found["dimension_share"] == pytest.approx(1 - within[2] / total[2], rel=1e-4)
    sizes = np.array([(batch == b).sum() for b in "xy"])
    assert found["null_own"] == pytest.approx((sizes * (sizes - 1)).sum() / N / (N - 1), abs=0.01)
    assert 0 < found["null_share"] < 0.01
    assert found["excess_own"] == pytest.approx((found["own"] - found["null_own"]) / (1 - found["null_own"]))
    assert found["clear"]


def test_random_batches_give_no_alarm():
    found = [row(cells(seed=seed), label_key=label) for seed in range(20) for label in (None, "cell_type")]
    assert not any(f["clear"] for f in found)
    assert abs(np.mean([f["excess_own"] for f in found])) < 0.01
    assert all(sentence(pd.DataFrame([f])) is None for f in found)


def test_batches_of_different_composition_are_not_blamed_for_their_types():
    adata = cells()
    rare = np.random.default_rng(1).random(N) < 0.1  # one cell in ten is from the other donor
    adata.obs["donor"] = np.where((adata.obs["cell_type"] == "a") ^ rare, "x", "y")
    assert row(adata, "donor")["clear"]
    known = row(adata, "donor", label_key="cell_type")
    assert not known["clear"]
    assert known["null_share"] == pytest.approx(known["share"], abs=0.02)
    assert known["share"] > 0.2


def test_a_donor_of_each_type_is_confounded():
    adata = cells()
    adata.obs["donor"] = adata.obs["cell_type"].map({"a": "x", "b": "x", "c": "y"})
    found = tl.batch_association(adata, label_key="cell_type")
    assert found.set_index("key")["confounded"].to_dict() == {"donor": True, "batch": False}
    assert not found["clear"].any()
    said = sentence(found, "cell_type")
    assert "Almost every type in obs['cell_type'] comes from a single value of obs['donor']" in said
    assert "--batch-key" not in said


def test_what_is_said():
    table = tl.batch_association(cells(shift=3))
    said = sentence(table)
    assert said.startswith("obs['batch'] explains ")
    assert "run with --batch-key batch to remove it, or ignore this if its values differ in biology." in said
    assert "by chance within types" in sentence(table, "cell_type")
    assert "still explains" in sentence(table, batch_key="batch")
    assert sentence(table, batch_key="donor") is None


def test_only_names_that_say_batch_are_candidates():
    say = ["donorID", "sample_ids", "Libraries", "orig.ident", "mice", "10X_run", "lab-2"]
    names = [*say, "labels", "trunk", "leiden", "week", "cell_type_2", "diffvae_sample"]
    adata = cells(**{name: np.arange(N) % 4 for name in names})
    adata.obs["patient_age"] = np.random.default_rng(0).normal(size=N)
    adata.obs["sample_barcode"] = [f"cell{i}" for i in range(N)]
    adata.obs["study"] = "one"
    adata.obs["lane"] = pd.Series([1.0, 2.0, np.nan, np.nan] * (N // 4), index=adata.obs_names)
    adata.obs["plate"] = np.arange(N) % 2 == 0
    expected = ["batch", *say, "lane", "plate"]
    assert candidates(adata) == expected
    assert candidates(adata, label_key="batch") == expected[1:]
    assert "week" in candidates(adata, batch_key="week")
    assert tl.batch_association(adata).shape[0] == len(expected)
    assert row(adata, "lane")["n_cells"] == N // 2
    assert row(adata, "week")["n_batches"] == 4


def test_small_batches_are_left_out():
    adata = cells(shift=3)
    adata.obs["batch"] = [f"small{i}" if i < 9 else b for i, b in enumerate(adata.obs["batch"])]
    assert row(adata)[["n_batches", "n_cells"]].tolist() == [2, N - 9]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("donor", "is missing; the columns are: cell_type, batch"),
        ("one", "has only one value with at least 10 cells"),
        ("each", "has no value with at least 10 cells"),
        ("age", "holds measurements"),
    ],
)
def test_what_is_no_column_of_batches_is_said(key, message):
    adata = cells(one="x", each=np.arange(N), age=np.linspace(0, 1, N))
    with pytest.raises(DataError, match=message):
        tl.batch_association(adata, keys=key)
    with pytest.raises(ValueError, match="n_permutations is 0"):
        tl.batch_association(adata, n_permutations=0)
    with pytest.raises(DataError, match=r"'kind'.* is missing"):
        tl.batch_association(adata, label_key="kind")


def test_same_seed_same_table_and_an_empty_one_is_written(tmp_path):
    adata = cells(shift=1, n=1500)  # more cells than are looked up
    pd.testing.assert_frame_equal(row(adata, rng=3).to_frame(), row(adata, rng=3).to_frame())
    assert row(adata, rng=3)["null_own"] != row(adata, rng=4)["null_own"]
    del adata.obs["batch"]
    assert tl.batch_association(adata).empty
    adata.write_h5ad(tmp_path / "cells.h5ad")
    assert len(ad.read_h5ad(tmp_path / "cells.h5ad").uns["diffvae"]["batches"]) == 0


def test_types_that_lie_apart_by_a_column_of_any_name_are_noticed():
    parity = np.where(np.arange(N) % 2, "odd", "even")
    adata = cells(shift=12, parity=parity)
    adata.obs = adata.obs.rename(columns={"batch": "arm"})
    adata.obs["fine"] = adata.obs["cell_type"] + parity  # restates the types
    assert set(crossing_types(adata, "cell_type")) == {"arm", "parity"}
    log = StepLog(lambda step: None)
    notice_batches(adata, "cell_type", None, log=log)
    assert adata.uns["diffvae"]["batches"]["key"].tolist() == ["arm"]
    assert any("obs['arm'] explains" in warning for warning in log.warnings)
