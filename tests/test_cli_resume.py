"""The program when it is stopped: what it says, what it leaves, and that the same command goes on."""

import json
import os
import shlex
import signal
import subprocess
import sys

import pytest
from _model_data import counts
from safetensors.numpy import load_file

from diffvae import pipeline
from diffvae._core.io.folders import PARTS, CheckpointPaths
from diffvae._errors import OutputError
from diffvae.cli._main import _continue_with
from diffvae.model import DiffVAE
from diffvae.model._graph_training import GraphObjective
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
    ("number", "code", "how"),
    [
        (signal.SIGINT, 130, "Interrupted"),
        pytest.param(signal.SIGTERM, 143, "Stopped", marks=pytest.mark.large),
    ],
)
def test_a_stopped_training_says_how_to_go_on_and_does(diffvae, cells, tmp_path, monkeypatch, number, code, how):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert diffvae("train", cells, "--out", whole, *QUICK)[0] == 0
    with monkeypatch.context() as patch:
        stop_in(patch, InfoVAEObjective, 13, number)
        left, said, told = diffvae("train", cells, "--out", out, *QUICK)
    assert (left, said) == (code, "")
    options = " ".join(map(str, QUICK))
    command = f"diffvae train --resume '{cells}' --out {out} {options}"
    assert told == f"Error: {how}; the training is saved in 'out.checkpoint'. Continue with: {command}\n"
    assert names(tmp_path) == ["out.checkpoint", "whole"]

    left, _, told = diffvae("train", cells, "--out", out, *QUICK)  # not by accident
    assert left == 2
    assert "holds an interrupted training; pass --resume to continue it, --overwrite" in told
    left, _, told = diffvae("train", cells, "--out", out, *QUICK, "--lr", 0.01, "--resume")
    assert left == 2
    assert "belongs to another training (lr was 0.002 and is 0.01 now)" in told

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


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.large), signal.SIGTERM])
def test_stopped_when_the_model_is_in_its_place_there_is_nothing_to_go_on_with(
    diffvae, cells, tmp_path, monkeypatch, number
):
    done = CheckpointPaths.done

    def stopped(self):
        done(self)
        os.kill(os.getpid(), number)

    out = tmp_path / "out of mine"
    monkeypatch.setattr(CheckpointPaths, "done", stopped)
    code, said, told = diffvae("train", cells, "--out", out, *QUICK, "--checkpoint-every", 1)
    assert (code, said) == (128 + number, "")
    assert told == f"Error: {'Interrupted' if number == signal.SIGINT else 'Stopped'}; {out} was written.\n"
    assert names(tmp_path) == ["out of mine"]
    code, _, told = diffvae("train", cells, "--out", out, *QUICK, "--overwrite")  # over what was there: written, too
    assert "was written" in told


def test_stopped_before_the_model_is_in_its_place_the_training_goes_on(diffvae, cells, tmp_path, monkeypatch):
    def stopped(self, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)

    options = ("train", "--out", tmp_path / "out", *QUICK, "--checkpoint-every", 3, "--", cells)
    with monkeypatch.context() as patch:
        patch.setattr(DiffVAE, "diagnose", stopped)
        _, _, told = diffvae(*options)
    assert names(tmp_path) == ["out.checkpoint"]
    command = told.split("Continue with: ")[1]
    assert command.startswith("diffvae train --resume --out")
    code, _, told = diffvae(*shlex.split(command)[1:])  # as it stands, "--" and all
    assert code == 0, told
    assert names(tmp_path) == ["out"]


def test_a_run_that_is_stopped_at_its_page_has_been_written(diffvae, cells, tmp_path, monkeypatch, no_figures):
    from diffvae import report

    out = tmp_path / "out"
    monkeypatch.setattr(report, "write", lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGINT))
    options = (*QUICK, "--no-links", "--n-clusters", 2, "--cluster-method", "kmeans", "--checkpoint-every", 3)
    code, _, told = diffvae("run", cells, "--out", out, *options)
    assert code == 130
    assert told.endswith(f"Error: Interrupted; {out} was written; 'diffvae report {out}' writes its page.\n")
    assert names(tmp_path) == ["out"]


def test_a_model_from_before_a_divergence_leaves_no_training_behind(diffvae, cells, tmp_path, monkeypatch):
    original = InfoVAEObjective.__call__

    def breaks(self, module, *args):
        terms = original(self, module, *args)
        lost = int(module.encoder.norms[0].num_batches_tracked) > 30
        return {**terms, "loss": terms["loss"] * (float("nan") if lost else 1)}

    monkeypatch.setattr(InfoVAEObjective, "__call__", breaks)
    code, _, told = diffvae("train", cells, "--out", tmp_path / "out", *QUICK, "--checkpoint-every", 1)
    assert code == 1
    assert "has the model after epoch" in " ".join(told.split())
    assert names(tmp_path) == ["out"]


