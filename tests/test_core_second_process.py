"""A second process gives the same values, logs and errors as none."""

from __future__ import annotations

import os
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
