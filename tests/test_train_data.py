"""Batches from memory and from disk: even in size, each cell once, reproducible, with bounded memory."""

import gc
import weakref
from collections import Counter

import numpy as np
import pytest
import scipy.sparse as sp

from diffvae._core.io.backed_matrix import BackedMatrix, prefetch
from diffvae.train import RowSource, StreamSource
from diffvae.train._data import MIN_BLOCKS, even_batches


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [
        (256, 128, [128, 128]),
        (257, 128, [86, 86, 85]),
        (129, 128, [65, 64]),
        (100, 128, [100]),
        (2, 2, [2]),
        (7, 2, [3, 2, 2]),  # never one cell alone
        (3, 2, [3]),
        (1, 128, [1]),
    ],
)
def test_even_batches(n, batch_size, sizes):
    order = np.random.default_rng(0).permutation(n)
    batches = even_batches(order, batch_size)
    assert [len(b) for b in batches] == sizes
    np.testing.assert_array_equal(np.concatenate(batches), order)


def matrices():
    dense = np.random.default_rng(0).poisson(0.5, (9, 5)).astype(np.float32)
    read_only = dense.copy()
    read_only.flags.writeable = False
    return {
        "dense": dense,
        "double": dense.astype(np.float64),
        "integer": dense.astype(np.int64),
        "read-only": read_only,
        "fortran": np.asfortranarray(dense),
        "csr": sp.csr_matrix(dense),
        "csc": sp.csc_matrix(dense),
        "csr array": sp.csr_array(dense),
    }


@pytest.mark.parametrize("limit", [0, 2**30])
@pytest.mark.parametrize("kind", matrices())
def test_rows_are_the_same_however_the_matrix_is_kept(kind, limit):
    source = RowSource(matrices()[kind], resident_limit=limit)
    index = np.array([7, 0, 7, 3])
    rows = source.rows(index)
    assert rows.dtype.is_floating_point
    assert rows.element_size() == 4
    np.testing.assert_array_equal(rows.numpy(), matrices()["dense"][index])
    assert (len(source), source.shape) == (9, (9, 5))


def test_large_sparse_matrices_stay_sparse():
    matrix = matrices()["csr"]
    assert RowSource(matrix, resident_limit=4 * 9 * 5 - 1)._sparse is not None
    assert RowSource(matrix, resident_limit=4 * 9 * 5)._sparse is None


def test_blocks_cover_all_rows_in_order():
    blocks = RowSource(np.zeros((10, 1))).blocks(4)
    assert [b.tolist() for b in blocks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


# Rows on disk

N, GENES, BLOCK = 4000, 6, 10


def values():
    return np.random.default_rng(0).poisson(0.5, (N, GENES)).astype(np.float32)


class Disk:
    """A matrix in memory that takes note of what is read from it and how much of that is still held."""

    def __init__(self, matrix):
        self.matrix, self.read, self.held, self.most = matrix, [], Counter(), 0
        n_values = matrix.nnz if sp.issparse(matrix) else matrix.size
        self.rows = BackedMatrix(matrix.shape, sp.issparse(matrix), n_values, matrix.dtype, self.reader)

    def reader(self, spans):
        self.read += spans
        numbers = np.concatenate([np.arange(*span) for span in spans])
        found = self.matrix[numbers]
        self.held[len(self.read)] = len(numbers)
        weakref.finalize(found, self.held.pop, len(self.read))
        self.most = max(self.most, self.held.total())
        return found


def source(matrix=None, **options):
    disk = Disk(sp.csr_matrix(values()) if matrix is None else matrix)
    return disk, StreamSource(disk.rows, **({"block": BLOCK, "window_bytes": 1} | options))


def epoch(streamed, rows=None, batch_size=32, seed=0):
    rows = np.arange(N) if rows is None else rows
    return [(b, streamed.rows(b)) for b in streamed.shuffled(rows, batch_size, np.random.default_rng(seed))]


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix], ids=["dense", "sparse"])
@pytest.mark.parametrize("subset", [slice(None), slice(3, None, 7), slice(0, 1500)])
def test_each_cell_once_per_epoch_with_its_own_values(form, subset):
    matrix = form(values())
    rows = np.arange(N)[subset]
    batches = epoch(source(matrix)[1], rows)
    np.testing.assert_array_equal(np.sort(np.concatenate([b for b, _ in batches])), rows)
    sizes = [len(b) for b, _ in batches]
    assert max(sizes) - min(sizes) <= 1
    for batch, x in batches:
        np.testing.assert_array_equal(x.numpy(), values()[batch])


