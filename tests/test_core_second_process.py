"""A second process gives the same values, logs and errors as none."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

from diffvae._core.runtime import StepLog
from diffvae._core.second_process import SecondProcess
from diffvae._errors import DataError


def double(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    return x, 2 * x, os.getpid()


def noted(x: int, *, log: StepLog) -> int:
    with log.step("count"):
        warnings.warn("only one", UserWarning, stacklevel=1)
    return x + 1


def refuse() -> None:
    raise DataError("no cells; give some.")


def die(here: int) -> int:
    if os.getpid() != here:
        os._exit(9)
    return here


@pytest.fixture(scope="module", params=[False, True], ids=["one", "two"])
def second(request):
    with SecondProcess(request.param, ("diffvae.pp",)) as process:
        assert process.runs is request.param
        yield process


def test_arguments_in_the_value_are_the_callers_own(second):
    x = np.arange(3.0)
    same, doubled, pid = second.submit(double, x).result()
    assert same is x
    np.testing.assert_array_equal(doubled, [0, 2, 4])
    assert (pid != os.getpid()) is second.runs


def test_steps_and_warnings_reach_the_log_once(second):
    heard = []
    log = StepLog(heard.append)
    pending = second.submit(noted, 1, log=log, what="counting")
    assert (pending.result(), pending.result()) == (2, 2)
    assert list(log.seconds) == ["count"]
    assert log.warnings == ["only one"]
    assert heard == (["counting, beside the next steps"] if second.runs else ["count"])


def test_errors_reach_the_caller(second):
    with pytest.raises(DataError, match="no cells; give some"):
        second.submit(refuse).result()


def test_a_killed_process_costs_nothing_but_time():
    with SecondProcess(True) as second:
        here = os.getpid()
        assert second.submit(die, here).result() == here
        assert second.submit(die, here).result() == here


def test_what_cannot_be_pickled_is_computed_here():
    with SecondProcess(True) as second:
        assert second.submit(lambda: os.getpid()).result() == os.getpid()


def test_without_a_second_process_there_is_one(monkeypatch):
    monkeypatch.setitem(multiprocessing.process.current_process()._config, "daemon", True)
    with SecondProcess(True) as second:  # a daemon may not start any
        assert not second.runs
        assert second.submit(abs, -2).result() == 2


def test_ctrl_c_while_objects_are_pickled_is_not_lost():
    class Slow:
        def __reduce__(self):
            os.kill(os.getpid(), signal.SIGINT)
            return (int, ())

    def interrupt():
        with SecondProcess(True) as second:
            second.submit(abs, Slow())

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    finally:
        signal.signal(signal.SIGINT, before)


ORPHAN = """
import os, time
from diffvae._core.second_process import SecondProcess
second = SecondProcess(True)
print(second.submit(os.getpid).result(), flush=True)
second.submit(time.sleep, 60)
os.kill(os.getpid(), 9)
"""


def test_the_second_process_ends_with_a_killed_first():
    run = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, text=True)
    assert run.returncode == -9
    for _ in range(100):
        try:
            os.kill(int(run.stdout), 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the second process goes on")


def test_an_error_ends_it_before_the_folder_is_removed():
    def write():
        with SecondProcess(True) as second:
            pid = second.submit(os.getpid).result()
            try:
                with second.ended_by_errors():
                    raise OSError("disk full")
            finally:
                with pytest.raises(ProcessLookupError):
                    os.kill(pid, 0)

    with pytest.raises(OSError, match="disk full"):
        write()


def leave(error: BaseException) -> int:
    """Start a long task, and raise an error; return the process."""
    with SecondProcess(True) as second:
        error.add_note(str(second.submit(os.getpid).result()))
        second.submit(time.sleep, 60)
        raise error


def test_leaving_ends_the_process_at_once():
    with pytest.raises(KeyboardInterrupt) as caught:
        leave(KeyboardInterrupt())
    with pytest.raises(ProcessLookupError):
        os.kill(int(caught.value.__notes__[0]), 0)
