"""Cells that are not what they seem: either the same result as plain cells, or one sentence."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData, read_h5ad
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import diffvae as dv
from diffvae.pp import DataError

N_CELLS, N_GENES = 40, 30


def counts():
    rng = np.random.default_rng(0)
    x = rng.poisson(rng.lognormal(0, 0.5, (N_CELLS, 1)) * rng.gamma(0.7, 2, N_GENES) + 0.05)
    x[:, 4] = 0
    return x.astype(np.float32)


X = counts()


def per_total(total):
    return X / X.sum(axis=1, keepdims=True) * total


def dense(x):
    return x.toarray() if sp.issparse(x) else np.asarray(x)


def unit_of(adata, **options):
    """Return the unit layer, as a table, so that values are compared with the genes and cells that they are of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        made = dv.pp.prepare(adata, n_top_genes=None, copy=True, **options)
    return pd.DataFrame(dense(made.layers["unit"]), index=made.obs_names, columns=made.var_names)


PLAIN = unit_of(AnnData(sp.csr_matrix(X)))


def of(x):
    return lambda: AnnData(x() if callable(x) else x)


def with_value(value):
    x = X.astype(np.float64)
    x[2, 3] = value
    return of(x)


def read_only():
    adata = AnnData(X.copy())
    adata.X.setflags(write=False)
    return adata


def layer_only():
    obs, var = PLAIN.index, pd.RangeIndex(N_GENES).astype(str)
    return AnnData(layers={"counts": sp.csr_matrix(X)}, obs=pd.DataFrame(index=obs), var=pd.DataFrame(index=var))


def dask_array():
    return AnnData(pytest.importorskip("dask.array").from_array(X, chunks=(10, N_GENES)))


def stored_nan():
    x = sp.csr_matrix(X)
    x.data[7] = np.nan
    return AnnData(x)


def stored_zeros():
    x = sp.csr_matrix(np.where(X == 0, 9, X))
    x.data[X.ravel() == 0] = 0
    return AnnData(x)


WORKS = {
    "int8": (of(X.astype(np.int8)), {}),
    "unsigned 64 bit": (of(X.astype(np.uint64)), {}),
    "extended precision": (of(X.astype(np.longdouble)), {}),
    "the other byte order": (of(X.astype(">f4")), {}),
    "nothing masked": (of(np.ma.masked_array(X, mask=False)), {}),
    "table": (of(lambda: pd.DataFrame(X, index=PLAIN.index, columns=map(str, range(N_GENES)))), {}),
    "strided": (of(np.repeat(np.repeat(X, 2, 0), 2, 1)[::2, ::2]), {}),
    "backwards in memory": (of(X[::-1, ::-1].copy()[::-1, ::-1]), {}),
    "read-only": (read_only, {}),
    "view": (lambda: AnnData(np.vstack([X, X * 3]))[:N_CELLS], {}),
    "view of a CSC matrix": (lambda: AnnData(sp.csc_matrix(np.vstack([X, X * 3])))[:N_CELLS], {}),
    "layers without X": (layer_only, {"layer": "counts"}),
    "negative zeros": (of(np.where(X == 0, np.float32(-0.0), X)), {}),
    "zeros that are stored": (stored_zeros, {}),
    "log given as log": (of(np.log1p(per_total(1e4))), {"kind": "log"}),
    "CPM": (of(per_total(1e6)), {}),
}


@pytest.mark.parametrize("case", WORKS)
def test_same_as_plain_cells(case):
    make, options = WORKS[case]
    unit = unit_of(make(), **options)
    pd.testing.assert_frame_equal(unit, PLAIN, atol=1e-5, check_names=False)


