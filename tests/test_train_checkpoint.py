"""A training that is killed and goes on ends bit for bit where it would have ended."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from _model_data import TINY, prepared
from safetensors import safe_open
from test_train_loop import Walker, run, walk

from diffvae import _threads
from diffvae._errors import DataError
from diffvae.model import VAE, AutoEncoder, DiffVAE
from diffvae.train import Checkpoint, TrainingError

QUICK = {"max_epochs": 6, "batch_size": 16, "precision": "float32", "device": "cpu", "progress": False}
NOISY = {**TINY, "dropout": 0.2, "early_stopping": True}


class KilledError(Exception):
    """Stands for whatever ends a process."""


def train(model=None, **kwargs):
    return (model or DiffVAE(**NOISY)).train(prepared(), **{**QUICK, **kwargs})


def killed_at(epoch, path, model=None, **kwargs):
    def kill(seen):
        if seen.number == epoch:
            raise KilledError

    with pytest.raises(KilledError):
        train(model, checkpoint=path, on_epoch=kill, **kwargs)


def require_same(a, b):
    """Weights, running means, history, and what is computed of them: not close, but equal."""
    one, other = a.module.state_dict(), b.module.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)
    pd.testing.assert_frame_equal(a.history, b.history, check_exact=True)
    assert np.array_equal(a.get_latent_representation(prepared()), b.get_latent_representation(prepared()))


@pytest.mark.parametrize(
    "make", [lambda: DiffVAE(**NOISY), lambda: DiffVAE("code", **TINY), lambda: VAE(**TINY, likelihood="gaussian"),
             lambda: AutoEncoder(**TINY)], ids=["default", "code", "gaussian", "plain"],
)  # fmt: skip
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, make):
    whole = train(make())
    killed_at(5, tmp_path / "c", make(), checkpoint_every=3)
    require_same(train(make(), checkpoint=tmp_path / "c", checkpoint_every=3, resume=True), whole)


def test_early_stopping_remembers_its_best_weights_and_how_long_it_has_waited(tmp_path):
    kwargs = {"patience": 2, "lr": 0.02, "max_epochs": 40}
    whole = train(**kwargs)
    stopped = len(whole.history)
    assert 4 <= stopped < 40
    killed_at(stopped - 1, tmp_path / "c", checkpoint_every=1, **kwargs)  # best is behind it, one epoch waited
    require_same(train(checkpoint=tmp_path / "c", resume=True, **kwargs), whole)
    # and a training that has stopped of itself doesn't begin again
    train(checkpoint=tmp_path / "c", resume=True, **kwargs)
    require_same(train(checkpoint=tmp_path / "c", resume=True, on_epoch=pytest.fail, **kwargs), whole)


def test_a_generator_as_seed_is_put_back_too(tmp_path):
    whole = train(rng=np.random.default_rng(3))
    killed_at(3, tmp_path / "c", rng=np.random.default_rng(3), checkpoint_every=1)
    require_same(train(rng=np.random.default_rng(3), checkpoint=tmp_path / "c", resume=True), whole)


def stopped_in_batch(number, path, monkeypatch, which=signal.SIGINT, **kwargs):
    """Send a signal in a batch; return how many batches were begun, and what the signal did after all."""
    from diffvae.model._objective import InfoVAEObjective

    calls, original = [], InfoVAEObjective.__call__

    def interrupt(self, module, *args):
        if module.training:
            calls.append(1)
            if len(calls) == number:
                os.kill(os.getpid(), which)
        return original(self, module, *args)

    with monkeypatch.context() as patch:
        patch.setattr(InfoVAEObjective, "__call__", interrupt)
        with pytest.raises((KeyboardInterrupt, SystemExit)) as left:
            train(checkpoint=path, **kwargs)
    return len(calls), left.value


@pytest.mark.parametrize("batch", [1, 3, 5, 8])
def test_an_interrupt_finishes_the_batch_and_the_epoch_goes_on_from_the_next(tmp_path, monkeypatch, batch):
    assert len(prepared()) * 0.8 / 16 == 5  # batches an epoch
    begun, left = stopped_in_batch(batch, tmp_path / "c", monkeypatch, checkpoint_every=None)
    assert isinstance(left, KeyboardInterrupt)
    assert begun == batch  # this one and no other
    with safe_open(tmp_path / "c", "pt") as file:
        state = json.loads(file.metadata()["training"])["state"]
    assert (state["epoch"], state["batch"], state["step"]) == ((batch - 1) // 5 + 1, (batch - 1) % 5 + 1, batch)
    require_same(train(checkpoint=tmp_path / "c", resume=True), train())


def test_a_request_to_end_does_the_same_and_then_what_it_did_before(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        begun, left = stopped_in_batch(3, tmp_path / "c", monkeypatch, signal.SIGTERM)
        assert isinstance(left, SystemExit)
        assert left.code == 143
        assert begun == 3
        handler = signal.getsignal(signal.SIGTERM)
        train(checkpoint=tmp_path / "other")
        assert signal.getsignal(signal.SIGTERM) is handler  # a training leaves the process as it was
    finally:
        signal.signal(signal.SIGTERM, before)
    require_same(train(checkpoint=tmp_path / "c", resume=True), train())


def test_who_asks_twice_does_not_wait(tmp_path):
    def ask_twice(module, x, rows, generator):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second was held back, too")

    with pytest.raises(KeyboardInterrupt):
        run(ask_twice, checkpoint=Checkpoint(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_in_another_thread_a_training_keeps_its_checkpoints_without_signals(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(train(checkpoint=tmp_path / "c")))
    thread.start()
    thread.join()
    require_same(found[0], train())


def test_checkpoints_come_when_they_are_due(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(Checkpoint, "write", lambda self, state: written.append(state.epoch - 1))
    for every, expected in ((2, [2, 4, 5]), (10, [5]), (1, [1, 2, 3, 4, 5]), (None, [])):
        written.clear()
        run(max_epochs=5, checkpoint=Checkpoint(tmp_path / "c", every))
        assert written == expected


def test_a_checkpoint_holds_no_code_and_everyone_may_read_it(tmp_path):
    run(checkpoint=Checkpoint(tmp_path / "c"))
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "c").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert os.listdir(tmp_path) != []
    content = (tmp_path / "c").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # the format, by hand
    assert {"module.w", "optimizer.0.exp_avg", "optimizer.0.exp_avg_sq", "optimizer.0.step", "noise"} <= header.keys()
    assert set(json.loads(header["__metadata__"]["training"])) == {"format", "about", "rounding", "state"}


def test_no_module_of_the_package_unpickles():
    source = "\n".join(p.read_text() for p in (Path(__file__).parents[1] / "src").rglob("*.py"))
    for word in ("torch.load(", "pickle.load", "import pickle", "joblib.load", "allow_pickle=True"):
        assert word not in source


def test_another_training_is_refused_by_what_differs(tmp_path):
    train(checkpoint=tmp_path / "c")
    kwargs = {"checkpoint": tmp_path / "c", "resume": True}
    with pytest.raises(DataError, match=r"another training \(n_latent was 4 and is 5 now\); resume with the same"):
        train(DiffVAE(**{**NOISY, "n_latent": 5}), **kwargs)
    with pytest.raises(DataError, match=r"\(max_epochs was 6 and is 7 now\)"):
        train(**kwargs, max_epochs=7)
    with pytest.raises(DataError, match=r"seed of the noise was \d+ and is \d+ now"):
        train(**kwargs, rng=1)
    other = prepared()
    other.layers["unit"][3, 3] = 0.77
    with pytest.raises(DataError, match=r"\(cells was '\w+' and is '\w+' now\)"):
        DiffVAE(**NOISY).train(other, **QUICK, **kwargs)
    renamed = prepared()
    renamed.var_names = [f"other_{g}" for g in renamed.var_names]
    with pytest.raises(DataError, match=r"\(genes was '\w+' and is '\w+' now\)"):
        DiffVAE(**NOISY).train(renamed, **QUICK, **kwargs)
    with pytest.raises(DataError, match="model was 'DiffVAE' and is 'VAE' now"):
        train(VAE(**TINY), **kwargs)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "c"
    train(checkpoint=path)
    content = path.read_bytes()
    for damaged in (
        b"",
        b"nonsense",
        content[:200],
        content[: len(content) // 2],
        content.replace(b"module.", b"modulE."),
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"'\S+c' is damaged .*; remove it to begin anew"):
            train(checkpoint=path, resume=True)
    path.write_bytes(content.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    with pytest.raises(DataError, match="written by a newer diffvae"):
        train(checkpoint=path, resume=True)


def test_arguments_that_contradict_each_other(tmp_path):
    with pytest.raises(ValueError, match="resume is True, but checkpoint names no file"):
        train(resume=True)
    with pytest.raises(ValueError, match="checkpoint_every is 0; it must be 1 or more"):
        train(checkpoint=tmp_path / "c", checkpoint_every=0)


def test_without_resume_and_without_a_file_a_training_begins_anew(tmp_path):
    whole = train()
    require_same(train(checkpoint=tmp_path / "new", resume=True), whole)
    killed_at(3, tmp_path / "old", checkpoint_every=1)
    require_same(train(checkpoint=tmp_path / "old"), whole)


@pytest.fixture
def another_number_of_threads():
    before = torch.get_num_threads()
    yield before, before + 1
    torch.set_num_threads(before)


def test_another_number_of_threads_is_told_where_steps_are_large(tmp_path, another_number_of_threads, monkeypatch):
    monkeypatch.setattr(_threads, "LARGE_STEP", 0)
    killed_at(3, tmp_path / "c", checkpoint_every=1)
    before, now = another_number_of_threads
    torch.set_num_threads(now)
    with pytest.warns(UserWarning, match=f"began with threads = {before} and goes on with {now}"):
        train(checkpoint=tmp_path / "c", resume=True)


def test_another_number_of_threads_changes_nothing_where_steps_are_small(tmp_path, another_number_of_threads):
    whole = train()
    killed_at(3, tmp_path / "c", checkpoint_every=1)
    torch.set_num_threads(another_number_of_threads[1])
    require_same(train(checkpoint=tmp_path / "c", resume=True), whole)


def test_what_is_lost_does_not_take_the_place_of_what_is_not(tmp_path):
    def breaks(module, x, rows, generator):
        if module.w > 0.25:
            signal.raise_signal(signal.SIGINT)
            return {"loss": module.w * torch.nan}
        return {"loss": -module.w}

    with pytest.raises(KeyboardInterrupt):
        run(breaks, checkpoint=Checkpoint(tmp_path / "c", every=1), validation_rows=[], max_epochs=9)
    module, history = run(walk, checkpoint=Checkpoint(tmp_path / "c", every=1, resume=True), validation_rows=[],
                          max_epochs=9)  # fmt: skip
    assert len(history) == 9
    assert module.w.item() == pytest.approx(0.9)


class Root(torch.nn.Module):
    """One weight, whose gradient is NaN where a step has brought it to zero while the loss is a number."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(()))


