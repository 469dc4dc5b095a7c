import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffvae.pp import DataError, from_unit, to_unit, unscale

FORMS = [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array]


def dense(x):
    return x.toarray() if sp.issparse(x) else x


# Genes: plain; expressed in every training cell; constant in training.
X = np.array([[0.0, 3.0, 5.0], [1.0, 0.0, 5.0], [4.0, 2.0, 6.0]])
LOW, HIGH = [0.0, 2.0, 5.0], [2.0, 4.0, 5.0]


@pytest.mark.parametrize("form", FORMS)
def test_by_hand(form):
    unit, clipped = to_unit(form(X), LOW, HIGH)
    assert dense(unit).tolist() == [[0, 0.5, 0], [0.5, 0, 0], [1, 0, 0]]
    # Cut off: 4 > 2, the zero below 2 (not stored where sparse), 6 beside the constant 5.
    assert clipped == pytest.approx(3 / 9)
    assert unit.dtype == np.float32
    assert sp.issparse(unit) == sp.issparse(form(X))
    assert dense(from_unit(unit, LOW, HIGH)).tolist() == [[0, 3, 5], [1, 2, 5], [2, 2, 5]]


@pytest.mark.parametrize("form", FORMS)
def test_negative_limits(form):
    unit, clipped = to_unit(form(np.array([[0.0], [-1.0], [1.0]])), [-1.0], [3.0])
    assert dense(unit).ravel().tolist() == [0.25, 0, 0.5]
    assert clipped == 0
    assert dense(from_unit(form(dense(unit)), [-1.0], [3.0])).ravel().tolist() == [0, -1, 1]


def test_input_is_left_alone():
    for form in FORMS:
        x = form(X.astype(np.float32))
        to_unit(x, LOW, HIGH)
        assert (dense(x) == X).all()
        from_unit(x, LOW, HIGH)
        assert (dense(x) == X).all()


def test_sparse_stays_as_sparse_as_it_was():
    x = sp.random(200, 50, density=0.1, format="csr", dtype=np.float32, rng=0)
    unit, _ = to_unit(x, np.zeros(50), x.max(axis=0).toarray().ravel())
    assert unit.nnz == x.nnz
    assert unit.format == "csr"


def test_pieces_do_not_matter(monkeypatch):
    whole = [to_unit(form(X), LOW, HIGH) for form in FORMS]
    monkeypatch.setattr("diffvae.pp._scale.BLOCK", 2)
    for form, (unit, clipped) in zip(FORMS, whole, strict=True):
        again, share = to_unit(form(X), LOW, HIGH)
        assert (dense(again) == dense(unit)).all()
        assert share == clipped


@given(
    arrays(np.float32, (5, 3), elements=st.floats(0, 12, width=32)),
    arrays(np.float32, (5, 3), elements=st.floats(0, 12, width=32)),
)
def test_dense_is_sparse_and_back(train, new):
    low, high = train.min(axis=0), train.max(axis=0)
    a, share = to_unit(new, low, high)
    b, other = to_unit(sp.csr_matrix(new), low, high)
    assert (a == b.toarray()).all()
    assert share == other == ((new < low) | (new > high)).mean()
    assert ((a >= 0) & (a <= 1)).all()
    unit, none = to_unit(train, low, high)
    assert none == 0
    np.testing.assert_allclose(from_unit(unit, low, high), train, atol=2e-6)
    np.testing.assert_allclose(from_unit(a, low, high), np.clip(new, low, high), atol=2e-6)


def test_sentences():
    with pytest.raises(ValueError, match="one value for each of the 3 genes"):
        to_unit(X, [0.0], [1.0])
    with pytest.raises(ValueError, match="maximum is below minimum for 3 genes"):
        to_unit(X, np.ones(3), np.zeros(3))
    adata = AnnData(X)
    with pytest.raises(DataError, match=r"run diffvae\.pp\.prepare"):
        unscale(adata)
    adata.var["unit_min"], adata.var["unit_max"] = LOW, HIGH
    with pytest.raises(DataError, match=r"layers\['unit'\] is missing; there are none"):
        unscale(adata)