REFUSED = {
    "minus infinity": (with_value(-np.inf), {}, "1 missing or infinite value, the first in cell '2', gene '3'"),
    "NaN that is stored": (stored_nan, {}, "1 missing or infinite value, the first in cell"),
    "beyond single precision": (with_value(1e300), {}, "values, or totals of cells, up to 1e+300"),
    "minus that": (with_value(-1e300), {}, "values, or totals of cells, up to 1e+300"),
    "totals beyond it": (of(X.astype(np.float64) * 1e29), {}, "or totals of cells, up to"),
    "numbers as objects": (of(X.astype(object)), {}, "values of type object, not numbers; convert them"),
    "masked": (of(np.ma.masked_array(X, mask=X > 3)), {}, f"masked array with {(X > 3).sum()} values masked"),
    "masked layer": (
        lambda: AnnData(X, layers={"l": np.ma.masked_array(X, mask=X > 3)}),
        {"layer": "l"},
        "adata.layers['l'] is a masked array",
    ),
    "dask": (dask_array, {}, "adata.X is of type Array; read it into memory"),
    "layers without X, unnamed": (layer_only, {}, "adata.X is missing; it has the layers 'counts': choose one"),
    "one cell": (of(X[:1]), {}, "adata has 1 cell; at least 10 are needed"),
    "one gene that is zero": (of(X[:, 4:5]), {}, "No gene varies in adata.X"),
    "same profile, other depths": (of(np.outer(1.0 + np.arange(20), X[0])), {}, "No gene varies after all"),
    "log as counts": (of(np.log1p(per_total(1e4))), {"kind": "counts"}, "kind is 'counts', but only"),
    "counts as log": (of(X * 100), {"kind": "log"}, "kind is 'log', but adata.X holds values up to"),
    "scaled as log": (of((X - X.mean(0)) / (X.std(0) + 1)), {"kind": "log"}, "kind is 'log', but adata.X has"),
    "scaled already": (of((X - X.mean(0)) / (X.std(0) + 1)), {}, "it was scaled, centred or corrected"),
    "endless total": ((of(X)), {"target_sum": 1e308}, "target_sum is 1e+308; it must be None or a number above 0"),
    "total that is none": ((of(X)), {"target_sum": float("nan")}, "target_sum is nan; it must be"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_one_sentence_and_cells_as_they_were(case):
    make, options, sentence = REFUSED[case]
    adata = make()
    keys = sorted(adata.obs), sorted(adata.var), sorted(adata.layers), sorted(adata.uns)
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        dv.pp.prepare(adata, **options)
    assert str(caught.value).endswith((".", "?"))
    assert "\n" not in str(caught.value)
    assert (sorted(adata.obs), sorted(adata.var), sorted(adata.layers), sorted(adata.uns)) == keys


@pytest.mark.parametrize("share", [1e-2, 1e-7, 1e-35])
def test_small_shares_are_no_counts(share):
    adata = AnnData(per_total(share).astype(np.float64))
    assert dv.pp.check(adata).kind == "normalised"
    pd.testing.assert_frame_equal(unit_of(adata), PLAIN, atol=1e-4)


def test_zeros_hold_nothing_up():
    x = X.copy()
    x[3] = 0
    with pytest.warns(UserWarning, match="Cells without any expression: 1"):
        made = dv.pp.prepare(AnnData(x), n_top_genes=None, copy=True)
    assert not dense(made.layers["unit"])[3].any()
    assert "4" not in made.var_names
    new = dv.pp.prepare_new(
        AnnData(np.zeros((2, N_GENES), np.float32)),
        gene_names=made.var_names,
        minimum=made.var["unit_min"],
        maximum=made.var["unit_max"],
        target_sum=1e4,
    )[0]
    assert not dense(new).any()


@pytest.mark.parametrize("n_genes", [1, 2])
def test_one_or_two_genes_train(n_genes):
    adata = dv.pp.prepare(AnnData(X[:, 10 : 10 + n_genes] + 1), kind="log", copy=True)
    assert trained(adata).get_latent_representation().shape == (N_CELLS, 2)


finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, (12, 4), elements=st.one_of(st.floats(0, 1e38), st.integers(0, 9).map(float), finite)))
@example(np.full((12, 4), 5e-324) * np.arange(4))
@example(np.eye(12, 4) * 3e38)
def test_whatever_the_values_the_unit_layer_is_one_or_there_is_a_sentence(x):
    try:
        unit = unit_of(AnnData(x))
    except DataError as error:
        assert str(error).endswith((".", "?"))  # noqa: PT017 - most draws don't raise
        return
    assert np.isfinite(unit.to_numpy()).all()
    assert unit.to_numpy().min() >= 0
    assert unit.to_numpy().max() <= 1


def test_masked_values_are_not_trained_on():
    adata = dv.pp.prepare(AnnData(X), n_top_genes=None, copy=True)
    adata.layers["unit"] = np.ma.masked_array(adata.layers["unit"], mask=False)
    assert trained(adata).is_trained
    adata.layers["unit"] = np.ma.masked_array(adata.layers["unit"], mask=dense(adata.layers["unit"]) > 0.5)
    with pytest.raises(DataError, match=r"layers\['unit'\] is a masked array with \d+ values masked"):
        trained(adata)


