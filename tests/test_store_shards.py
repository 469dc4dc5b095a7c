"""Several files as one: cells of each as they are alone, tables put together, and what doesn't fit said in words."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from _model_data import QUICK, TINY, counts, prepared, trained

import diffvae as dv
from diffvae import _keys
from diffvae._core.io.backed import open_store
from diffvae.model import DiffVAE
from diffvae.model._features import split_rows
from diffvae.pp import DataError

OUT_OF_RANGE = pytest.mark.filterwarnings("ignore:.*lie outside the range of the training cells:UserWarning")


def halves(tmp_path, change=lambda a, b: None, adata=None):
    """Write the two halves of some cells."""
    whole = counts() if adata is None else adata
    a, b = whole[:50].copy(), whole[50:].copy()
    b = change(a, b) or b
    a.write_h5ad(tmp_path / "a.h5ad")
    b.write_h5ad(tmp_path / "b.h5ad")
    return [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]


def logged(adata, total=1e4):
    adata.X = np.log1p(adata.X / adata.X.sum(axis=1, keepdims=True) * total).astype(np.float32)
    return adata


def columns(tmp_path, first, second):
    def change(a, b):
        a.obs["q"], b.obs["q"] = first, second

    store = open_store(halves(tmp_path, change))
    return store.obs["q"], store.notes


def test_counts_of_other_types_are_not_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr("diffvae._core.io.backed_matrix.BackedMatrix.blocks.__defaults__", (500,))

    def change(a, b):
        a.X, b.X = a.X.astype(np.uint8), (b.X * 400).astype(np.int64)

    out = dv.pp.prepare(halves(tmp_path, change), out=tmp_path / "p.h5ad", n_top_genes=None)
    found = ad.read_h5ad(out)
    expected = ad.read_h5ad(tmp_path / "b.h5ad")[:, found.var_names].X
    np.testing.assert_array_equal(found.layers[_keys.COUNTS][50:], expected)
    assert expected.max() > 255


def test_kinds_are_not_mixed(tmp_path):
    paths = halves(tmp_path, lambda a, b: logged(b))
    with pytest.raises(DataError, match=r"'a.h5ad' are counts, those of 'b.h5ad' log-normalised; give files of one"):
        dv.pp.prepare(paths, out=tmp_path / "p.h5ad")
    paths = halves(tmp_path, lambda a, b: (logged(a), logged(b, 1e3))[1])
    with pytest.raises(DataError, match=r"a.h5ad holds ln\(x \+ 1\) of cells that sum to 10,000, b.h5ad .* 1,000"):
        dv.pp.prepare(paths, out=tmp_path / "p.h5ad", n_top_genes=None)


def test_prepared_one_by_one_is_refused(tmp_path):
    a, b = halves(tmp_path)
    first = dv.pp.prepare(a, out=tmp_path / "part1.h5ad", n_top_genes=None)
    second = dv.pp.prepare(b, out=tmp_path / "part2.h5ad", n_top_genes=None, target_sum=500.0)
    for paths in ([first, b], [b, first], [first, second]):
        with pytest.raises(DataError, match=r"'part1.h5ad' has been prepared already, separately"):
            dv.pp.prepare(paths, out=tmp_path / "p.h5ad")


@pytest.mark.parametrize("which", [0, 1])
def test_limits_that_one_file_lacks(which, tmp_path):
    def change(*both):
        del both[which].var[_keys.UNIT_MIN]

    with pytest.raises(DataError, match="were scaled by different limits"):
        DiffVAE(**TINY).train(halves(tmp_path, change, prepared()), **QUICK)


@OUT_OF_RANGE
def test_new_cells_keep_the_totals_and_genes_of_their_own_file(tmp_path):
    model, whole = trained("DiffVAE"), counts(seed=5)
    more = counts(seed=6)  # genes that the model doesn't know, but that count in the totals of the first file
    more.var_names, more.obs_names = [f"other{i}" for i in range(more.n_vars)], whole.obs_names
    wide = ad.concat([whole[:50], more[:50, :30]], axis=1)
    wide.write_h5ad(tmp_path / "a.h5ad")
    whole[50:, :36].copy().write_h5ad(tmp_path / "b.h5ad")
    wide[:0].copy().write_h5ad(tmp_path / "none.h5ad")
    paths = [tmp_path / "a.h5ad", tmp_path / "none.h5ad", tmp_path / "b.h5ad"]
    with pytest.warns(UserWarning, match=r"b.h5ad: 4 of the 40 genes that the model needs"):
        together = model.get_latent_representation(paths)
    np.testing.assert_allclose(together[:50], model.get_latent_representation(wide), atol=1e-6)


def test_a_prepared_file_among_new_ones_is_taken_as_it_is(tmp_path):
    adata = prepared()
    adata.write_h5ad(tmp_path / "prepared.h5ad")
    counts().write_h5ad(tmp_path / "counts.h5ad")
    z = trained("DiffVAE").get_latent_representation([tmp_path / "prepared.h5ad", tmp_path / "counts.h5ad"])
    np.testing.assert_allclose(z[:100], z[100:], atol=1e-5)
    np.testing.assert_array_equal(z[:100], trained("DiffVAE").get_latent_representation(adata))


@OUT_OF_RANGE
def test_what_was_left_out_is_told_everywhere(tmp_path):
    def change(a, b):
        b.obs_names = a.obs_names
        b = b[:, :30].copy()
        del b.raw
        return b

    paths = halves(tmp_path, change, prepared())
    with pytest.warns(UserWarning, match="have 30 genes in common"):
        model = DiffVAE(**TINY).train(paths, **QUICK)
    with pytest.warns(UserWarning, match="have 30 genes in common"):
        model.get_latent_representation(paths)
    with (
        pytest.warns(UserWarning, match="have 30 genes in common"),
        pytest.warns(UserWarning, match="The name of the file was appended"),
    ):
        dv.tl.embed(paths, model, out=tmp_path / "embedded.h5ad")
    fewer = halves(tmp_path, lambda a, b: b[:, :30].copy())
    with (
        pytest.warns(UserWarning, match="have 30 genes in common"),
        pytest.warns(UserWarning, match="Totals of cells were taken over the genes that all files have"),
    ):
        dv.pp.prepare(fewer, out=tmp_path / "p.h5ad", n_top_genes=None)


def test_a_split_that_one_file_lacks_is_told(tmp_path):
    def change(a, b):
        del b.obs[_keys.SPLIT]

    with pytest.warns(UserWarning, match=r"obs\['diffvae_split'\] is missing in 'b.h5ad'"):
        split_rows(open_store(halves(tmp_path, change, prepared())), None, 0)


def test_raw_is_matched_by_name(tmp_path):
    def turned(a, b):
        a.raw, b.raw = a.copy(), b[:, ::-1].copy()
        return b

    store = open_store(halves(tmp_path, turned))
    np.testing.assert_array_equal(store.raw.X.read(0, 100), counts().X)
    assert store.take(np.arange(60)).raw.shape == (60, 40)
    assert not store.notes


def test_raw_that_cannot_be_matched_is_told(tmp_path):
    def fewer(a, b):
        a.raw, b.raw = a.copy(), b[:, 3:].copy()

    def twice(a, b):
        names = a.copy()
        names.var_names = ["gene0", *names.var_names[:-1]]
        a.raw, b.raw = names, b.copy()

    def absent(a, b):
        a.raw = a.copy()

    for change, n, note in (
        (fewer, 37, "adata.raw has 37 genes that all files have"),
        (twice, None, "adata.raw was left out: its gene names occur more than once"),
        (absent, None, "adata.raw is missing in 'b.h5ad'"),
    ):
        store = open_store(halves(tmp_path, change))
        assert (store.raw and store.raw.n_vars) == n
        assert len(store.notes) == 1
        assert note in store.notes[0]


def test_columns_that_some_files_lack_are_named(tmp_path):
    def change(a, b):
        a.obs["donor"], b.obs["age"] = "d", 3

    store = open_store(halves(tmp_path, change))
    assert not set(store.obs) & {"donor", "age"}
    assert store.notes == ["Columns of obs that some files lack were left out: 'donor', 'age'."]


NOTHING = pd.Categorical([None] * 50)
XY = pd.Categorical(["x", "y"] * 25)


@pytest.mark.parametrize(
    ("first", "second", "expected", "note"),
    [
        (pd.Categorical([1, 2] * 25), XY, ["1", "x"], "converted to text"),
        (1, "b", ["1", "b"], "converted to text"),
        (True, XY, ["True", "x"], "converted to text"),
        (pd.array([1, None] * 25, dtype="Int64"), pd.array([True, None] * 25, dtype="boolean"), ["1", "True"], "text"),
        (NOTHING, XY, [np.nan, "x"], ""),
        (np.nan, XY, [np.nan, "x"], ""),
        (XY, NOTHING, ["x", np.nan], ""),
        (NOTHING, NOTHING, [np.nan, np.nan], ""),
        (NOTHING, 3, [np.nan, "3"], "converted to text"),
        ("a", XY, ["a", "x"], ""),
        (1, 2.5, [1.0, 2.5], ""),
        (True, False, [True, False], ""),
        (
            pd.Categorical(["lo"] * 50, categories=["lo", "hi"], ordered=True),
            pd.Categorical(["mid"] * 50, categories=["lo", "mid"], ordered=True),
            ["lo", "mid"],
            "lost their order",
        ),
    ],
)
def test_columns_of_other_types(first, second, expected, note, tmp_path):
    column, notes = columns(tmp_path, first, second)
    pd.testing.assert_series_equal(
        pd.Series(column.iloc[[0, 50]].tolist()), pd.Series(expected), check_dtype=False, check_names=False
    )
    assert bool(notes) == bool(note)
    assert all(note in text for text in notes)
    skeleton = ad.AnnData(obs=column.to_frame())
    skeleton.write_h5ad(tmp_path / "table.h5ad")
    assert ad.read_h5ad(tmp_path / "table.h5ad").obs["q"].isna().sum() == column.isna().sum()


def test_ordered_categories_that_agree_keep_their_order(tmp_path):
    one = pd.Categorical(["lo", "hi"] * 25, categories=["lo", "hi"], ordered=True)
    column, notes = columns(tmp_path, one, one)
    assert column.cat.ordered
    assert not notes


def test_names_are_told_apart_by_folder_or_number(tmp_path):
    paths = []
    for folder in ("x/s1", "x/s2", "y/s1"):
        paths.append(tmp_path / folder / "p.h5ad")
        paths[-1].parent.mkdir(parents=True)
        counts()[:20].copy().write_h5ad(paths[-1])
    assert open_store(paths[:2]).obs_names[[0, 20]].tolist() == ["cell0_0-s1_p", "cell0_0-s2_p"]
    three = open_store(paths).obs_names
    assert three.is_unique
    assert three[[0, 59]].tolist() == ["cell0_0-1", "cell0_19-3"]


def test_the_list_is_looked_at_first(tmp_path, monkeypatch):
    a, _ = halves(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"'a.h5ad' is given twice"):
        open_store([a, "a.h5ad"])
    with pytest.raises(DataError, match=r"object of type AnnData; give the files, .* anndata.concat"):
        dv.pp.prepare([counts(), counts()], out=tmp_path / "p.h5ad")


def test_no_cells_to_diagnose(tmp_path):
    adata = prepared()
    for name in list(adata.layers):
        adata.layers[name] = sp.csr_matrix(adata.layers[name])
    adata[:0].copy().write_h5ad(tmp_path / "none.h5ad")
    with pytest.raises(DataError, match="There are no cells on which to examine"):
        trained("DiffVAE").diagnose(tmp_path / "none.h5ad")