def test_torchrun_is_started_again_as_it_was(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    monkeypatch.setenv("WORLD_SIZE", "8")  # of several machines, say
    assert _continue_with(["train", "a"]) == "To continue, run the same torchrun command with --resume."


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ("--debug train a --out b", "--debug train --resume a --out b"),
        ("train a --resume --out b", "train a --resume --out b"),
        ("train --out b -- --resume", "train --resume --out b -- --resume"),
    ],
)
def test_the_command_that_goes_on(arguments, command):
    assert _continue_with(arguments.split()) == f"Continue with: diffvae {command}"


@pytest.mark.parametrize("name", ["out.checkpoint", "out.checkpoint.links"])
def test_a_folder_where_the_training_is_kept_is_refused_at_once(diffvae, tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / "cells.csv").write_text("cell,Gata1\nc1,3\n")
    for options in ((), ("--resume",), ("--overwrite",)):
        code, _, told = diffvae("train", tmp_path / "cells.csv", "--out", tmp_path / "out", *options)
        assert code == 2
        assert f"{name}' is a folder, but the checkpoint of the training needs this name; move the folder" in told
    assert names(tmp_path) == sorted([name, "cells.csv"])


def test_no_two_folders_keep_a_training_in_one_file(tmp_path):
    def files(name):
        kept = CheckpointPaths(tmp_path / name, None, True, False)
        return {kept.training(part)["checkpoint"] for part in PARTS}

    assert not files("r") & (files("r.links") | files("r.checkpoint"))


def test_a_link_to_where_a_training_is_kept_stays(tmp_path):
    (tmp_path / "out.checkpoint").symlink_to(tmp_path / "scratch")
    for remove in (lambda: CheckpointPaths(tmp_path / "out", None, True, False).done(),
                   lambda: CheckpointPaths(tmp_path / "out", None, False, True).training()):  # fmt: skip
        (tmp_path / "scratch").write_text("")
        remove()
        assert names(tmp_path) == ["out.checkpoint"]


EARLY = """
import sys
class Stop:
    def find_spec(self, name, *args):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stop())
from diffvae.cli import main
main()
"""


def test_interrupted_while_the_program_loads():
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Error: Interrupted.\n")


LATE = """
import atexit, os, signal, sys
atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM))
sys.argv = ["diffvae", "--version"]
from diffvae.cli import main
main()
"""


def test_stopped_on_the_way_out():
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("diffvae ")
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")


@pytest.mark.slow  # three runs
def test_a_run_goes_on_in_either_training(diffvae, cells, tmp_path, monkeypatch, no_figures):
    """Stopped while it trains DiffVAE, and again while it trains Graph-DiffVAE; the tables are those of one run."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    options = ("run", cells, *QUICK, "--k", 3, "--n-clusters", 2)
    assert diffvae(*options, "--out", whole)[0] == 0
    for objective, checkpoint in ((InfoVAEObjective, "out.checkpoint"), (GraphObjective, "out.checkpoint.links")):
        with monkeypatch.context() as patch:
            stop_in(patch, objective, 13, signal.SIGTERM)
            code, _, told = diffvae(*options, "--out", out, "--checkpoint-every", 3, "--resume")
        assert code == 143
        assert f"saved in '{checkpoint}'" in told
        assert told.rstrip().endswith("--checkpoint-every 3 --resume")
    assert names(tmp_path) == ["out.checkpoint", "out.checkpoint.links", "whole"]
    assert diffvae(*options, "--out", out, "--checkpoint-every", 3, "--resume")[0] == 0
    assert names(tmp_path) == ["out", "whole"]
    for table in sorted(path.relative_to(whole) for path in whole.rglob("*.csv")):
        assert (whole / table).read_bytes() == (out / table).read_bytes(), table
    one, other = (json.loads((folder / "summary.json").read_text()) for folder in (whole, out))
    assert one.pop("command").replace("--out whole", "--out out") == other.pop("command")
    assert one.pop("seconds").keys() == other.pop("seconds").keys()
    assert one == other


def test_options_that_mean_nothing_are_refused(diffvae, cells, tmp_path):
    code, _, told = diffvae("train", cells, "--out", tmp_path / "out", "--kind", "pca", "--resume")
    assert code == 2
    assert "pca is computed in one step" in told
    with pytest.raises(ValueError, match="Checkpoints are written beside out, but out is None"):
        pipeline.run(cells, resume=True)
    with pytest.raises(ValueError, match="checkpoint_every is 0"):
        pipeline.run(cells, tmp_path / "out", checkpoint_every=0)
    (tmp_path / "out.checkpoint.links").write_text("")
    with pytest.raises(OutputError, match=r"out.checkpoint.links' holds an interrupted training"):
        pipeline.run(cells, tmp_path / "out")
