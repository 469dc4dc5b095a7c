"""What a configuration is judged by, and the traps of each score."""

from functools import cache

import numpy as np
import pytest

import diffvae as dv
from diffvae import _random
from diffvae.benchmark.tuning import _objective
from diffvae.benchmark.tuning._objective import Evaluator, held_out, stability


@cache
def prepared():
    return dv.pp.prepare(
        dv.datasets.simulate_differentiation(60, 40, tree={"stem": ["red", "white"]}, effect=2, rng=0), copy=True
    )


@cache
def small_model():
    options = {"max_epochs": 2, "progress": False, "device": "cpu", "precision": "float32"}
    return dv.model.DiffVAE(n_latent=4, hidden=(8,)).train(prepared(), **options)


def test_held_out_loss_is_its_weighted_terms_whatever_the_batches(monkeypatch):
    terms = held_out(small_model(), prepared())
    nll, kl, mmd, covariance = (terms[f"validation_{t}"] for t in ("nll", "kl", "mmd", "covariance"))
    config = small_model().config
    divergences = config.kl_weight * kl + config.mmd_weight * mmd
    assert terms["validation_loss"] == pytest.approx(nll + divergences + config.covariance_weight * covariance)
    last = small_model().history.iloc[-1]
    assert terms["validation_nll"] == pytest.approx(last["validation_nll"], rel=0.05)  # of other noise
    monkeypatch.setattr(_objective, "BLOCK", 4)
    assert held_out(small_model(), prepared())["validation_kl"] == pytest.approx(kl, rel=1e-5)


def test_elbo_is_reconstruction_and_kl_whatever_the_training_weighed():
    settings = {"preset": "paper", "n_latent": 4, "hidden": [8], "max_epochs": 1}
    value, seen = Evaluator("elbo", 1, None, None, "cpu", "float32").score(prepared(), settings, 0)
    assert value == pytest.approx(seen["validation_nll"] + seen["validation_kl"])
    assert seen["validation_loss"] == pytest.approx(seen["validation_nll"] + seen["validation_mmd"])


def blobs(n=60, far=8.0):
    """Three groups that every training finds, each in its own rotation."""
    centres = far * np.eye(3)[np.arange(n) % 3]
    return [np.random.default_rng(i).normal(size=(n, 3)) + centres @ rotation(i) for i in range(3)]


def rotation(seed):
    return np.linalg.qr(np.random.default_rng(seed + 100).normal(size=(3, 3)))[0]


def test_stability_of_groups_that_every_training_finds():
    value, seen = stability(blobs(), 3, 0)
    assert seen["stability"] == 1
    assert seen["largest_cluster"] == pytest.approx(1 / 3)
    assert seen["null_stability"] < 0.8
    assert value == 1


def test_stability_is_not_fooled_by_one_axis_that_every_training_finds():
    """A collapsed latent: a continuum along one axis, cut into the same three slices each time."""
    axis = 5 * np.random.default_rng(9).normal(size=(300, 1))
    latents = [np.hstack([axis, np.random.default_rng(i).normal(0, 0.05, (300, 2))]) @ rotation(i) for i in range(3)]
    value, seen = stability(latents, 3, 0)
    assert seen["stability"] > 0.9
    assert abs(value) < 0.5 < seen["null_stability"]
    noise = [np.random.default_rng(i).normal(size=(300, 3)) for i in range(3)]
    assert abs(stability(noise, 3, 0)[0]) < 0.1
    nothing = [np.zeros((30, 3))] * 3
    assert stability(nothing, 3, 0)[0] == 0


def test_a_collapsed_latent_is_not_stable():
    settings = {"n_latent": 4, "hidden": [8], "max_epochs": 3, "kl_weight": 1e4, "linear_skip": False}
    value, seen = Evaluator("stability", 2, 2, None, "cpu", "float32").score(prepared(), settings, 0)
    assert seen["active_dimensions"] == 0
    assert value == 0
    assert seen["stability"] != 0  # k-means cuts whatever it is given


def test_ari_is_that_of_clusters_with_the_labels():
    adata = prepared().copy()
    judge = Evaluator("ari", 1, 2, "half", "cpu", "float32")
    settings = {"n_latent": 4, "hidden": [8], "max_epochs": 1}
    model = dv.model.DiffVAE(n_latent=4, hidden=(8,)).train(
        adata, max_epochs=1, rng=_random.seed(0, "training", "0"), progress=False, device="cpu", precision="float32"
    )
    known = np.arange(60) > 4  # cells without a label don't count
    found = _objective.partition(model.get_latent_representation()[known], 2, 0)
    adata.obs["half"] = None
    adata.obs.loc[known, "half"] = np.where(found == 0, "a", "b")
    assert judge.score(adata, settings, 0)[0] == 1
    adata.obs.loc[known, "half"] = np.where(np.arange(55) % 2, "a", "b")
    assert abs(judge.score(adata, settings, 0)[0]) < 0.2