def test_same_seed_same_order_and_other_seed_another():
    first, again, other = (np.concatenate([b for b, _ in epoch(source()[1], seed=s)]) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.9
    assert (np.diff(first) == 1).mean() < 0.05


def test_batches_mix_blocks_from_all_over_the_file():
    _, streamed = source()
    assert streamed.window == MIN_BLOCKS * BLOCK < N / 10
    blocks = [Counter(b // BLOCK) for b, _ in epoch(streamed)]
    assert np.mean([len(c) for c in blocks]) > 15  # of 32 cells; one after the other they would lie in 4
    assert max(max(c.values()) for c in blocks) <= 8
    # a file sorted by type: the shares of four types in a batch are nearly those of a full shuffle
    spread = [
        np.std([np.bincount(b // (N // 4), minlength=4) for b, _ in epoch(s)]) for s in (streamed, RowSource(values()))
    ]
    assert spread[0] < 1.4 * spread[1]


@pytest.mark.parametrize(
    ("genes", "mebibytes", "block"), [(2_000, 64, 256), (10_000, 64, 52), (30_000, 118, 32)], ids=str
)
def test_a_window_has_the_memory_that_is_said(genes, mebibytes, block):
    """Of dense cells: blocks get smaller before the window gets larger."""
    rows = BackedMatrix((10**6, genes), False, 10**6 * genes, np.dtype(np.float32), lambda _: pytest.fail("was read"))
    streamed = StreamSource(rows)
    assert streamed.block == block
    assert streamed.window * rows.bytes_per_row <= mebibytes * 2**20
    assert streamed.window >= MIN_BLOCKS * streamed.block


def test_no_more_than_two_windows_are_held():
    disk, streamed = source()
    for batch in streamed.shuffled(np.arange(N), 32, np.random.default_rng(0)):
        streamed.rows(batch)
    gc.collect()
    # the one in use, the one that was read ahead, and the one that is let go while the next but one begins
    assert disk.most <= 3 * streamed.window < N / 4
    assert sum(b - a for a, b in disk.read) < 1.2 * N
    assert not disk.held


def test_cells_that_fit_are_read_once_and_trained_on_as_in_memory():
    disk, streamed = source(window_bytes=2**20)
    kept = RowSource(values())
    for _ in range(2):
        for (a, x), b in zip(epoch(streamed), kept.shuffled(np.arange(N), 32, np.random.default_rng(0)), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(x.numpy(), kept.rows(b).numpy())
    assert sum(b - a for a, b in disk.read) == N


def test_in_order_covers_the_rows_in_their_order_and_reads_them_once():
    disk, streamed = source()
    rows = np.arange(N)[1::5]
    batches = list(streamed.in_order(rows, 32))
    assert np.concatenate(batches).tolist() == rows.tolist()
    disk.read.clear()
    for batch in streamed.in_order(rows, 32):
        np.testing.assert_array_equal(streamed.rows(batch).numpy(), values()[batch])
    assert sum(b - a for a, b in disk.read) < 1.3 * N


def test_rows_that_are_not_in_the_window_are_read_for_themselves():
    _, streamed = source()
    index = np.array([3999, 7, 7, 2000])
    np.testing.assert_array_equal(streamed.rows(index).numpy(), values()[index])


def test_reading_ahead_is_one_ahead_and_hands_errors_on():
    begun = []

    def task(i):
        begun.append(i)
        if i == 3:
            raise OSError("the disk is gone")
        return i

    found = prefetch([lambda i=i: task(i) for i in range(5)])
    for i in range(3):
        assert next(found) == i
        assert max(begun) <= i + 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)
