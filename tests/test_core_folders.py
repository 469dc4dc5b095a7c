import errno
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad

from diffvae import _errors, pipeline
from diffvae._core.io.folders import locked, new_folder, one_writer, refuse_folder, write_csv, write_h5ad, write_text
from diffvae._errors import OutputError, WriteError


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def result(folder, text="{}"):
    folder.mkdir()
    (folder / "summary.json").write_text('{"versions": {"diffvae": "0.1.0"}}')
    (folder / "old.txt").write_text(text)
    return folder


def test_files_arrive_whole(tmp_path):
    write_text("ä\n", tmp_path / "new" / "a.txt")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "ä\n".encode()
    write_csv(pd.DataFrame({"a": [1]}), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "a\n1\n"
    write_h5ad(AnnData(np.ones((2, 3), np.float32)), tmp_path / "a.h5ad")
    assert read_h5ad(tmp_path / "a.h5ad").shape == (2, 3)
    assert names(tmp_path) == ["a.csv", "a.h5ad", "new"]


def test_a_failure_leaves_what_was_there(tmp_path):
    file = tmp_path / "a.h5ad"
    write_h5ad(AnnData(np.ones((2, 3), np.float32)), file)
    with pytest.raises(Exception, match="object"):
        write_h5ad(AnnData(np.ones((5, 3), np.float32), uns={"x": object()}), file)
    assert read_h5ad(file).shape == (2, 3)
    assert names(tmp_path) == ["a.h5ad"]
    with pytest.raises(OutputError, match="is a folder; give the name of a file"):
        write_text("", tmp_path)


def test_files_and_folders_are_as_readable_as_others(tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "a").write_text("")
    with new_folder(tmp_path / "out") as folder:
        write_text("", folder / "a")
    for name in (".", "a"):
        modes = [stat.S_IMODE(os.stat(tmp_path / base / name).st_mode) for base in ("plain", "out")]
        assert modes[0] == modes[1]


@pytest.mark.parametrize("exists", [False, True])
def test_folder_appears_at_the_end(tmp_path, exists):
    out = tmp_path / "deep" / "out"
    if exists:
        out.mkdir(parents=True)
    with new_folder(out) as folder:
        (folder / "a").write_text("")
        assert not (out.exists() and names(out))
        assert folder.parent == out.parent
    assert names(out) == ["a"]
    assert names(out.parent) == ["out"]


def fail_halfway(path, error, **kwargs):
    with new_folder(path, **kwargs) as folder:
        (folder / "half").write_text("")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_nothing_and_the_old_result_as_it_was(tmp_path, error):
    old = result(tmp_path / "out", "precious")
    for path, kwargs in ((tmp_path / "new", {}), (old, {"overwrite": True})):
        with pytest.raises(error):
            fail_halfway(path, error, **kwargs)
    assert names(tmp_path) == ["out"]
    assert (old / "old.txt").read_text() == "precious"


@pytest.mark.parametrize("name", ["out", "link"])
def test_old_result_is_replaced_as_a_whole_also_through_a_link(tmp_path, name):
    old = result(tmp_path / "out")
    (tmp_path / "link").symlink_to(old)
    with new_folder(tmp_path / name, overwrite=True) as folder:
        (folder / "new.txt").write_text("")
        assert (old / "old.txt").exists()
    assert names(old) == ["new.txt"]
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path) == ["link", "out"]


def test_old_result_comes_back_if_the_swap_fails(tmp_path, monkeypatch):
    old = result(tmp_path / "out", "precious")
    rename = type(old).rename

    def failing(self, target):
        if "new.txt" in names(self):
            raise OSError("disk is gone")
        return rename(self, target)

    monkeypatch.setattr(type(old), "rename", failing)
    with pytest.raises(OSError, match="disk is gone"), new_folder(old, overwrite=True) as folder:
        (folder / "new.txt").write_text("")
    assert (old / "old.txt").read_text() == "precious"
    assert names(tmp_path) == ["out"]


def stop_at_rename(number, how):
    """Return code that replaces ``out`` and is stopped right after a rename, the first being that of the old result."""
    return f"""
import os, signal, sys
from pathlib import Path
from diffvae._core.io.folders import new_folder
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
rename, done = Path.rename, []
def stopped(self, target):
    found = rename(self, target)
    done.append(target)
    if len(done) == {number}:
        os.kill(os.getpid(), signal.{how})
    return found
Path.rename = stopped
with new_folder("out", overwrite=True) as folder:
    (folder / "new.txt").write_text("")
    (folder / "summary.json").write_text('{{"versions": {{"diffvae": "0.1.0"}}}}')
"""


KILL, TERM = "SIGKILL", "SIGTERM"
LARGE = [(1, "old.txt", TERM), (2, "new.txt", KILL), (3, "new.txt", KILL), (3, "new.txt", TERM)]


