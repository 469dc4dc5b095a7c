"""A checkpoint that isn't what a training wrote is refused in one sentence, whatever is wrong with it."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_train_checkpoint import killed_at, stopped_in_batch, train

from diffvae._errors import CheckpointError, OutputError

DELETED = object()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Tensors and header of a training with early stopping that was killed in its fourth epoch."""
    path = tmp_path_factory.mktemp("good") / "c"
    killed_at(4, path, checkpoint_every=1)
    with safe_open(path, "pt") as file:
        return load_file(path), json.loads(file.metadata()["training"])


def resume(path, tensors, header):
    save_file(tensors, path, {"training": json.dumps(header)})
    return train(checkpoint=path, checkpoint_every=None, resume=True)


def refused(path, tensors, header):
    with pytest.raises(CheckpointError, match=r"^The checkpoint '\S+c' is damaged \(.+\); remove it to begin anew\.$"):
        resume(path, tensors, header)
    assert load_file(path).keys() == tensors.keys()


def with_value(header, place, value):
    changed = json.loads(json.dumps(header))
    *above, last = place.split(".")
    inner = changed
    for name in above:
        inner = inner[name]
    if value is DELETED:
        del inner[last]
    else:
        inner[last] = value
    return changed


RECORD = {"train_loss": 1.0}
OTHERS = {
    "format": (None, "x", 1.5, [1]),
    "about": (None, [], 1, "x"),
    "rounding": (DELETED, None, [], 1, "x"),
    "state": (DELETED, None, [], 1, "x"),
    "state.epoch": (DELETED, -1, 0, 3, 10**9, "x", None, 2.5, float("nan"), [1], True),
    "state.batch": (DELETED, -1, 1, 10**9, "x", None, 0.0, False),
    "state.step": (DELETED, -1, 0, 2, "x", None, 15.0),
    "state.finished": (DELETED, "x", None, 0, 1),
    "state.records": (DELETED, "x", None, [], {}, [1, 1, 1], [{}] * 3, [{"train_loss": "x"}] * 3, [RECORD] * 2,
                      [RECORD, RECORD, {"kl": 1}], [{"train_loss": float("nan")}] * 3),
    "state.order": (DELETED, "x", None, [], {}, {"bit_generator": "PCG64", "state": None}),
    "state.sums": (DELETED, "x", None, [], {}),
    "state.sums.names": ("x", None, [1], {}),
    "state.sums.n_cells": ("x", None, -1, 1.5),
    "state.best": (DELETED, "x", None, [], {}),
    "state.best.loss": ("x", None, float("nan"), float("inf"), -float("inf")),
    "state.best.waited": ("x", None, -1, 9, 1.0),
}  # fmt: skip


@pytest.mark.parametrize("place", OTHERS)
def test_numbers_that_no_training_has(tmp_path, good, place):
    tensors, header = good
    for value in OTHERS[place]:
        refused(tmp_path / "c", tensors, with_value(header, place, value))


@pytest.mark.parametrize("header", [None, [], 1, "x", {}])
def test_a_header_that_is_none(tmp_path, good, header):
    refused(tmp_path / "c", good[0], header)


WEIGHT, MOMENT = "module.encoder.norms.0.weight", "optimizer.0.exp_avg"


@pytest.mark.parametrize("name", [WEIGHT, "best" + WEIGHT.removeprefix("module"), MOMENT, "optimizer.0.exp_avg_sq",
                                  "optimizer.0.step", "begun"])  # fmt: skip
def test_tensors_that_no_training_has(tmp_path, good, name):
    """Adam with moments of another shape writes beyond them, which ends the process."""
    tensors, header = good
    value = tensors[name]
    for other in (torch.zeros(2), value.double(), value.to(torch.int16), value * torch.nan, value + torch.inf):
        if name != "begun" or other.dtype == torch.float32:
            refused(tmp_path / "c", {**tensors, name: other}, header)
    refused(tmp_path / "c", {k: v for k, v in tensors.items() if k != name}, header)


def test_tensors_too_many_or_too_few(tmp_path, good):
    tensors, header = good
    for name in ("module.x", "best.x", "optimizer.999.step", "optimizer.x.step", "optimizer.0.x", "optimizer.-1.step",
                 "sums"):  # fmt: skip
        refused(tmp_path / "c", {**tensors, name: torch.zeros(())}, header)
    for start in ("module.", "best.", "optimizer.", "noise", "begun"):
        refused(tmp_path / "c", {k: v for k, v in tensors.items() if not k.startswith(start)}, header)
    for noise in (torch.zeros(3, dtype=torch.uint8), torch.zeros(5056), torch.zeros(5056, dtype=torch.uint8)):
        refused(tmp_path / "c", {**tensors, "noise": noise}, header)


def test_sums_of_an_epoch_under_way(tmp_path, monkeypatch):
    stopped_in_batch(3, tmp_path / "c", monkeypatch)
    with safe_open(tmp_path / "c", "pt") as file:
        tensors, header = load_file(tmp_path / "c"), json.loads(file.metadata()["training"])
    for sums in (torch.zeros(2), torch.zeros(()), tensors["sums"] * torch.nan):
        refused(tmp_path / "c", {**tensors, "sums": sums}, header)
    refused(tmp_path / "c", tensors, with_value(header, "state.sums.n_cells", 0))
    assert len(resume(tmp_path / "c", tensors, header).history) == 6


def test_the_whole_one_is_taken(tmp_path, good):
    assert len(resume(tmp_path / "c", *good).history) == 6


def test_of_another_device_it_is_not_called_damaged(tmp_path, good):
    """The noise would go on otherwise there."""
    tensors, header = good
    with pytest.raises(CheckpointError, match=r"another training \(device was 'cuda' and is 'cpu' now\); resume with"):
        resume(tmp_path / "c", tensors, with_value(header, "about.device", "cuda"))


@pytest.mark.parametrize("name", ["torch", "numpy", "diffvae"])
def test_another_version_is_told(tmp_path, good, name):
    tensors, header = good
    with pytest.warns(UserWarning, match=f"The training began with {name} = 0.0.1 and goes on with"):
        resume(tmp_path / "c", tensors, with_value(header, f"rounding.{name}", "0.0.1"))


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(OutputError, match="is a folder; give checkpoint the name of a file"):
        train(checkpoint=tmp_path)


def test_a_link_to_a_checkpoint_stays_one(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "c").symlink_to(tmp_path / "scratch" / "real")
    killed_at(3, tmp_path / "c", checkpoint_every=1)
    first = (tmp_path / "scratch" / "real").read_bytes()
    train(checkpoint=tmp_path / "c", checkpoint_every=1, resume=True)
    assert (tmp_path / "c").is_symlink()
    assert (tmp_path / "scratch" / "real").read_bytes() != first
