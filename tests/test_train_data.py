"""Batches: even in size, and the same rows however the matrix is kept."""

import numpy as np
import pytest
import scipy.sparse as sp

from diffvae.train import RowSource
from diffvae.train._data import even_batches


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