@pytest.mark.parametrize(("batch_size", "kept"), [(10, 2), (20, 1)])
def test_weights_that_are_lost_while_the_loss_is_not_are_not_kept(tmp_path, batch_size, kept):
    """Told to stop within the epoch and at its end: the file has the last step but one."""
    calls = []

    def breaks(module, x, rows, generator):
        calls.append(1)
        if len(calls) == kept + 1:
            signal.raise_signal(signal.SIGINT)
            return {"loss": (0 * module.w).sqrt() - 1}  # -1, and its gradient is 0 * inf
        return {"loss": -module.w}

    kwargs = {"validation_rows": [], "max_epochs": 9, "batch_size": batch_size}
    with pytest.raises(KeyboardInterrupt):
        run(breaks, module=Root(), checkpoint=Checkpoint(tmp_path / "c", every=1), **kwargs)
    with safe_open(tmp_path / "c", "pt") as file:
        assert file.get_tensor("module.w").item() == pytest.approx(0.1 * kept)


@pytest.mark.parametrize("patience", [None, 20])
def test_a_training_that_diverges_after_it_went_on_gives_back_what_it_went_on_from(tmp_path, patience):
    def falls(module, x, rows, generator):
        return {"loss": -module.w}

    def breaks(module, x, rows, generator):
        return {"loss": module.w * torch.nan}

    def stop(epoch):
        if epoch.number == 4:
            raise KilledError

    kwargs = {"validation_rows": [], "max_epochs": 9, "patience": patience}
    with pytest.raises(KilledError):
        run(falls, checkpoint=Checkpoint(tmp_path / "c", every=1), on_epoch=stop, **kwargs)
    module = Walker()
    with pytest.raises(TrainingError, match="At epoch 4 train loss is nan") as caught:
        run(breaks, module=module, checkpoint=Checkpoint(tmp_path / "c", every=1, resume=True), **kwargs)
    assert len(caught.value.history) == 3
    assert module.w.item() == pytest.approx(0.3)


