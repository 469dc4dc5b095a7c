"""What is refused before a library reads it."""

import subprocess
import sys

import h5py
import pytest

from diffvae._core.io.openable import require_openable
from diffvae._errors import DataError

WRITER = "import h5py, sys, time; file = h5py.File(sys.argv[1], 'a'); print('open', flush=True); time.sleep(60)"


def test_a_file_that_is_being_written_is_not_called_damaged(tmp_path):
    file = tmp_path / "cells.h5ad"
    h5py.File(file, "w").close()
    require_openable(file)
    with subprocess.Popen([sys.executable, "-c", WRITER, file], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout.readline() == b"open\n"
            with pytest.raises(DataError, match="is being written by another program; wait until it has closed"):
                require_openable(file)
        finally:
            writer.kill()
    require_openable(file)


@pytest.mark.parametrize("name", ["A.H5AD", "a.h5mu", "a.h5", "a.loom"])
def test_the_reason_of_hdf5_is_said_in_its_few_words(tmp_path, name):
    (tmp_path / name).write_text("no HDF5")
    with pytest.raises(DataError, match=r"another format than its name says \(file signature not found\)\.$"):
        require_openable(tmp_path / name)


@pytest.mark.parametrize("name", ["A.CSV", "a.tsv.gz", "a.txt", "matrix.mtx.gz"])
def test_tables_matrices_and_folders_are_left_to_what_reads_them(tmp_path, name):
    (tmp_path / name).write_text("x")
    require_openable(tmp_path / name)
    require_openable(tmp_path)


def test_an_unknown_format_comes_with_the_known_ones_and_a_way_out(tmp_path):
    (tmp_path / "a.rds").write_text("x")
    with pytest.raises(DataError, match=r"unknown format\. Known formats: \.h5ad, .*zellkonverter"):
        require_openable(tmp_path / "a.rds")