def test_backed_and_lazy_cells_end_in_a_sentence(tmp_path):
    AnnData(sp.csr_matrix(X)).write_h5ad(tmp_path / "a.h5ad")
    adata = read_h5ad(tmp_path / "a.h5ad", backed="r")
    model = dv.model.PCA(n_latent=2)
    with pytest.raises(DataError, match="These cells are on disk"):
        model.train(adata, layer=None)
    with pytest.raises(ValueError, match=r"^The cells are on disk; name the prepared file"):
        dv.pp.prepare(adata)
    adata.file.close()


# Names

NAMES = [
    *("two\nlines", "\ttab", 'it\'s "quoted", twice', "<script>alert(1)</script>", "[red]x[/red]", "😀", "ß" * 10_000),
    *("", " ", "nan", "None", "007", "a/b", "../../etc", "%s{}", "\u202egnp.exe", "e\u0301", "é", "=1+1", "-1"),
]


def trained(adata):
    model = dv.model.DiffVAE(n_latent=2, hidden=(8,))
    return model.train(adata, max_epochs=2, batch_size=16, precision="float32", device="cpu", progress=False)


def named(cells=(), genes=()):
    obs = [*cells, *(f"cell{i}" for i in range(N_CELLS - len(cells)))]
    var = [*genes, *(f"gene{i}" for i in range(N_GENES - len(genes)))]
    return AnnData(X.copy(), obs=pd.DataFrame(index=obs), var=pd.DataFrame(index=var))


def test_odd_names_change_nothing_and_survive(tmp_path):
    adata = named(NAMES, NAMES)
    made = dv.pp.prepare(adata, n_top_genes=None, copy=True)
    np.testing.assert_array_equal(dense(made.layers["unit"]), unit_of(named()).to_numpy())
    made.write_h5ad(tmp_path / "cells.h5ad")
    again = read_h5ad(tmp_path / "cells.h5ad")
    assert again.obs_names.tolist() == adata.obs_names.tolist()
    assert again.var_names.tolist() == made.var_names.tolist()
    assert set(NAMES) - {NAMES[4]} <= set(again.var_names)
    model = trained(made)
    model.save(tmp_path / "model")
    loaded = dv.model.load(tmp_path / "model")
    assert loaded.gene_names.tolist() == again.var_names.tolist()
    shuffled = adata[:, ::-1].copy()
    np.testing.assert_allclose(
        loaded.get_latent_representation(shuffled), model.get_latent_representation(made), atol=1e-5
    )


@pytest.mark.parametrize("bad", ["nul\0", "half \udc80"])
@pytest.mark.parametrize("what", ["Cell", "Gene"])
def test_names_that_no_file_can_hold(bad, what):
    adata = named([bad]) if what == "Cell" else named((), [bad])
    with pytest.raises(DataError, match=f"^{what} name .* holds a character that can't be written to a file"):
        dv.pp.prepare(adata)


# Labels


def labelled():
    adata = named()
    types = np.array(["a", "b", "two"])[np.r_[np.zeros(19, int), np.ones(19, int), 2, 2]]
    adata.obs["type"] = pd.Categorical(types, categories=["a", "b", "two", "never"])
    return adata


@pytest.mark.parametrize("change", ["as it is", "NaN", "numbers", "spaces"])
def test_labels(change):
    adata = labelled()
    if change == "NaN":
        adata.obs.loc[adata.obs_names[:5], "type"] = np.nan
    elif change == "numbers":
        adata.obs["type"] = adata.obs["type"].cat.codes
    elif change == "spaces":
        adata.obs["type"] = adata.obs["type"].cat.rename_categories({"a": " a\n", "b": "😀"})
    result = dv.pipeline.run(
        adata,
        label_key="type",
        n_clusters=2,
        cluster_method="kmeans",
        n_latent=2,
        max_epochs=2,
        links=False,
        progress=False,
        device="cpu",
    )
    found = result.scores.set_index(["method", "score"])["mean"]
    assert np.isfinite(found["DiffVAE", "clusters: adjusted Rand index"])
    assert result.adata.obs["type"].isna().sum() == (5 if change == "NaN" else 0)


def test_batches():
    with pytest.warns(UserWarning, match="fewer than 10 cells did not take part in choosing genes: 'two'"):
        made = dv.pp.prepare(labelled(), n_top_genes=10, batch_key="type", copy=True)
    assert made.n_vars == 10
    missing = labelled()
    missing.obs.loc[missing.obs_names[:5], "type"] = np.nan
    with pytest.raises(DataError, match=r"adata\.obs\['type'\] \(batch_key\) is missing for 5 cells"):
        dv.pp.prepare(missing, batch_key="type")