def test_a_full_disk_ends_the_training_and_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    writes, fsync = [], os.fsync

    def full(number):
        writes.append(number)
        if len(writes) == 3:
            raise OSError(28, "No space left on device")
        fsync(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run(max_epochs=5, checkpoint=Checkpoint(tmp_path / "c", 1))
    assert os.listdir(tmp_path) == ["c"]
    with safe_open(tmp_path / "c", "pt") as file:
        assert file.get_tensor("module.w").item() == pytest.approx(0.2)


KILLED = """
import os, random, signal, sys, time
sys.path.insert(0, {tests!r})
from test_train_checkpoint import prepared, train_sixty
prepared()
random.seed(0)
kills = 0
while True:
    pid = os.fork()  # torch hasn't computed anything here yet, so that none of its threads is lost on the way
    if pid == 0:
        model = train_sixty(checkpoint={path!r}, checkpoint_every=1, resume=True)
        model.save({out!r})
        os._exit(0)
    before = os.stat({path!r}).st_ino if os.path.exists({path!r}) else None
    while kills < 10 and (not os.path.exists({path!r}) or os.stat({path!r}).st_ino == before):
        time.sleep(0.001)  # it has got further than the one before it, so that ten kills fall into one training
    if kills < 10:
        time.sleep(random.uniform(0, 0.1))
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status):
        sys.exit(print(kills) or os.WEXITSTATUS(status))
    kills += 1
"""


def train_sixty(**kwargs):
    return train(max_epochs=60, patience=60, **kwargs)


@pytest.mark.slow  # eleven trainings, in a process of their own
def test_killed_at_ten_random_moments(tmp_path):
    """Kill -9: nothing is finished, nothing told, and half of a checkpoint may lie beside the last whole one."""
    import diffvae as dv

    code = KILLED.format(tests=str(Path(__file__).parent), path=str(tmp_path / "c"), out=str(tmp_path / "model"))
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "10\n", "")
    require_same(dv.model.load(tmp_path / "model"), train_sixty())


def test_walker_moves_on_from_where_it_was(tmp_path):
    """By hand: w grows by lr in every step, whatever lies between."""
    _, history = run(max_epochs=2, checkpoint=Checkpoint(tmp_path / "c", 1, about={"x": 1}))
    assert len(history) == 2
    module, history = run(module=Walker(), max_epochs=2, checkpoint=Checkpoint(tmp_path / "c", 1, True, {"x": 1}))
    assert module.w.item() == pytest.approx(0.2)
    np.testing.assert_allclose(history["train_loss"], [0, -0.1], atol=1e-6)
