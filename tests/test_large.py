"""Tests that take minutes and gigabytes. Every measured step runs in its own process."""

import json
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from diffvae import _keys

pytestmark = pytest.mark.large
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PEAK = "; import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)"


def python(*arguments, cwd=None, **environment):
    command = [sys.executable, "-W", "ignore", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_table(path, n_cells, n_genes):
    """Write counts of one digit as a table of text, and return their sum."""
    rng, total = np.random.default_rng(0), 0
    with path.open("wb") as file:
        file.write(b"cell," + ",".join(f"gene{i}" for i in range(n_genes)).encode() + b"\n")
        for start in range(0, n_cells, 2000):
            counts = np.minimum(rng.poisson(0.15, (2000, n_genes)), 9).astype(np.uint8)
            names = np.frombuffer("".join(f"c{start + i:07d}," for i in range(2000)).encode(), np.uint8).reshape(
                2000, 9
            )
            values = np.full((2000, 2 * n_genes), ord(","), np.uint8)
            values[:, ::2], values[:, -1] = counts + ord("0"), ord("\n")
            file.write(np.hstack([np.frombuffer(names, np.uint8).reshape(2000, 9), values]).tobytes())
            total += int(counts.sum())
    return total


def test_a_table_of_100_000_cells_needs_the_memory_stated_in_the_readme(tmp_path):
    total = write_table(tmp_path / "cells.csv", 100_000, 2_000)
    read = f"from diffvae._core.io.read import read; x = read({str(tmp_path / 'cells.csv')!r}).X"
    shown, peak = python("-c", read + "; print(x.shape, int(x.data.sum(dtype=float)))" + PEAK).splitlines()
    assert shown == f"(100000, 2000) {total}"
    assert float(peak) < 0.9  # the README states 0.6 GiB


def test_memory_is_the_same_for_200_000_and_1_000_000_cells(tmp_path):
    lines = python(BENCHMARKS / "stream.py", "--folder", tmp_path).splitlines()
    peaks = [float(line.split(" peak ")[1].split()[0]) for line in lines if " peak " in line]
    growth = next(line for line in lines if line.startswith("memory"))
    assert len(peaks) == 6
    assert max(peaks) < 3
    assert all(float(part.split()[1]) < 1.5 for part in growth.split(": ")[1].split(", "))


def test_a_whole_run_with_variable_genes_of_300_000_cells_on_disk(tmp_path):
    python(BENCHMARKS / "stream.py", "--step", "generate", json.dumps([str(tmp_path / "raw.h5ad"), 300_000]))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    line = "run raw.h5ad --out found --n-top-genes 1000 --max-epochs 1 --label-key type --subsample 5000"
    output = python("-m", "diffvae", *shlex.split(line), cwd=tmp_path)
    assert "5,000 sampled of 300,000 cells" in output
    assert max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 2**20 < 3
    cells = ad.read_h5ad(tmp_path / "found" / "all_cells.h5ad")
    assert cells.shape[0] == 300_000
    top = pd.crosstab(cells.obs["type"], cells.obs[_keys.CLUSTER]).max(axis=1) / cells.obs["type"].value_counts()
    assert top.median() > 0.9  # of 20 separate types most cells are in one cluster, also those outside the sample
    sample = ad.read_h5ad(tmp_path / "found" / "results.h5ad")
    assert sample.n_vars == 1000
    assert sp.issparse(sample.X)


def test_the_demo_is_the_same_with_1_2_and_4_threads(tmp_path):
    for n in ("1", "2", "4"):
        python("-m", "diffvae", "run", "--out", n, cwd=tmp_path, OMP_NUM_THREADS=n)
    first = tmp_path / "1"
    tables = sorted(file.relative_to(first) for file in first.rglob("*.csv"))
    assert len(tables) > 20
    for n in ("2", "4"):
        for file in (*tables, Path("model/weights.safetensors"), Path("links/model/weights.safetensors")):
            assert (tmp_path / n / file).read_bytes() == (first / file).read_bytes(), file
        one, other = (ad.read_h5ad(folder / "results.h5ad") for folder in (first, tmp_path / n))
        pd.testing.assert_frame_equal(one.obs, other.obs, check_exact=True)
        for key in one.obsm:
            np.testing.assert_array_equal(one.obsm[key], other.obsm[key])
