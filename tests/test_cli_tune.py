"""The command line of the search."""

import json

import numpy as np
import pandas as pd
import pytest

import diffvae as dv
from diffvae.benchmark.tuning._objective import Evaluator


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "cells.h5ad"
    dv.datasets.simulate_differentiation(60, 40, tree={"stem": ["red", "white"]}, effect=2, rng=0).write_h5ad(path)
    return path


@pytest.fixture
def judged(monkeypatch):
    """Score by the learning rate instead of training: the larger the better."""

    def score(self, adata, settings, rng, on_epoch=None):
        return -np.log10(settings["lr"]), {}

    monkeypatch.setattr(Evaluator, "score", score)


def test_the_search_is_told_and_run_takes_its_result(diffvae, file, tmp_path, judged):
    out = tmp_path / "tune"
    code, said, told = diffvae("tune", file, "--trials", 10, "--out", out, "--max-epochs", 2, "--seed", 1)
    assert code == 0
    assert said.startswith("10 trials, the best by validation loss, nats per cell")
    assert "0 (default)" in said
    assert told.startswith("· check and prepare\n· trials\n· train default and best again\n")
    assert "• Trial" in told
    gain = np.log10(1e-2 / dv.model.DiffVAE().config.lr)
    assert f"better by {gain:.3g} on average, in 3 of 3." in told
    assert said.endswith(
        f"Written to {out}: best.json, trials.csv, figures, summary.json. "
        f"Next: diffvae run {file} --config {out}/best.json\n"
    )
    assert len(pd.read_csv(out / "trials.csv")) == 10
    best = json.loads((out / "best.json").read_text())
    assert (best["lr"], best["max_epochs"]) == (1e-2, 2)

    options = ["--n-clusters", 2, "--cluster-method", "kmeans", "--no-links", "--out", tmp_path / "run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffvae.pipeline._result._figures", lambda result, label_key: {})
        code, _, told = diffvae("run", file, "--config", out / "best.json", *options)
    assert (code, "Error" in told) == (0, False)
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert {k: config["params"][k] for k in ("lr", "n_latent", "hidden")} == {
        k: best[k] for k in ("lr", "n_latent", "hidden")
    }
    assert len(pd.read_csv(tmp_path / "run" / "model" / "history.csv")) == 2

    code, said, _ = diffvae("tune", file, "-n", 11, "--out", out, "--max-epochs", 2, "--seed", 1)
    assert said.startswith("11 trials")
    code, said, told = diffvae("tune", file, "-n", 11, "--out", out, "--max-epochs", 3, "--seed", 1)
    assert (code, said) == (2, "")
    assert "started with other settings (--max-epochs was 2, now 3)" in told


def test_what_the_search_was_given_is_in_the_next_command(diffvae, file, tmp_path, judged):
    out = tmp_path / "my tune"
    code, said, _ = diffvae("tune", file, "-n", 1, "--out", out, "--n-top-genes", 30, "--repeats", 0)
    assert code == 0
    assert said.endswith(f"--config '{out}/best.json' --n-top-genes 30\n")


def test_an_interrupted_search_says_that_its_trials_are_kept(diffvae, file, tmp_path, monkeypatch):
    scored = []

    def score(self, adata, settings, rng, on_epoch=None):
        scored.append(settings)
        if len(scored) == 3:
            raise KeyboardInterrupt
        return 1.0, {}

    monkeypatch.setattr(Evaluator, "score", score)
    out = tmp_path / "tune"
    code, _, told = diffvae("tune", file, "-n", 4, "--out", out, "--repeats", 0)
    assert code == 130
    assert told.endswith(f"Error: Interrupted; finished trials are saved in {out}. Run the same command to resume.\n")
    code, said, _ = diffvae("tune", file, "-n", 4, "--out", out, "--repeats", 0)
    assert (code, len(scored)) == (0, 5)
    assert scored[2] == scored[3]  # what was interrupted came first
    assert said.startswith("4 trials")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--space", "wide"], "Error: Validation losses with different weights of KL and MMD are different measures"),
        (["--objective", "ari"], "Error: --objective ari needs labels; name their column of obs (--label-key)."),
        (["--trials", "0"], "Error: Invalid value for '--trials'"),
    ],
)
def test_errors_are_sentences(diffvae, file, tmp_path, options, sentence):
    code, said, told = diffvae("tune", file, "--out", tmp_path / "out", *options)
    assert (code, said) == (2, "")
    assert sentence in told
    assert not (tmp_path / "out").exists()


def test_help_has_examples_and_explains_how_to_share(diffvae):
    code, said, _ = diffvae("tune", "--help")
    assert code == 0
    words = " ".join(said.replace("│", " ").split())
    assert "diffvae tune mydata.h5ad" in words.split("Examples", 1)[1]
    assert "a second process with the same folder shares the trials" in words
