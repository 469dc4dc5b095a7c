"""A training that is stopped or killed and continues gives the model of an uninterrupted one, bit for bit."""

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
from safetensors.torch import load_file, save_file
from test_train_loop import Walker, run

from diffvae._core import runtime
from diffvae._errors import CheckpointError, DataError, OutputError
from diffvae.model import VAE, AutoEncoder, DiffVAE
from diffvae.train import Checkpoint, TrainingError

QUICK = {"max_epochs": 6, "batch_size": 16, "precision": "float32", "device": "cpu", "progress": False}
NOISY = {**TINY, "dropout": 0.2, "early_stopping": True}


class KilledError(Exception):
    """An exception after which nothing is written, as when a process is killed."""


def train(model=None, **kwargs):
    return (model or DiffVAE(**NOISY)).train(prepared(), **{**QUICK, **kwargs})


def killed_at(epoch, path, model=None, **kwargs):
    def kill(seen):
        if seen.number == epoch:
            raise KilledError

    with pytest.raises(KilledError):
        train(model, checkpoint=path, on_epoch=kill, **kwargs)


def require_same(a, b):
    """Weights, running means, history and latent coordinates are equal, not only close."""
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
    """Send a signal in a batch; return the number of batches that were started and the exception."""
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


def n_epochs(path):
    """Return the number of epochs in a checkpoint."""
    with safe_open(path, "pt") as file:
        return len(json.loads(file.metadata()["training"])["state"]["records"])


@pytest.mark.parametrize(("batch", "every"), [(6, None), (15, 2)])
def test_an_interrupt_stops_at_once_and_keeps_the_last_complete_epoch(tmp_path, monkeypatch, batch, every):
    assert len(prepared()) * 0.8 / 16 == 5  # batches per epoch
    started, left = stopped_in_batch(batch, tmp_path / "c", monkeypatch, checkpoint_every=every)
    assert isinstance(left, KeyboardInterrupt)
    assert started == batch
    assert n_epochs(tmp_path / "c") == (batch - 1) // 5
    require_same(train(checkpoint=tmp_path / "c", resume=True), train())


def test_an_interrupt_in_the_first_epoch_keeps_nothing(tmp_path, monkeypatch):
    stopped_in_batch(3, tmp_path / "c", monkeypatch)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [143, 7])
