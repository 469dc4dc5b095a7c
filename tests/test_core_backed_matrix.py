"""Runs of rows: stacked without loss, cut where the values are, and none at all."""

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from diffvae._core.io.backed_matrix import BackedMatrix, select_genes, stack
from diffvae._core.io.writer import adata_writer


def rows_of(matrix):
    sparse = sp.issparse(matrix)
    glue = (lambda parts: sp.vstack(parts, format="csr")) if sparse else np.concatenate

    def read(spans):
        return glue([matrix[start:stop] for start, stop in spans])

    n_values = matrix.nnz if sparse else matrix.size
    pointers = matrix.indptr.astype(np.int64) if sparse else None
    return BackedMatrix(matrix.shape, sparse, n_values, matrix.dtype, read, pointers)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_every_block_of_a_stack_has_the_type_of_the_whole(form):
    small, large = np.full((4, 3), 200, np.uint8), np.full((4, 3), 4000, np.int32)
    whole = stack([rows_of(form(small)), rows_of(form(large))])
    assert whole.dtype == np.int32
    assert [whole.read(*span).dtype for span in ((0, 2), (4, 6), (2, 6))] == [np.int32] * 3
    assert whole.read(0, 8).max() == 4000


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_a_file_refuses_values_that_its_type_cannot_hold(form, tmp_path):
    with adata_writer(tmp_path / "cells.h5ad", AnnData(np.zeros((8, 3), np.float32))) as file:
        file.append("X", form(np.ones((4, 3), np.uint8)))
        with pytest.raises(TypeError, match="X is written as uint8, which doesn't hold all values of int32"):
            file.append("X", form(np.full((4, 3), 4000, np.int32)))


def skewed():
    """A hundred cells with all genes, and many with hardly any."""
    rng = np.random.default_rng(0)
    full = sp.csr_matrix(rng.random((100, 40)))
    return sp.vstack([full, sp.random(3900, 40, 0.005, random_state=1, format="csr")], format="csr")


def test_dense_stretches_do_not_make_large_blocks():
    matrix = skewed()
    one = rows_of(matrix)
    for rows in (one, stack([one, one]), select_genes(one, np.arange(0, 40, 2))):
        cuts = rows.cuts(200)
        assert [cut[0] for cut in cuts[1:]] == [cut[1] for cut in cuts[:-1]]
        assert (cuts[0][0], cuts[-1][1]) == (0, len(rows))
        assert max(rows.read(*cut).nnz for cut in cuts) <= 220
    assert one.cuts(1)[0] == (0, 1)  # a row is read whole, however many values it has
    mixed = stack([one, rows_of(np.ones((50, 40)))])
    assert max(mixed.read(*cut).nnz for cut in mixed.cuts(200)) <= 200


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_no_rows_are_a_matrix_too(form):
    nothing = rows_of(form(np.zeros((0, 3), np.float32)))
    for rows in (nothing, stack([nothing, nothing])):
        assert rows.sample(100, np.random.default_rng(0))[1].shape == (0, 3)
        assert rows.at(np.arange(0)).shape == (0, 3)
        assert list(rows.blocks()) == []
