"""One folder, one writer: what a second one is told, and that nothing stale is ever in the way."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from diffvae import pipeline
from diffvae._errors import OutputError
from diffvae._files import held, new_folder, one_writer

HOLD = """
import sys, time
from diffvae._files import held
with held(sys.argv[1]):
    print("has it", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Let another process hold the folder ``out``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "has it\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_second_process_is_refused_and_one_that_was_killed_is_in_nobodys_way(tmp_path, other):
    out = tmp_path / "out"
    sentence = rf"Process {other.pid} is writing '{out}'; wait until it is done, or name another\."
    with pytest.raises(OutputError, match=sentence), new_folder(out):
        pytest.fail("was not refused")
    with pytest.raises(OutputError, match=sentence):  # at once, before data are read
        pipeline.run("no such file", out)
    with pytest.raises(OutputError, match=sentence), held(tmp_path / "x" / ".." / "out"):
        pytest.fail("another name of the same folder")
    assert names(tmp_path) == [".out.lock"]
    with held(tmp_path / "another"):
        pass
    other.kill()
    other.wait()
    assert names(tmp_path) == [".out.lock"]  # it lies there still, and means nothing
    with new_folder(out) as folder:
        (folder / "summary.json").write_text("{}")
    assert names(tmp_path) == ["out"]


def test_the_command_says_it_in_one_sentence(diffvae, tmp_path, other):
    code, out, err = diffvae("run", "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: Process {other.pid} is writing")
    assert err.count("\n") == 1
    code, _, err = diffvae("train", "no such file", "--out", tmp_path / "out")
    assert code == 2
    assert err.startswith(f"Error: Process {other.pid} is writing")


def test_a_thread_may_hold_it_twice_and_another_thread_not(tmp_path):
    refused = []

    def other_thread():
        try:
            with held(tmp_path / "out"):
                refused.append("no")
        except OutputError as error:
            refused.append(str(error))

    with held(tmp_path / "out"):
        with held(tmp_path / "out"):
            pass
        assert names(tmp_path) == [".out.lock"]  # the inner one doesn't end it
        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
    assert refused == [
        f"Process {os.getpid()} is writing '{tmp_path / 'out'}'; wait until it is done, or name another."
    ]
    assert names(tmp_path) == []


def test_folders_above_are_made_and_go_again_unless_something_came_in(tmp_path):
    with held(tmp_path / "a" / "b" / "out"):
        assert (tmp_path / "a" / "b").is_dir()
    assert names(tmp_path) == []
    with held(tmp_path / "a" / "b" / "out"):
        (tmp_path / "a" / "kept").write_text("")
    assert names(tmp_path / "a") == ["kept"]


def test_a_folder_that_goes_under_way_is_no_trouble(tmp_path):
    with held(tmp_path / "a" / "out"):
        (tmp_path / "a" / ".out.lock").unlink()
        (tmp_path / "a").rmdir()
    assert names(tmp_path) == []


def test_what_can_not_be_written_is_told(tmp_path):
    with pytest.raises(OutputError, match=r"Nothing can be written in '/proc/x' \(No such file"), held("/proc/x/out"):
        pytest.fail("was not refused")


def test_the_argument_out_is_found_however_it_is_given(tmp_path):
    seen = []

    @one_writer
    def work(data, out=None, *, other=1):
        """Say what is locked."""
        seen.append(names(tmp_path))
        return data + other

    assert work(1, tmp_path / "a", other=2) == 3
    assert work(1, out=tmp_path / "b") == 2
    assert work(1) == 2
    assert seen == [[".a.lock"], [".b.lock"], []]
    assert work.__doc__ == "Say what is locked."


def test_of_many_that_take_turns_no_two_have_it_at_once(tmp_path):
    """The file goes at the end: who had opened it before must not take it for the lock (that would let two in)."""
    inside, most, entered = 0, 0, 0
    guard, deadline = threading.Lock(), time.monotonic() + 1.0

    def visit():
        nonlocal inside, most, entered
        while time.monotonic() < deadline:
            try:
                with held(tmp_path / "out"):
                    with guard:
                        inside, entered = inside + 1, entered + 1
                        most = max(most, inside)
                    with guard:
                        inside -= 1
            except OutputError:
                pass

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert entered > 10
