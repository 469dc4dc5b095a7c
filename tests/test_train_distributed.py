"""One model by two processes: the same curve as one process with the doubled batch, and nobody is left waiting."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from _model_data import counts
from _together import BATCH, CASES, train
from test_train_checkpoint import n_epochs
from torch import nn

from diffvae.nn._shared_batch import (
    LocalRows,
    SharedBatchNorm,
    common,
    normal,
    share_batch_norm,
    uniform,
    unshare_batch_norm,
)
from diffvae.train._distributed import ProcessGroup, SingleProcess, processes

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "OMP_NUM_THREADS": "1"}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def start(*arguments):
    """Start two processes; return the exit code and what was said on stdout and stderr."""
    process = subprocess.Popen(
        [*TORCHRUN, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    try:
        return (*process.communicate(timeout=400), process.returncode)[::-1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # torchrun's children, too
        process.communicate()
        raise


def together(task, folder):
    """Let two processes do a task of ``_together.py``."""
    code, err, out = start(HERE / "_together.py", task, folder)
    return code, out + err


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    code, told = together("everything", folder)
    assert code == 0, told
    return folder


@pytest.mark.slow  # two processes that import torch, once for all cases
@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_curve_of_one_with_the_doubled_batch(shared, case):
    history = train(case, 2 * BATCH).history
    told = pd.read_csv(shared / f"{case}_0.csv", index_col=0)
    assert list(told.columns) == list(history.columns)
    assert len(told) == len(history)
    learnt = [c for c in history if c.startswith("train_")]
    np.testing.assert_allclose(told[learnt], history[learnt], rtol=1e-4)
    losses = [c for c in history if c.endswith("_loss")]
    np.testing.assert_allclose(told[losses], history[losses], rtol=1e-4)
    # with half of the batch it would be another one
    alone = train(case, BATCH).history["train_loss"]
    assert abs(alone.iloc[-1] / history["train_loss"].iloc[-1] - 1) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_both_processes_have_the_same_model(shared, case):
    one, other = (np.load(shared / f"{case}_{rank}.npz") for rank in (0, 1))
    assert one.files == other.files
    assert all((one[k] == other[k]).all() for k in one.files)
    assert (shared / f"{case}_0.csv").read_bytes() == (shared / f"{case}_1.csv").read_bytes()


@pytest.mark.large  # the signal to one process, below, is the cheaper case
def test_a_process_that_dies_ends_the_others_with_a_message(tmp_path):
    """Kill -9 in the middle of the training: not a hang, whose timeout (ten minutes) is longer than this test's."""
    code, told = together("one_dies", tmp_path)
    assert code != 0
    assert "Process 0 of 2 has lost another process" in told or "Signal 9 (SIGKILL)" in told


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_processes_with_other_settings_are_refused(shared, rank):
    assert (shared / f"differ_{rank}").read_text().startswith("The processes were given different cells or settings")


@pytest.mark.slow
def test_a_signal_to_one_process_keeps_the_last_complete_epoch_and_the_training_continues(shared):
    assert (shared / "left_1").read_text() == "143"
    assert (shared / "left_0").read_text().startswith("Process 0 of 2 has lost another process")
    assert n_epochs(shared / "c") == 3
    kwargs = {"checkpoint": shared / "c", "checkpoint_every": None, "resume": True, "max_epochs": 12}
    with pytest.warns(UserWarning, match="started with processes = 2 and continues with 1"):
        resumed = train("default", 2 * BATCH, **kwargs).history["train_loss"]
    np.testing.assert_allclose(resumed, train("default", 2 * BATCH, max_epochs=12).history["train_loss"], rtol=1e-4)


@pytest.mark.large  # another start of three processes
def test_the_command_under_torchrun_writes_once_and_speaks_once(tmp_path):
    counts().write_h5ad(tmp_path / "cells.h5ad")
    options = ("--max-epochs", "3", "--n-latent", "4", "--batch-size", "16", "--device", "cpu")
    code, err, out = start("-m", "diffvae", "train", tmp_path / "cells.h5ad", "--out", tmp_path / "model", *options)
    assert code == 0, err
    assert out.count("Written to") == 1
    assert sorted(os.listdir(tmp_path)) == ["cells.h5ad", "model"]


def test_other_commands_are_not_for_torchrun(diffvae, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert diffvae("run")[::2] == (
        2, "Error: Only 'diffvae train' works under torchrun; run 'diffvae run' without it.\n"
    )  # fmt: skip
    monkeypatch.setenv("RANK", "1")
    assert diffvae("run")[2].startswith("Error in process 1: Only 'diffvae train'")


# The parts, in one process


def group_of(rank, size, n_rows):
    group = ProcessGroup.__new__(ProcessGroup)
    group.rank, group.size, group._n_rows = rank, size, n_rows
    return group


def test_shares_are_all_of_the_batch_and_noise_is_that_of_one_process():
    rows = np.arange(100, 111)
    groups = [group_of(rank, 3, 11) for rank in range(3)]
    assert np.concatenate([g.local_rows(rows) for g in groups]).tolist() == rows.tolist()
    assert [g.n_local(11) for g in groups] == [len(g.local_rows(rows)) for g in groups] == [4, 4, 3]
    with pytest.raises(ValueError, match="2 cells can't be divided among 3 processes"):
        groups[0].local_rows(rows[:2])

    def draw(noise, n):
        return torch.cat([uniform((n, 5), noise, torch.device("cpu")), normal((n, 5), noise, torch.device("cpu"))], 1)

    seeded = [torch.Generator().manual_seed(0) for _ in range(4)]
    parts = [draw(g.local_noise(s, rows), g.n_local(11)) for g, s in zip(groups, seeded, strict=False)]
    assert torch.equal(torch.cat(parts), draw(seeded[3], 11))
    assert len({tuple(s.get_state().tolist()) for s in seeded}) == 1  # and the next batch goes on from there
    assert common(LocalRows(seeded[0], 11, 4)) is seeded[0]
    assert common(seeded[1]) is seeded[1]


def test_shared_batch_norm_is_torch_s_over_the_joined_batch():
    """By hand for two processes: each gets the other's sums."""
    torch.manual_seed(0)
    x, plain = 3 + 2 * torch.randn(10, 4), nn.BatchNorm1d(4)
    parts, sums = (x[:6], x[6:]), []
    for part in parts:
        module = nn.Sequential(nn.BatchNorm1d(4))
        share_batch_norm(module, lambda s: sums.append(s) or s)
        module(part)
    total = sums[0] + sums[1]
    module = nn.Sequential(nn.BatchNorm1d(4))
    share_batch_norm(module, lambda s: s + (total - s).detach())
    assert isinstance(module[0], SharedBatchNorm)
    out = module(parts[0])
    torch.testing.assert_close(out, plain(x)[:6])
    torch.testing.assert_close(module[0].running_mean, plain.running_mean)
    torch.testing.assert_close(module[0].running_var, plain.running_var)
    module.eval(), plain.eval()
    torch.testing.assert_close(module(x), plain(x))
    unshare_batch_norm(module)
    assert type(module[0]) is nn.BatchNorm1d
    assert not module[0].training
    torch.testing.assert_close(module(x), plain(x))


def test_without_torchrun_there_is_one_process():
    with processes("cpu") as share:
        assert type(share) is SingleProcess
        assert (share.rank, share.size, share.is_writer) == (0, 1, True)
