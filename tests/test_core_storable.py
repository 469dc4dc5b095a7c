"""Cells as people have them become cells that can be written, and every change is named."""

import threading
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from _cases_storable import (
    COLUMNS,
    ENTRIES,
    GENES,
    LOST,
    NAMES,
    N,
    X,
    named_columns,
    of_a_later_version,
    of_r,
    of_seuratdisk,
    plain_cells,
    with_nullable_names,
    written,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import diffvae as dv
from diffvae._core.io import folders, storable
from diffvae._core.io.backed import open_store
from diffvae._core.io.read import load, read
from diffvae._errors import DataError

QUICK = {"links": False, "max_epochs": 1, "n_latent": 3, "n_clusters": 2, "cluster_method": "kmeans", "progress": False}


def loaded(data):
    """Return what is loaded, and the text of the warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adata, _ = load(data, None)
    texts = [str(w.message) for w in caught if w.category is UserWarning and "were changed" in str(w.message)]
    assert len(texts) <= 1, "one warning names everything"
    return adata, "".join(texts)


def stored(adata, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of "/" in names, which later versions may refuse
        adata.write_h5ad(tmp_path / "stored.h5ad")
    return ad.read_h5ad(tmp_path / "stored.h5ad")


def values(column):
    return [None if missing else value for value, missing in zip(column, pd.isna(column), strict=True)]


def as_lists(value):
    if isinstance(value, dict):
        return {key: as_lists(one) for key, one in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("table", ["obs", "obsm", "uns"])
@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_keeps_its_meaning(kind, table, tmp_path):
    column, is_named, expected = COLUMNS[kind]
    given = plain_cells()
    frame = pd.DataFrame({"v": column}, index=NAMES)
    if table == "obs":
        given.obs["v"] = frame["v"]
    else:
        getattr(given, table)["frame"] = frame
    adata, warned = loaded(given)
    back = stored(adata, tmp_path)
    found = back.obs if table == "obs" else getattr(back, table)["frame"]
    assert values(found["v"])[:3] == expected
    assert ("['v']" in warned) is is_named


def test_ordered_categories_stay_ordered():
    given = plain_cells()
    given.obs["v"] = pd.Categorical([3, "b"] * 3, categories=["b", 3], ordered=True)
    column = loaded(given)[0].obs["v"]
    assert column.cat.ordered
    assert column.cat.categories.tolist() == ["b", "3"]


def test_a_column_of_functions_is_left_out():
    given = plain_cells()
    given.obs["v"] = [len] * N
    adata, warned = loaded(given)
    assert list(adata.obs) == ["t"]
    assert "left out: obs['v']" in warned


@pytest.mark.parametrize("kind", ENTRIES)
def test_an_entry_keeps_its_meaning(kind, tmp_path):
    value, expected = ENTRIES[kind]
    given = plain_cells()
    given.uns["v"] = value
    adata, warned = loaded(given)
    back = stored(adata, tmp_path).uns
    if expected is LOST:
        assert "v" not in back
        assert "left out: uns['v']" in warned
    else:
        np.testing.assert_equal(as_lists(back["v"]), expected)


def test_records_with_gaps(tmp_path):
    given = plain_cells()
    given.uns["rank"] = {"names": np.array([("A", np.nan), ("B", "C")], dtype=[("0", "O"), ("1", "O")])}
    adata, warned = loaded(given)
    names = stored(adata, tmp_path).uns["rank"]["names"]
    assert names["0"].tolist() == ["A", "B"]
    assert names["1"].tolist() == ["nan", "C"]
    assert "uns['rank']['names']['1']" in warned


def test_a_dictionary_that_holds_itself_ends():
    given, own = plain_cells(), {"a": 1}
    given.uns["own"] = own
    own["own"] = own
    adata, warned = loaded(given)
    assert "own" in warned
    assert adata.uns["own"]["a"] == 1


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([0, 1], ["0", "1"]),
        ([("a", "b"), ("a", "c")], ["a_b", "a_c"]),
        (["t", "t"], ["t", "t_1"]),
        ([0, "0"], ["0_1", "0"]),
        (["_index", "x"], ["index", "x"]),
        (["a", "a/b"], ["a", "a_b"]),
        (["a/b", "c"], ["a/b", "c"]),
        (["", "."], ["unnamed", "unnamed_1"]),
    ],
)
def test_names_of_columns(names, expected, tmp_path):
    adata, warned = loaded(named_columns(*names))
    back = stored(adata, tmp_path)
    assert list(back.obs) == expected
    assert back.obs.iloc[0].tolist() == list(range(len(names))), "each has its own values"
    assert all(repr(new) in warned for old, new in zip(names, expected, strict=True) if old != new)


@pytest.mark.parametrize("name", ["t", 0, ("a", "b"), "", "a/b"])
def test_the_name_of_an_index(name, tmp_path):
    given = plain_cells()
    given.obs.index.name = name
    adata, warned = loaded(given)
    assert stored(adata, tmp_path).obs_names.tolist() == NAMES
    assert repr(name) in warned


def test_an_index_of_several_levels(tmp_path):
    given = plain_cells()
    given.obs.index = pd.MultiIndex.from_product([["a", "b"], [1, 2, 3]])
    adata, _ = loaded(given)
    assert stored(adata, tmp_path).obs_names.tolist()[:2] == ["a_1", "a_2"]


def test_matrices(tmp_path):
    given = plain_cells()
    given.X = sparse.csr_array(X)
    given.layers["masked"] = np.ma.array(X, mask=X > 3)
    given.layers["objects"] = X.astype(object)
    given.layers["a/b"] = sparse.csc_array(X)
    given.obsm["words"] = np.array([["a", 1]] * N, dtype=object)
    given.obsm["dates"] = pd.DataFrame({"d": pd.Timestamp("2024-01-31"), 0: 1}, index=NAMES)
    given.obsm["records"] = np.zeros(N, dtype=[("a", "i4")])
    adata, warned = loaded(given)
    back = stored(adata, tmp_path)
    np.testing.assert_array_equal(back.X.toarray(), X)
    np.testing.assert_array_equal(back.layers["masked"], np.where(X > 3, np.nan, X))
    np.testing.assert_array_equal(back.layers["objects"], X)
    np.testing.assert_array_equal(back.layers["a_b"].toarray(), X)
    assert back.obsm["words"][0].tolist() == ["a", "1"]
    assert list(back.obsm["dates"]) == ["d", "0"]
    assert "records" not in back.obsm
    parts = ["layers['masked']", "layers['objects']", "layers['a/b']", "obsm['words']", "obsm['records']"]
    assert all(part in warned for part in parts)


def test_raw(tmp_path):
    given = plain_cells()
    var = pd.DataFrame({"s": ["a", 1, None, 2.5, True], 0: 1}, index=GENES)
    given.raw = ad.AnnData(sparse.csr_array(X), obs=given.obs[[]], var=var)
    adata, warned = loaded(given)
    raw = stored(adata, tmp_path).raw
    assert values(raw.var["s"]) == ["a", "1", None, "2.5", "True"]
    assert list(raw.var) == ["s", "0"]
    np.testing.assert_array_equal(raw.X.toarray(), X)
    assert "raw.var['s']" in warned
    assert "raw.var[0]" in warned


def test_what_the_user_has_stays():
    given = plain_cells()
    given.obs["v"], given.uns["v"] = [1, "a"] * 3, {0: {1}}
    loaded(given)
    assert given.obs["v"].tolist() == [1, "a"] * 3
    assert given.uns["v"] == {0: {1}}


def test_plain_cells_are_loaded_without_a_word():
    assert loaded(plain_cells())[1] == ""


def test_values_that_are_no_numbers_are_refused():
    given = plain_cells()
    given.X = np.full(X.shape, "a", dtype=object)
    with pytest.raises(DataError, match="not numbers"):
        load(given, None)


def test_what_fails_even_so_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(storable, "plain_table", lambda table, place, changes: table)
    given = plain_cells()
    given.obs["bad one"] = [1, "a"] * 3
    with pytest.raises(DataError, match=r"obs can't be written .*bad one"):
        load(given, None)


@pytest.mark.parametrize("as_arrays", [False, True])
def test_seuratdisk(as_arrays, tmp_path):
    path = of_seuratdisk(tmp_path / "seurat.h5ad", as_arrays)
    adata, warned = loaded(path)
    back = stored(adata, tmp_path)
    assert back.raw.var_names.tolist() == GENES
    assert "raw.var" in warned
    assert values(back.obs["t"]) == ["a", "a", "b", "b", "c", None]
    np.testing.assert_array_equal(back.X.toarray(), X)
    store = open_store(path)
    assert store.raw.var_names.tolist() == GENES
    np.testing.assert_array_equal(store.matrix(None).at(np.arange(N)).toarray(), X)


def test_a_matrix_as_r_has_it(tmp_path):
    adata, _ = loaded(of_r(tmp_path / "r.h5ad"))
    np.testing.assert_array_equal(adata.X.toarray(), X)


def test_a_file_of_a_later_version_is_read_without_its_unknown_parts(tmp_path):
    path = of_a_later_version(tmp_path / "later.h5ad")
    with pytest.warns(UserWarning, match="left out") as caught:
        adata = read(path)
    for part in ("obs['q']", "var['z']", "obsm['X_odd']", "uns['odd']['a']"):
        assert part in str(caught[0].message)
    assert list(adata.obs) == ["t"]
    assert list(adata.obsm) == ["X_pca"]
    assert adata.uns["odd"]["b"] == 1
    np.testing.assert_array_equal(adata.X.toarray(), X)
    store = open_store(path)
    assert list(store.obs) == ["t"]
    assert "obs['q']" in "".join(store.notes)


def test_unreadable_values_are_refused(tmp_path):
    import h5py

    with h5py.File(written(tmp_path / "x.h5ad"), "r+") as file:
        file["X"].attrs["encoding-type"] = "from-the-future"
    with pytest.raises(DataError, match="can't be read"):
        read(tmp_path / "x.h5ad")


def test_nullable_names_in_memory_and_on_disk(tmp_path):
    path = with_nullable_names(tmp_path / "nullable.h5ad")
    adata, warned = loaded(path)
    assert stored(adata, tmp_path).obs_names.tolist() == NAMES
    assert warned == ""
    assert open_store(path).obs.index.dtype == object


def test_an_entry_added_after_loading_does_not_lose_the_rest(tmp_path):
    adata = plain_cells()
    adata.uns["lock"] = threading.Lock()
    with pytest.warns(UserWarning, match=r"uns\['lock'\]"):
        folders.write_h5ad(adata, tmp_path / "saved.h5ad")
    np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "saved.h5ad").X, X)


def test_a_run_on_cells_that_could_not_be_written(tmp_path):
    given = dv.datasets.pbmc68k_reduced()[:100].copy()
    given.obs["type"] = pd.array(given.obs["cell_type"].astype(str), dtype="string")
    given.obs["mixed"], given.obs["when"] = [1, "a"] * 50, pd.Timestamp("2024-01-31")
    given.obs[0], given.uns["odd"] = 1, {0: {1, 2}, "f": len}
    given.obs.index.name = "type"
    steps = []
    result = dv.pipeline.run(given, tmp_path / "out", label_key="type", on_step=steps.append, **QUICK)
    assert result.scores is not None
    warned = " ".join(result.summary["warnings"])
    assert all(part in warned for part in ("obs['mixed']", "obs['when']", "obs[0]", "uns['odd']['f']", "'type' of obs"))
    assert ad.read_h5ad(tmp_path / "out" / "results.h5ad").obs["mixed"].tolist()[:2] == ["1", "a"]


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.dates(), st.binary(max_size=3),
    st.just(pd.NA), st.just(pd.NaT), st.sampled_from([len, {1}, (1, "a")]),
)  # fmt: skip
KEYS = st.one_of(st.text(max_size=5), st.integers(0, 3), st.tuples(st.text(max_size=2), st.integers(0, 2)))
ENTRY = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)
COLUMN = st.one_of(
    st.lists(SCALARS, min_size=N, max_size=N),
    st.sampled_from([column for column, *_ in COLUMNS.values()]),
)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.dictionaries(KEYS, COLUMN, max_size=4), st.dictionaries(KEYS, ENTRY, max_size=4), st.booleans())
def test_an_anndata_as_people_have_it(tmp_path_factory, columns, entries, of_genes):
    given = plain_cells()
    given = ad.AnnData(np.eye(N, dtype="float32"), obs=given.obs, var=pd.DataFrame(index=[f"g{i}" for i in range(N)]))
    axis = "var" if of_genes else "obs"
    index = getattr(given, f"{axis}_names")
    table = pd.DataFrame(index=index)
    for i, column in enumerate(columns.values()):
        table[i] = pd.Series(column, dtype=object).to_numpy() if isinstance(column, list) else column
        if isinstance(column, pd.Series):
            table[i] = column.array
    table.columns = pd.Index(list(columns), dtype=object, tupleize_cols=False)
    setattr(given, axis, table)
    given.uns.update(entries)
    adata, warned = loaded(given)
    back = stored(adata, tmp_path_factory.mktemp("people"))
    np.testing.assert_array_equal(back.X, given.X)
    assert back.obs_names.tolist() == given.obs_names.tolist()
    assert back.var_names.tolist() == given.var_names.tolist()
    names = list(getattr(back, axis))
    assert all(key in names or repr(key) in warned for key in columns)
    assert all(key in back.uns or f"uns[{key!r}]" in warned for key in entries)