@pytest.mark.parametrize(
    ("number", "file", "how"),
    [(1, "old.txt", KILL), (2, "new.txt", TERM), *(pytest.param(*case, marks=pytest.mark.large) for case in LARGE)],
)
def test_a_replacement_that_is_stopped_between_two_steps_loses_neither(tmp_path, number, file, how):
    out = result(tmp_path / "out", "precious")
    subprocess.run([sys.executable, "-c", stop_at_rename(number, how)], cwd=tmp_path, timeout=120)
    if how == "SIGTERM":
        assert file in names(out)
        assert not [name for name in names(tmp_path) if name.endswith((".lock", ".old"))]
    with pytest.raises(OutputError, match="has results already"), new_folder(out):  # the next command finds it
        pytest.fail("was not refused")
    with pytest.raises(SystemExit):  # and may fail without harm
        fail_halfway(out, SystemExit(143), overwrite=True)
    assert file in names(out)
    assert [name for name in names(tmp_path) if not name.endswith(".lock")] == ["out"]


def test_a_result_on_its_way_is_not_taken_from_who_is_replacing_it(tmp_path):
    moved = result(tmp_path / ".out.0123abcd.old")
    refused = []

    def other():
        try:
            refuse_folder(tmp_path / "out", True)
        except OutputError as error:
            refused.append(str(error))

    with locked(tmp_path / "out"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "is writing" in refused[0]
    assert moved.exists()
    refuse_folder(tmp_path / "out", True)
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "text",
    [
        '{"project": "diffvae", "model": "bert"}',
        '{"versions": {"torch": "2.0"}, "notes": "compared with diffvae"}',
        '{"versions": null, "diffvae": 1}',
        '["diffvae"]',
        "diffvae results, by hand",
        "\xff diffvae",
    ],
)
def test_a_mention_of_diffvae_makes_no_folder_ours(tmp_path, text):
    for name in ("summary.json", "config.json"):
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        (folder / name).write_text(text, encoding="latin-1")
        with pytest.raises(OutputError, match="did not write"), new_folder(folder, overwrite=True):
            pytest.fail("was not refused")
        assert names(folder) == [name]


