"""Genes are found where their names stand, in the form that matches most."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffvae._core.genes import find, plain, table
from diffvae._errors import DataError

SYMBOLS = [f"Gene{i}" for i in range(40)]
IDS = [f"ENSMUSG{i:011d}" for i in range(40)]

FORMS = {
    "bar": lambda s, i: f"{i}|{s}",
    "bar behind": lambda s, i: f"{s}|{i}",
    "identifier first": lambda s, i: f"{i}_{s}",
    "version and symbol": lambda s, i: f"{i}.12_{s}",
    "identifier last": lambda s, i: f"{s}_{i}",
    "hyphen": lambda s, i: f"{i}-{s}",
    "chromosome": lambda s, i: f"{s}__chr11",
    "Seurat's chromosome": lambda s, i: f"{s}--chrX",
    "genome": lambda s, i: f"mm10_{s}",
    "genome of three bars": lambda s, i: f"mm10___{s}",
    "genome GRC": lambda s, i: f"GRCm39_{s}",
    "genome of Seurat": lambda s, i: f"GRCm39-{s}",
    "blanks": lambda s, i: f" {s} ",
    "case": lambda s, i: s.upper(),
    "number": lambda s, i: f"{s} ({len(i)})",
    "transcript": lambda s, i: f"ENSMUST00000000001.2|{i}.3|-|{s}-201|{s}|1350|",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_symbols_are_found_in_parts_of_names(form):
    var = pd.DataFrame(index=[form(s, i) for s, i in zip(SYMBOLS, IDS, strict=True)])
    found = find([*SYMBOLS[::-1], "Other"], var)
    assert found.position.tolist() == [*range(39, -1, -1), -1]
    assert var.index[0] == form(SYMBOLS[0], IDS[0])


@pytest.mark.parametrize(
    "column", ["feature_name", "gene_names", "Gene Symbol", "gene.symbols", "SYMBOL", "gene_short_name", "anything"]
)
def test_symbols_are_found_in_a_column(column):
    names = pd.Categorical([*SYMBOLS[:-1], None])
    var = pd.DataFrame({"mt": False, "biotype": ["a", "b"] * 20, column: names}, index=IDS)
    found = find(SYMBOLS, var)
    assert found.position.tolist() == [*range(39), -1]
    assert found.how == f"var[{column!r}] ('{IDS[0]}' is 'Gene0')"
    back = find(IDS, var.set_index(var[column].astype(object).fillna("x")).assign(gene_ids=IDS))
    assert back.position.tolist() == list(range(40))
    assert back.how.startswith("var['gene_ids']")


def test_names_stay_those_of_the_index_unless_others_match_clearly_more():
    var = pd.DataFrame({"human": [s.upper() for s in SYMBOLS]}, index=SYMBOLS)
    assert find(SYMBOLS, var).how == "" == find([s.upper() for s in SYMBOLS], var).how
    var = pd.DataFrame({"name": SYMBOLS}, index=[*SYMBOLS[:30], *IDS[30:]])
    assert find(SYMBOLS, var).how == ""  # 40 are less than 1.5 times 30
    assert find(SYMBOLS, var.set_axis([*SYMBOLS[:20], *IDS[20:]], axis=0)).how.startswith("var['name']")


def test_case_is_ignored_for_unique_matches_only():
    var = pd.DataFrame(index=["GATA1", "gata1", "Sox9", "Sox9-1"])
    assert find(["Gata1", "SOX9", "gata1"], var).position.tolist() == [-1, 2, 1]
    assert find(["SOX9"], var, fold=False).position.tolist() == [-1]


def test_a_column_that_is_named_decides():
    var = pd.DataFrame({"a": SYMBOLS, "b": SYMBOLS[::-1]}, index=SYMBOLS)
    assert find(SYMBOLS[:2], var, column="b").position.tolist() == [39, 38]
    with pytest.raises(DataError, match=r"adata.var has no column 'c'; it has: a, b"):
        find(SYMBOLS, var, column="c")


def test_raw_has_the_columns_of_the_other_table():
    from anndata import AnnData

    adata = AnnData(np.ones((2, 40), "float32"), var=pd.DataFrame(index=IDS))
    adata.raw = adata
    adata = adata[:, :30].copy()
    adata.var["symbol"] = SYMBOLS[:30]
    raw = table(adata, raw=True)
    assert raw.index.tolist() == IDS
    assert raw["symbol"].tolist()[:30] == SYMBOLS[:30]
    assert find(SYMBOLS, raw).position.tolist() == [*range(30), *[-1] * 10]
    assert list(adata.raw.var) == []


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    st.lists(
        st.from_regex(r"[A-Z][A-Za-z]{1,4}[0-9]{1,2}(-[0-9A-C])?", fullmatch=True), min_size=4, unique_by=str.lower
    ),
    st.sampled_from(list(FORMS)),
)
def test_whatever_the_symbols_no_gene_gets_the_row_of_another(symbols, form):
    ids = [f"ENSG{i:011d}" for i in range(len(symbols))]
    var = pd.DataFrame(index=[FORMS[form](s, i) for s, i in zip(symbols, ids, strict=True)])
    position = find(symbols, var).position
    assert (position == np.arange(len(symbols))).all()


def test_plain_names_stay():
    for name in ("HLA-DRA", "NKX2-1", "H2-K1", "mt-Nd1", "MT-CO1", "RP11-34P13.7", "AC233755.1", "si:ch211-1", "Hg1"):
        assert plain(name) == name