def test_sigterm_keeps_the_last_complete_epoch_and_ends_as_before(tmp_path, monkeypatch, code):
    """Code 143 without a handler of the program, otherwise what its handler does."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL if code == 143 else lambda *_: sys.exit(code))
    try:
        handler = signal.getsignal(signal.SIGTERM)
        _, left = stopped_in_batch(8, tmp_path / "c", monkeypatch, signal.SIGTERM, checkpoint_every=None)
        assert isinstance(left, SystemExit)
        assert left.code == code
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert n_epochs(tmp_path / "c") == 1
    require_same(train(checkpoint=tmp_path / "c", resume=True), train())


def test_in_another_thread_checkpoints_are_written_without_signals(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(train(checkpoint=tmp_path / "c")))
    thread.start()
    thread.join()
    require_same(found[0], train())


def test_checkpoints_come_when_they_are_due(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(Checkpoint, "write", lambda self, tensors, numbers: written.append(len(numbers["records"])))
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
    assert set(json.loads(header["__metadata__"]["training"])) == {"format", "about", "environment", "state"}


def test_another_training_is_refused_by_what_differs(tmp_path):
    train(checkpoint=tmp_path / "c")
    kwargs = {"checkpoint": tmp_path / "c", "resume": True}
    with pytest.raises(DataError, match=r"belongs to another training \(n_latent was 4 and is 5 now\); resume"):
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


def test_a_damaged_file_is_refused(tmp_path, good):
    path = tmp_path / "c"
    assert len(resume(path, *good).history) == 6
    content = path.read_bytes()
    for damaged in (b"", b"nonsense", content[:200], content[: len(content) // 2], content[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"'\S+c' is damaged \(.+\); remove it to start again\.$"):
            train(checkpoint=path, resume=True)
        assert path.read_bytes() == damaged
    save_file(good[0], path)  # weights that somebody else wrote
    with pytest.raises(CheckpointError, match="is damaged"):
        train(checkpoint=path, resume=True)


def test_tensors_of_another_shape_or_type_are_refused(tmp_path, good):
    """Adam would write beyond the end of smaller moments, which crashes the process."""
    tensors, header = good
    weight = "encoder.norms.0.weight"
    for name in (
        f"module.{weight}",
        f"best.{weight}",
        "optimizer.0.exp_avg",
        "optimizer.0.step",
        "first_loss",
        "noise",
    ):
        for other in (torch.zeros(2, dtype=tensors[name].dtype), tensors[name].double()):
            with pytest.raises(CheckpointError, match=rf"damaged \(ValueError: {name} has another shape or type\)"):
                resume(tmp_path / "c", {**tensors, name: other}, header)


def test_missing_and_unknown_tensors_are_refused(tmp_path, good):
    tensors, header = good
    for name in ("module.encoder.norms.0.weight", "first_loss", "noise"):
        with pytest.raises(CheckpointError, match=rf"damaged \(ValueError: {name} is missing\)"):
            resume(tmp_path / "c", {k: v for k, v in tensors.items() if k != name}, header)
    for name in ("module.x", "best.x", "optimizer.999.step", "x"):
        with pytest.raises(CheckpointError, match=rf"damaged \(ValueError: {name} is unknown\)"):
            resume(tmp_path / "c", {**tensors, name: torch.zeros(())}, header)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": 1}, "was written by another version of diffvae; use that"),
        ({"format": 9}, "was written by another version of diffvae; use that"),
        ({"about": {"device": "cuda"}}, r"another training \(device was 'cuda' and is 'cpu' now\); resume with"),
    ],
)
def test_another_format_or_device_is_refused(tmp_path, good, change, sentence):
    tensors, header = good
    change = {k: {**header[k], **v} if isinstance(v, dict) else v for k, v in change.items()}
    with pytest.raises(CheckpointError, match=sentence):
        resume(tmp_path / "c", tensors, {**header, **change})


def test_another_version_is_a_warning(tmp_path, good):
    tensors, header = good
    older = {**header["environment"], "torch": "0.0.1", "numpy": "0.0.2", "diffvae": "0.0.3"}
    with pytest.warns(UserWarning, match="continues with") as warned:
        resume(tmp_path / "c", tensors, {**header, "environment": older})
    texts = [str(warning.message) for warning in warned]
    for name in ("torch", "numpy", "diffvae"):
        assert any(text.startswith(f"The training started with {name} = {older[name]} and") for text in texts)


def test_a_folder_is_not_a_checkpoint(tmp_path):
    with pytest.raises(OutputError, match="is a folder; give checkpoint the name of a file"):
        train(checkpoint=tmp_path)


def test_a_link_to_a_checkpoint_remains_a_link(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "c").symlink_to(tmp_path / "scratch" / "real")
    killed_at(3, tmp_path / "c", checkpoint_every=1)
    first = (tmp_path / "scratch" / "real").read_bytes()
    train(checkpoint=tmp_path / "c", checkpoint_every=1, resume=True)
    assert (tmp_path / "c").is_symlink()
    assert (tmp_path / "scratch" / "real").read_bytes() != first


def test_arguments_that_contradict_each_other(tmp_path):
    with pytest.raises(ValueError, match="resume is True, but checkpoint is None"):
        train(resume=True)
    with pytest.raises(ValueError, match="checkpoint_every is 0; it must be None or a whole number of 1 or more"):
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
    monkeypatch.setattr(runtime, "LARGE_STEP", 0)
    killed_at(3, tmp_path / "c", checkpoint_every=1)
    before, now = another_number_of_threads
    torch.set_num_threads(now)
    with pytest.warns(UserWarning, match=f"started with threads = {before} and continues with {now}"):
        train(checkpoint=tmp_path / "c", resume=True)


def test_another_number_of_threads_changes_nothing_where_steps_are_small(tmp_path, another_number_of_threads):
    whole = train()
    killed_at(3, tmp_path / "c", checkpoint_every=1)
    torch.set_num_threads(another_number_of_threads[1])
    require_same(train(checkpoint=tmp_path / "c", resume=True), whole)


def test_weights_that_diverged_do_not_replace_sound_ones(tmp_path):
    """The last step of the second epoch makes the weight NaN, while all losses are finite."""

    def breaks(module, x, rows, generator):
        if module.w.isnan():
            raise KeyboardInterrupt
        if module.w > 0.05:
            return {"loss": (0 * module.w).sqrt() - 1}  # -1, and its gradient is 0 * inf
        return {"loss": -module.w}

    with pytest.raises(KeyboardInterrupt):
        run(breaks, checkpoint=Checkpoint(tmp_path / "c", 1), validation_rows=[], max_epochs=9)
    with safe_open(tmp_path / "c", "pt") as file:
        assert file.get_tensor("module.w").item() == pytest.approx(0.1)


@pytest.mark.parametrize("patience", [None, 20])
def test_a_resumed_training_that_diverges_restores_the_weights_of_the_checkpoint(tmp_path, patience):
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
from test_train_checkpoint import prepared, train_thirty
prepared()
random.seed(0)
kills = 0
while True:
    pid = os.fork()  # torch hasn't computed anything here yet, so that none of its threads is lost on the way
    if pid == 0:
        model = train_thirty(checkpoint={path!r}, checkpoint_every=1, resume=True)
        model.save({out!r})
        os._exit(0)
    before = os.stat({path!r}).st_ino if os.path.exists({path!r}) else None
    while kills < {n} and (not os.path.exists({path!r}) or os.stat({path!r}).st_ino == before):
        time.sleep(0.001)  # a new checkpoint, so that all kills fall into one training
    if kills < {n}:
        time.sleep(random.uniform(0, 0.1))
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status):
        sys.exit(print(kills) or os.WEXITSTATUS(status))
    kills += 1
"""


def train_thirty(**kwargs):
    return train(max_epochs=30, patience=30, **kwargs)


@pytest.mark.slow  # several trainings, each in its own process
@pytest.mark.parametrize("n", [1, pytest.param(10, marks=pytest.mark.large)])
def test_killed_at_random_moments(tmp_path, n):
    """After kill -9 half of a checkpoint may remain beside the last complete one."""
    import diffvae as dv

    tests = str(Path(__file__).parent)
    code = KILLED.format(tests=tests, path=str(tmp_path / "c"), out=str(tmp_path / "model"), n=n)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{n}\n", "")
    require_same(dv.model.load(tmp_path / "model"), train_thirty())


def test_walker_moves_on_from_where_it_was(tmp_path):
    """By hand: w grows by lr in every step, whatever lies between."""
    _, history = run(max_epochs=2, checkpoint=Checkpoint(tmp_path / "c", 1, about={"x": 1}))
    assert len(history) == 2
    module, history = run(module=Walker(), max_epochs=2, checkpoint=Checkpoint(tmp_path / "c", 1, True, {"x": 1}))
    assert module.w.item() == pytest.approx(0.2)
    np.testing.assert_allclose(history["train_loss"], [0, -0.1], atol=1e-6)