def test_refusals(tmp_path, monkeypatch):
    def refused(path, message, **kwargs):
        with pytest.raises(OutputError, match=message), new_folder(path, **kwargs):
            pytest.fail("was not refused")

    old = result(tmp_path / "old")
    refused(old, "has results already; name another folder, or pass overwrite")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("")
    (foreign / "config.json").write_text('{"model": "bert"}')
    refused(foreign, "is not empty; name another")
    refused(foreign, "holds files that diffvae did not write", overwrite=True)
    refused(foreign / "thesis.tex", "is a file; give the name of a folder")
    refused(foreign / "thesis.tex" / "out", "Nothing can be written in")
    refused("/proc/x/y", "Nothing can be written in|can't be written")
    monkeypatch.chdir(old)
    refused(".", "is the current folder, or holds it, and can't be replaced", overwrite=True)
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    refused(old, "is a mount point", overwrite=True)
    assert names(tmp_path) == ["foreign", "old"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_fails_on_the_way_is_told_in_one_sentence_and_costs_nothing(tmp_path, number, monkeypatch):
    monkeypatch.setattr(_errors, "hdf5_is_sound", True)  # and again afterwards
    old = result(tmp_path / "out", "precious")
    sentence = rf"'\S+out' can't be written \({os.strerror(number)}\); what was there before is untouched\."
    with pytest.raises(WriteError, match=sentence):
        fail_halfway(old, OSError(number, os.strerror(number), "inner"), overwrite=True)
    hdf5 = f"Can't write data (file write failed: time = Tue Nov 24, errno = {number}, error message = '...')"
    with pytest.raises(WriteError, match=sentence):
        fail_halfway(old, OSError(hdf5), overwrite=True)
    with pytest.raises(WriteError, match="nothing is left of it"):
        fail_halfway(tmp_path / "new", OSError(number, "x"))
    assert names(tmp_path) == ["out"]
    assert (old / "old.txt").read_text() == "precious"


LIMITED = """
import resource, signal, sys
import numpy as np
from anndata import AnnData
from diffvae._errors import WriteError
from diffvae._core.io.folders import write_h5ad, write_text

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
big = AnnData(np.random.default_rng(0).random((100, 1000)))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
for write in (lambda: write_text("x" * 20_000, "a"), lambda: write_h5ad(big, "a.h5ad")):
    try:
        write()
    except WriteError as error:
        print(error)
"""


def test_a_file_larger_than_the_process_may_write(tmp_path):
    """The system's own limit, which comes to a writer as a full disk does.

    In a process of its own: HDF5 that could not write prints tracebacks, and crashes when later files are closed.
    """
    pytest.importorskip("resource")
    write_text("precious", tmp_path / "a")
    done = subprocess.run([sys.executable, "-c", LIMITED], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert re.findall(r"'(\S+)' can't be written \(File too large\)", done.stdout) == ["a", "a.h5ad"]
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "precious"


GROWING = """
import resource, signal, sys, warnings
import numpy as np
from anndata import AnnData
from diffvae._core.io.writer import adata_writer
from diffvae._errors import WriteError

warnings.simplefilter("ignore")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
block = np.random.default_rng(0).random((200, 100))
try:
    with adata_writer(sys.argv[1], AnnData(shape=(1000, 100))) as file:
        for _ in range(5):
            file.append("layers/unit", block)
except WriteError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("a.h5ad", 100_000),
        *(
            pytest.param(*case, marks=pytest.mark.large)
            for case in [("a.h5ad", 3000), ("a.zarr", 3000), ("a.zarr", 10**5)]
        ),
    ],
)
def test_a_full_disk_under_blocks_of_cells(tmp_path, name, limit):
    pytest.importorskip("resource")
    command = [sys.executable, "-c", GROWING, name, str(limit)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == f"'{name}' can't be written (File too large); nothing is left of it.\n"
    assert names(tmp_path) == []


def remove_and_write(out):
    with new_folder(out) as folder:
        shutil.rmtree(out.parent)
        (folder / "a").write_text("")


def test_a_folder_that_is_removed_under_way(tmp_path):
    with pytest.raises(WriteError, match=r"'\S+deep' was removed while 'out' was written into it"):
        remove_and_write(tmp_path / "deep" / "out")
    assert names(tmp_path) == []


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (FileNotFoundError(2, "No such file", "genes.txt"), OSError("odd"), RuntimeError("odd")):
        with pytest.raises(type(error)) as caught:
            fail_halfway(tmp_path / "new", error)
        assert caught.value is error


def test_what_killed_processes_left_is_cleared_away_by_the_next(tmp_path):
    (tmp_path / ".out.0123abcd.tmp").mkdir()
    (tmp_path / ".out.0123abcd.tmp" / "half").write_text("")
    for foreign in (".out.tmp", ".outer.0123abcd.tmp", ".out.0123abcd.tmp.txt"):
        (tmp_path / foreign).write_text("")
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("")
    assert names(tmp_path) == [".out.0123abcd.tmp.txt", ".out.tmp", ".outer.0123abcd.tmp", "out"]


HOLD = """
import sys, time
from diffvae._core.io.folders import locked
with locked(sys.argv[1]):
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


def test_a_second_process_is_refused_and_one_that_was_killed_is_in_nobodys_way(tmp_path, other):
    out = tmp_path / "out"
    sentence = rf"Process {other.pid} is writing '{out}'; wait until it is done, or name another\."
    with pytest.raises(OutputError, match=sentence), new_folder(out):
        pytest.fail("was not refused")
    with pytest.raises(OutputError, match=sentence):  # at once, before data are read
        pipeline.run("no such file", out)
    with pytest.raises(OutputError, match=sentence), locked(tmp_path / "x" / ".." / "out"):
        pytest.fail("another name of the same folder")
    assert names(tmp_path) == [".out.lock"]
    with locked(tmp_path / "another"):
        pass
    other.kill()
    other.wait()
    assert names(tmp_path) == [".out.lock"]  # it lies there still, and means nothing
    with new_folder(out) as folder:
        (folder / "summary.json").write_text("{}")
    assert names(tmp_path) == ["out"]


def test_the_command_says_it_in_one_sentence(diffvae, tmp_path, other):
    (tmp_path / "cells.csv").write_text("cell,Gata1\nc1,3\n")
    code, out, err = diffvae("run", tmp_path / "cells.csv", "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: Process {other.pid} is writing")
    assert err.count("\n") == 1
    code, _, err = diffvae("train", tmp_path / "cells.csv", "--out", tmp_path / "out")
    assert code == 2
    assert err.startswith(f"Error: Process {other.pid} is writing")


def test_a_thread_may_hold_it_twice_and_another_thread_not(tmp_path):
    refused = []

    def other_thread():
        try:
            with locked(tmp_path / "out"):
                refused.append("no")
        except OutputError as error:
            refused.append(str(error))

    with locked(tmp_path / "out"):
        with locked(tmp_path / "out"):
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
    with locked(tmp_path / "a" / "b" / "out"):
        assert (tmp_path / "a" / "b").is_dir()
    assert names(tmp_path) == []
    with locked(tmp_path / "a" / "b" / "out"):
        (tmp_path / "a" / "kept").write_text("")
    assert names(tmp_path / "a") == ["kept"]
    with locked(tmp_path / "b" / "out"):  # and a folder that is removed meanwhile does no harm
        (tmp_path / "b" / ".out.lock").unlink()
        (tmp_path / "b").rmdir()
    with pytest.raises(OutputError, match=r"Nothing can be written in '/proc/x' \(No such file"), locked("/proc/x/out"):
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
                with locked(tmp_path / "out"):
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
