"""Both sides of integration beside PCA: on cells whose batches lie apart, and whose latent space is known."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from diffvae import metrics, tl
from diffvae._errors import DataError

N = 300


def cells(latent="mixed", n=N, seed=0):
    """Return two batches that lie far apart in X; in the latent space they are mixed or apart, or all is noise."""
    rng = np.random.default_rng(seed)
    types, batch = rng.integers(3, size=n), rng.integers(2, size=n)
    x = rng.normal(size=(n, 60))
    x[:, :10] += 4 * np.eye(3)[types] @ rng.normal(size=(3, 10))
    biology = 6 * np.eye(3)[types] + rng.normal(size=(n, 3))
    z = {"mixed": biology, "apart": biology + 30 * batch[:, None], "noise": rng.normal(size=(n, 3))}[latent]
    obs = pd.DataFrame({"type": np.array(["a", "b", "c"])[types], "batch": np.array(["x", "y"])[batch]})
    adata = ad.AnnData((x + 3 * batch[:, None]).astype(np.float32), obs=obs.set_index(obs.index.astype(str)))
    adata.obsm["X_diffvae"] = z.astype(np.float32)
    return adata


def by_score(table, column):
    return table.set_index("score")[column]


def test_the_scores_are_those_of_the_metrics_on_one_scale():
    adata = cells()
    raw = metrics.integration(adata.obsm["X_diffvae"], adata.obs["batch"], adata.obs["type"])
    table = tl.integration(adata, "batch", label_key="type")
    found = by_score(table, "latent")
    assert found["iLISI"] == pytest.approx(raw["ilisi"])
    assert found["variance free of batch"] == pytest.approx(1 - raw["batch_r2"])
    assert found["silhouette"] == pytest.approx((raw["silhouette"] + 1) / 2)
    assert "isolated types" not in found  # each type is in each batch
    assert table["side"].tolist() == ["batches mixed"] * 4 + ["types kept"] * 2
    stored = adata.uns["diffvae"]["integration"]
    assert stored["params"] == {"batch_key": "batch", "n_cells": N, "n_batches": 2}
    pd.testing.assert_frame_equal(stored["table"], table)


def test_the_baseline_knows_the_batches_and_a_mixed_space_does_not():
    table = tl.integration(cells(), "batch", label_key="type")
    mixed = table[table["side"] == "batches mixed"]
    assert (mixed["latent"] > mixed["pca"]).all()
    assert by_score(table, "pca")["iLISI"] < 0.05
    # what is mixed at random scores like its permutation
    assert mixed["latent"].to_numpy() == pytest.approx(mixed["permuted"].to_numpy(), abs=0.06)


def test_a_space_without_information_keeps_what_chance_keeps():
    table = tl.integration(cells("noise"), "batch", label_key="type")
    kept = table[table["side"] == "types kept"]
    assert kept["latent"].to_numpy() == pytest.approx(kept["permuted"].to_numpy(), abs=0.06)
    assert by_score(kept, "pca")["kNN purity"] > 0.9


def test_batches_that_lie_apart_could_be_mixed():
    found = tl.integration(cells("apart"), "batch", label_key="type").set_index("score").loc["iLISI"]
    assert found["latent"] < 0.05 < 0.8 < found["permuted"]


def test_without_types_only_mixing_is_measured():
    table = tl.integration(cells(), "batch")
    assert table["score"].tolist() == ["iLISI", "kBET acceptance", "variance free of batch"]


def test_cells_are_bounded_and_the_same_for_the_same_seed():
    adata = cells()
    first, again, other = (tl.integration(adata, "batch", n_cells=120, rng=rng, copy=True) for rng in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert not first["latent"].equals(other["latent"])
    assert "diffvae" not in adata.uns
    tl.integration(adata, "batch", n_cells=120)
    assert adata.uns["diffvae"]["integration"]["params"]["n_cells"] == 120


def test_small_batches_and_cells_without_a_type_are_left_out():
    adata = cells()
    adata.obs.loc[adata.obs_names[:9], "batch"] = "tiny"
    adata.obs.loc[adata.obs_names[9:29], "type"] = None
    tl.integration(adata, "batch", label_key="type")
    assert adata.uns["diffvae"]["integration"]["params"] == {"batch_key": "batch", "n_cells": N - 29, "n_batches": 2}


def test_what_cannot_be_measured_is_refused():
    adata = cells()
    with pytest.raises(DataError, match=r"obs\['donor'\] is missing"):
        tl.integration(adata, "donor")
    adata.obs["batch"] = np.where(np.arange(N) < 5, "x", "y")
    with pytest.raises(DataError, match="only one batch with at least 10 of 300 cells; there is nothing to mix"):
        tl.integration(adata, "batch")
    with pytest.raises(ValueError, match="n_cells is 3"):
        tl.integration(cells(), "batch", n_cells=3)
