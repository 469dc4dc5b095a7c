"""The program when it is stopped: what it says, what it leaves, and that the same command goes on."""

import json
import os
import signal

import pytest
from _model_data import counts
from safetensors.numpy import load_file

from diffvae import pipeline
from diffvae._errors import OutputError
from diffvae.model._graph_objective import GraphObjective
from diffvae.model._objective import InfoVAEObjective

QUICK = ("--n-latent", 4, "--max-epochs", 8, "--batch-size", 16, "--device", "cpu")


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / "cells of mine.h5ad"
    counts().write_h5ad(path)
    return path


def names(folder):
    return sorted(os.listdir(folder))


def stop_in(monkeypatch, objective, batch, number):
    """Send the signal in a batch, and no other one."""
    calls, original = [], objective.__call__

    def interrupt(self, module, *args, **kwargs):
        calls.append(1)
        if len(calls) == batch:
            os.kill(os.getpid(), number)
        return original(self, module, *args, **kwargs)

    monkeypatch.setattr(objective, "__call__", interrupt)


@pytest.mark.parametrize(
    ("number", "code", "how"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Stopped")]
)
def test_a_stopped_training_says_how_to_go_on_and_does(diffvae, cells, tmp_path, monkeypatch, number, code, how):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert diffvae("train", cells, "--out", whole, *QUICK)[0] == 0
    with monkeypatch.context() as patch:
        stop_in(patch, InfoVAEObjective, 13, number)
        left, said, told = diffvae("train", cells, "--out", out, *QUICK)
    assert (left, said) == (code, "")
    options = " ".join(map(str, QUICK))
    command = f"diffvae train '{cells}' --out {out} {options} --resume"
    assert told == f"Error: {how}; the training is kept in 'out.checkpoint'. Go on with: {command}\n"
    assert names(tmp_path) == ["out.checkpoint", "whole"]

    left, _, told = diffvae("train", cells, "--out", out, *QUICK)  # not by accident
    assert left == 2
    assert "holds a training that was interrupted; pass resume (--resume) to go on with it, overwrite" in told
    left, _, told = diffvae("train", cells, "--out", out, *QUICK, "--lr", 0.01, "--resume")
    assert left == 2
    assert "is of another training (lr was 0.001 and is 0.01 now)" in told

    assert diffvae("train", cells, "--out", out, *QUICK, "--resume")[0] == 0
    assert names(tmp_path) == ["out", "whole"]
    one, other = (load_file(folder / "weights.safetensors") for folder in (whole, out))
    assert all((one[k] == other[k]).all() for k in one)
    assert (whole / "history.csv").read_bytes() == (out / "history.csv").read_bytes()


def test_overwrite_begins_anew(diffvae, cells, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_in(patch, InfoVAEObjective, 13, signal.SIGINT)
        diffvae("train", cells, "--out", tmp_path / "out", *QUICK)
    assert diffvae("train", cells, "--out", tmp_path / "out", *QUICK, "--seed", 1, "--overwrite")[0] == 0
    assert names(tmp_path) == ["out"]


def test_before_the_training_nothing_is_kept_and_nothing_promised(diffvae, cells, tmp_path, monkeypatch):
    from diffvae import pp

    monkeypatch.setattr(pp, "prepare", lambda *a, **k: os.kill(os.getpid(), signal.SIGTERM))
    assert diffvae("train", cells, "--out", tmp_path / "out", *QUICK) == (
        143,
        "",
        "Error: Stopped; nothing was written.\n",
    )
    assert names(tmp_path) == []


@pytest.mark.slow  # three runs
def test_a_run_goes_on_in_either_training(diffvae, cells, tmp_path, monkeypatch):
    """Stopped while it trains DiffVAE, and again while it trains Graph-DiffVAE; the tables are those of one run."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    options = ("run", cells, *QUICK, "--k", 3, "--n-clusters", 2)
    assert diffvae(*options, "--out", whole)[0] == 0
    for objective, kept in ((InfoVAEObjective, "out.checkpoint"), (GraphObjective, "out.links.checkpoint")):
        with monkeypatch.context() as patch:
            stop_in(patch, objective, 13, signal.SIGTERM)
            code, _, told = diffvae(*options, "--out", out, "--checkpoint-every", 3, "--resume")
        assert code == 143
        assert f"kept in '{kept}'" in told
        assert told.rstrip().endswith("--checkpoint-every 3 --resume")
    assert names(tmp_path) == ["out.checkpoint", "out.links.checkpoint", "whole"]
    assert diffvae(*options, "--out", out, "--checkpoint-every", 3, "--resume")[0] == 0
    assert names(tmp_path) == ["out", "whole"]
    for table in sorted(path.relative_to(whole) for path in whole.rglob("*.csv")):
        assert (whole / table).read_bytes() == (out / table).read_bytes(), table
    one, other = (json.loads((folder / "summary.json").read_text()) for folder in (whole, out))
    assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}


def test_options_that_mean_nothing_are_refused(diffvae, cells, tmp_path):
    code, _, told = diffvae("train", cells, "--out", tmp_path / "out", "--kind", "pca", "--resume")
    assert code == 2
    assert "pca is computed in one step" in told
    with pytest.raises(ValueError, match="Checkpoints lie beside out, but out is None"):
        pipeline.run(cells, resume=True)
    with pytest.raises(ValueError, match="checkpoint_every is 0"):
        pipeline.run(cells, tmp_path / "out", checkpoint_every=0)
    (tmp_path / "out.links.checkpoint").write_text("")
    with pytest.raises(OutputError, match=r"out.links.checkpoint' holds a training that was interrupted"):
        pipeline.run(cells, tmp_path / "out")
