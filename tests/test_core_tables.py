"""Tables as people write them: the same matrix, names and orientation, or a refusal."""

import warnings

import numpy as np
import pandas as pd
import pytest
from _cases_tables import BY_CELL, BY_GENE, CELLS, GENES, IDS, PLATE, X, same, write
from hypothesis import given, settings
from hypothesis import strategies as st

from diffvae._core.io.aside import excel_dates, totals
from diffvae._core.io.dialect import sniff
from diffvae._core.io.features import is_annotation_column, is_counter, is_quality_column
from diffvae._core.io.orientation import evidence
from diffvae._core.io.read import read
from diffvae._errors import DataError

# How it is written


def rows(separator, tail="", header_tail="", corner="cell", form=str):
    header = separator.join([*([corner] if corner is not None else []), *GENES])
    body = "".join(
        separator.join([cell, *(form(int(v)) for v in values)]) + tail + "\n"
        for cell, values in zip(CELLS, X, strict=True)
    )
    return f"{header}{header_tail}\n{body}"


DIALECTS = {
    "comma": rows(","),
    "comma and blank": rows(", "),
    "semicolon": rows(";"),
    "tab": rows("\t"),
    "pipe": rows("|"),
    "blank": rows(" "),
    "columns of blanks": rows("   ", corner=None),
    "R": rows("\t", corner=None),
    "R in quotes": rows(",", corner='""'),
    "separator at the end of lines": rows("\t", tail="\t"),
    "separator at the end of all": rows(",", tail=",", header_tail=","),
    "separator at the end of the header": rows(",", header_tail=","),
    "many at the end": rows(";", tail=";;;", header_tail=";;;"),
    "R with a separator at the end of lines": rows(",", tail=",", corner=None),
    "comments": '# Program: x, y, z\n# Command: "a" b\n' + rows("\t"),
    "comments of another kind": "%one\n\n%two, three\n" + rows(","),
    "header in a comment": "# made by x\n#" + rows("\t"),
    "empty lines": "\n\n" + rows(",") + "\n",
    "a title": "My cells, 2020\n\n" + rows("\t"),
    "a title and lines of separators": "My cells;;;;;;;\n;;;;;;;\n" + rows(";") + ";;;;;;;\n;;;;;;;\n",
    "a comment at the end": rows(",") + "# end\n",
    "decimal point": rows(",", form=lambda v: f"{v}.0"),
    "decimal comma": rows(";", form=lambda v: f"{v},0"),
    "decimal comma, tabs": rows("\t", form=lambda v: f"{v},00"),
    "exponents": rows("\t", form=lambda v: f"{v}e+00"),
    "quoted numbers": rows(",", form=lambda v: f'"{v}"'),
}


@pytest.mark.parametrize("case", DIALECTS)
def test_dialects(tmp_path, case):
    same(read(write(tmp_path / "a.txt", DIALECTS[case])))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_ends_of_lines(tmp_path, encoding, end):
    text = rows("\t").replace(CELLS[-1], f"é_{CELLS[-1]}").replace("\n", end)
    same(read(write(tmp_path / "a.tsv.gz", text, encoding)), cells=[*CELLS[:-1], f"é_{CELLS[-1]}"])


def test_a_byte_beyond_the_first_lines_decides_the_encoding(tmp_path):
    text = "cell,Gata1\n" + "".join(f"c{i},1\n" for i in range(99)) + "é_c99,2\n"
    assert read(write(tmp_path / "a.csv", text, "latin-1")).obs_names[-1] == "é_c99"


def test_decimal_commas_further_down(tmp_path):
    text = "cell;Gata1;Spi1\n" + "".join(f"c{i};1;2\n" for i in range(99))
    assert read(write(tmp_path / "a.csv", text + "c99;1,5;2\n")).X[-1].tolist() == [1.5, 2]
    with pytest.raises(DataError, match=r"'Gata1' of .* is not numeric: it holds '1,500'"):
        read(write(tmp_path / "a.csv", text + "c99;1,500;2\n"))


def test_thousands(tmp_path):
    adata = read(write(tmp_path / "a.csv", "cell;Gata1;Spi1\nc1;1,234,567;0\nc2;12,345;3\n"))
    assert adata.X.tolist() == [[1234567, 0], [12345, 3]]
    with pytest.raises(DataError, match=r"'1,234', which may be a decimal comma or a mark of thousands"):
        read(write(tmp_path / "a.csv", "cell;Gata1;Spi1\nc1;1,234;0\nc2;12,345;3\n"))


def test_thousands_of_columns(tmp_path):
    table = pd.DataFrame(np.arange(12_000).reshape(2, 6000) % 7, index=["c1", "c2"])
    table.columns = [f"gene{i}" for i in range(6000)]
    pd.testing.assert_frame_equal(
        read(write(tmp_path / "a.csv", table.to_csv())).to_df(), table.astype("float32"), check_names=False
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f",T,B,T,B,T\n{BY_GENE.to_csv()}", "more than one line of names"),
        (BY_GENE.to_csv().replace("\n", "\ntype,T,B,T,B,T\n", 1), "more than one line of names.*'T'"),
        (rows(",", tail=",7"), "names 7 columns, but its lines have 8"),
        (rows(",", tail=",7,8"), "names 7 columns, but its lines have 9"),
        (f"{rows(',')}x,1,2,3,4,5,6,7,8,9\n", "can't be read"),
        ("sample,Gata1,Spi1\ns,1,2\ns,3,4\ns,5,6\n", "'s' in every line, which names nothing"),
        ("a,b,Gata1\ns,t,2\ns,t,4\ns,t,6\n", "hold the same in every line"),
        ("a,b\nx,y\nz,w\n", "no column of numbers"),
    ],
)
def test_what_is_no_table(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "a.csv", text))


def test_a_value_beyond_the_header_further_down(tmp_path):
    text = "cell,Gata1,Spi1\n" + "".join(f"c{i},1,2,\n" for i in range(99)) + "c99,1,2,3\n"
    with pytest.raises(DataError, match=r"names 2 columns, but some of its lines have 3: 'c99' has '3.0'"):
        read(write(tmp_path / "a.csv", text))


# Columns beside the matrix


def test_columns_beside_the_names_of_genes(tmp_path):
    table = BY_GENE.reset_index(drop=True)
    for name, values in {
        "Length": 1000,
        "Strand": "+",
        "Start": [248_000_001 + i for i in range(7)],
        "Chr": ["1", "X", "chr3", "4", "5;5", "MT", "7"],
        "gene_biotype": "protein_coding",
        "gene_name": GENES,
        "gene_id": IDS,
    }.items():
        table.insert(0, name, values)
    table["description"] = [f"a protein, number {i}" for i in range(7)]
    with pytest.warns(
        UserWarning, match="'gene_biotype', 'Chr', 'Start', 'Strand', 'Length'.* are no cells; .* in var"
    ):
        adata = same(read(write(tmp_path / "a.csv", table.to_csv(index=False)), transpose=True))
    assert adata.var["gene_ids"].tolist() == IDS
    assert adata.var["Start"].tolist() == [248_000_001 + i for i in range(7)]  # float32 could not hold them
    assert adata.var["Chr"].tolist() == ["1", "X", "chr3", "4", "5;5", "MT", "7"]
    assert adata.var["description"].tolist()[1] == "a protein, number 1"


@pytest.mark.parametrize("order", [["gene_id", "gene_name"], ["gene_name", "gene_id"], ["a", "b"]])
@pytest.mark.parametrize("numbered", [False, True])
def test_two_columns_of_names(tmp_path, order, numbered):
    table = BY_GENE.reset_index(drop=True)
    table.insert(0, order[1], GENES if order[1] != "gene_id" else IDS)
    table.insert(0, order[0], GENES if order[0] == "gene_name" else IDS)
    adata = same(read(write(tmp_path / "a.txt.gz", table.to_csv(sep="\t", index=numbered)), transpose=True))
    assert adata.var["gene_ids"].tolist() == IDS


def test_columns_beside_the_names_of_cells(tmp_path):
    table = BY_CELL.reset_index(names="barcode")
    table.insert(0, "sample", "s1")
    table.insert(0, "Unnamed: 0", range(5))
    table["my_label"] = list("abbab")
    table["nCount_RNA"] = X.sum(1)
    table["percent.mt"] = 0.5
    with pytest.warns(UserWarning, match="'sample', 'my_label', 'nCount_RNA', 'percent.mt' are no genes"):
        adata = same(read(write(tmp_path / "a.csv", table.to_csv(index=False))))
    assert adata.obs["my_label"].tolist() == list("abbab")
    assert np.allclose(adata.obs["nCount_RNA"], X.sum(1))


def test_true_and_false_are_no_expression(tmp_path):
    table = BY_CELL.assign(is_doublet=[True, False, True, False, True], keep=["TRUE", "FALSE"] * 2 + ["TRUE"])
    with pytest.warns(UserWarning, match="'is_doublet', 'keep' are no genes"):
        adata = same(read(write(tmp_path / "a.csv", table.to_csv())))
    assert adata.obs["is_doublet"].tolist() == ["True", "False", "True", "False", "True"]


def test_gct(tmp_path):
    body = "".join(f"{g}\tna\t" + "\t".join(map(str, X[:, i])) + "\n" for i, g in enumerate(GENES))
    text = "#1.2\n7\t5\nNAME\tDescription\t" + "\t".join(CELLS) + "\n" + body
    with pytest.warns(UserWarning, match="'Description' are no cells"):
        same(read(write(tmp_path / "a.txt", text), transpose=True))


def test_a_column_that_is_not_named_as_the_cells(tmp_path):
    table = pd.DataFrame(np.arange(66).reshape(3, 22), index=GENES[:3], columns=[f"P1_A{i:02d}" for i in range(1, 23)])
    table.insert(4, "mean_of_all", 7)
    with pytest.warns(UserWarning, match="'mean_of_all' are taken as cells, but are not named as the other cells are"):
        read(write(tmp_path / "a.csv", table.to_csv()), transpose=True)


@pytest.mark.parametrize("transpose", [True, False])
def test_counters_and_totals_are_no_genes(tmp_path, transpose):
    table = BY_CELL.copy()
    table["all"], table["n"] = X.sum(1).astype(int), (X > 0).sum(1)
    for name in ("__no_feature", "N_unmapped", "too_low_aQual"):
        table[name] = 9
    table["nFeature_RNA"] = 3
    text = (table.T if transpose else table).to_csv(sep="\t")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adata = same(read(write(tmp_path / "a.tsv", text), transpose=transpose))
    said = " ".join(str(w.message) for w in caught)
    assert "'__no_feature', 'N_unmapped', 'too_low_aQual' count reads that belong to no gene" in said
    assert set(adata.obs) == {"all", "n", "nFeature_RNA"}
    assert all(repr(name) in said for name in adata.obs)


def test_rows_that_describe_genes(tmp_path):
    table = BY_CELL.copy()
    table.loc["Length"] = range(7)
    table.loc["total"] = table.loc[CELLS].sum()
    with pytest.warns(UserWarning, match="'Length', 'total' describe genes and are no cells"):
        adata = same(read(write(tmp_path / "a.csv", table.to_csv())))
    assert adata.var["Length"].tolist() == list(range(7))


def test_totals_by_chance():
    x = np.array([[1, 2, 3], [2, 2, 4], [0, 1, 1]])
    assert [len(found) for found in totals(x)] == [0, 0]  # too few
    rng = np.random.default_rng(0)
    y = rng.poisson(2, (50, 30))
    assert [len(found) for found in totals(y)] == [0, 0]
    y = np.hstack([y, y.sum(1, keepdims=True)])
    assert totals(y)[0].tolist() == [30]
    y[7, 30] += 1
    assert len(totals(y)[0]) == 0


def test_spike_ins_and_genes_are_no_columns_of_quality():
    genes = ["ERCC-00002", "MT-CO1", "mt-Nd1", "PHASE1", "GC", "CLU", "Sst", "STRN", "N", "LENG8", "ENDOG", "CHRM1"]
    assert not (is_counter(genes) | is_quality_column(genes) | is_annotation_column(genes)).any()
    cells = ["nCount_RNA", "pct_counts_mt", "S.Score", "orig.ident", "RNA_snn_res.0.8", "nUMI", "Doublet Score"]
    assert is_quality_column(cells).all()
    assert is_annotation_column(["Gene stable ID", "Chromosome/scaffold name", "EffectiveLength", "Geneid"]).all()
    assert is_counter(["X__no_feature", "Unassigned_NoFeatures", "N_multimapping", "__x"]).all()


def test_dates_of_a_spreadsheet(tmp_path):
    table = BY_GENE.set_axis(["1-Mar", "2-Sep", "Dec-01", "44256", *GENES[4:]])
    with pytest.warns(UserWarning, match="4 gene names are dates .'1-Mar', '2-Sep', 'Dec-01', '44256'.: a spreadsheet"):
        adata = read(write(tmp_path / "a.csv", table.to_csv()), transpose=True)
    assert adata.var_names[0] == "1-Mar"
    assert excel_dates(["MARCH1", "Sept2", "DEC1", "Mar1", "H2-K1"]) == []
    assert excel_dates([str(40_000 + i) for i in range(500)]) == []  # identifiers of NCBI


# Orientation


@pytest.mark.parametrize("corner", ["", "rownames", "X", "gene", "Geneid", "Unnamed: 0"])
@pytest.mark.parametrize(
    "cells",
    [
        CELLS,
        PLATE,
        [f"{cell}_2" for cell in CELLS],
        ["bcETOJ", "bcAAAA", "bcXYZA", "bcQWER", "bcTZUI"],
        [f"SRR35413{i}" for i in range(5)],
        [f"cell_{i}" for i in range(5)],
        [f"donor{i}" for i in "vwxyz"],
        ["a", "b", "c", "d", "e"],
    ],
)
def test_genes_in_rows_are_seen(tmp_path, corner, cells):
    path = write(tmp_path / "a.csv", BY_GENE.set_axis(cells, axis=1).to_csv(index_label=corner))
    with pytest.raises(DataError, match=r"seems to have genes in rows .*transpose=True"):
        read(path)
    same(read(path, transpose=True), cells=cells)
    assert read(path, transpose=False).obs_names.tolist() == GENES


@pytest.mark.parametrize("corner", ["", "cell", "X", "barcode", "index"])
@pytest.mark.parametrize(
    "cells",
    [CELLS, PLATE, list("01234"), ["HSC 1", "HSC 2", "Mono", "MEP_a", "MEP_b"], [f"CD4_T_{i}" for i in range(5)]],
)
def test_cells_in_rows_are_read(tmp_path, corner, cells):
    same(read(write(tmp_path / "a.csv", BY_CELL.set_axis(cells).to_csv(index_label=corner))), cells=cells)


@pytest.mark.parametrize(
    "genes",
    [
        [f"AT1G0{i}010" for i in range(7)],
        [f"FBgn000000{i}" for i in range(7)],
        [f"WBGene0000000{i}" for i in range(7)],
        ["YAL001C", "YBR002W", "YCR003C-A", "YDL004W", "YEL005C", "YFR006W", "YGL007C"],
        ["si:ch211-161c3.6", "zgc:56382", "hbae1", "gata1a", "mpx", "lyz", "mt-co1"],
        IDS,
        [f"{name}.3" for name in IDS],
        [f"Gm{1234 + i}" for i in range(7)],
    ],
)
def test_genes_of_other_species(genes):
    for cells in (CELLS, ["HSC", "MEP", "GMP", "x", "y"]):
        assert evidence(genes, cells).transpose is True
        assert evidence(cells, genes).transpose is False


def test_numbers_as_names(tmp_path):
    path = write(tmp_path / "a.csv", BY_GENE.set_axis(list("01234"), axis=1).to_csv())
    with pytest.raises(DataError, match="genes in rows"):
        read(path)
    same(read(path, transpose=True), cells=list("01234"))
    ncbi = ["4609", "7157", "2623", "100", "1956", "672", "675"]
    same(read(write(path, BY_CELL.set_axis(ncbi, axis=1).to_csv())), genes=ncbi)
    for text in ("3,1,4\n1,5,9\n", ",3,1,1\nc1,5,9,1\n", "c1,3,1,4\nc2,5,9,1\n", ",0.5,1.5\nc1,1,2\n"):
        with pytest.raises(DataError, match=r"first line of .* holds numbers"):
            read(write(path, text))


def test_without_evidence_a_warning_names_the_option(tmp_path):
    path = write(tmp_path / "a.csv", "id,AA,BB\nfoo,1,2\nbar,2,3\n")
    with pytest.warns(UserWarning, match=r"neither the names of rows .*transpose=True"):
        assert read(path).obs_names.tolist() == ["foo", "bar"]
    for transpose in (True, False):
        assert read(path, transpose=transpose).shape == (2, 2)


def test_names_that_contradict_each_other(tmp_path):
    path = write(tmp_path / "a.csv", BY_CELL.set_axis(["u", "v", "x", "y", "z"]).to_csv(index_label="gene"))
    with pytest.raises(DataError, match=r"contradict each other: the first column is called 'gene'.*transpose=False"):
        read(path)
    same(read(path, transpose=False), cells=["u", "v", "x", "y", "z"])
    same(read(write(path, BY_CELL.to_csv(index_label="gene"))))  # both margins agree


# All together


@st.composite
def tables(draw):
    """Draw a table as people write it: text, encoding, transpose, names of cells."""
    separator = draw(st.sampled_from(["\t", ",", ";", "|", " "]))
    comma = draw(st.booleans()) and separator != ","
    cells = draw(st.sampled_from([CELLS, PLATE]))
    transpose = draw(st.booleans())
    table = BY_CELL.set_axis(cells)
    table = table.T if transpose else table
    quote = draw(st.sampled_from(["", '"']))
    corner = draw(st.sampled_from([None, '""', "X" if transpose else "cell"]))
    if separator == " " and corner == '""':
        corner = None
    tail = draw(st.sampled_from(["", separator])) if separator != " " else ""
    number = draw(st.sampled_from(["{}", "{}.0", "{}.50"]))
    form = lambda v: number.format(v).replace(".", "," if comma else ".")  # noqa: E731
    ids = draw(st.booleans()) and transpose and corner is not None
    header = [*([] if corner is None else [corner]), *(["id"] if ids else []), *(f"{quote}{c}{quote}" for c in table)]
    body = [
        [f"{quote}{name}{quote}", *([IDS[i]] if ids else []), *map(form, row)]
        for i, (name, row) in enumerate(zip(table.index, table.to_numpy(), strict=True))
    ]
    text = "\n".join([separator.join(header), *(separator.join(row) + tail for row in body)]) + "\n"
    text = draw(st.sampled_from(["", "# a comment; of one, program\n", "\n"])) + text
    text = text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))
    half = 0.5 if number == "{}.50" else 0.0
    return text, draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"])), transpose, cells, half, ids


@settings(max_examples=60, deadline=None, derandomize=True)
@given(tables())
def test_a_table_as_people_write_it(tmp_path_factory, drawn):
    text, encoding, transpose, cells, half, ids = drawn
    path = write(tmp_path_factory.mktemp("table") / "a.txt", text, encoding)
    if transpose:
        with pytest.raises(DataError, match="genes in rows"):
            read(path)
    adata = read(path, transpose=transpose or None)
    assert adata.obs_names.tolist() == cells
    assert adata.var_names.tolist() == GENES
    assert (adata.to_df().to_numpy() == X + half).all()
    assert not ids or adata.var["gene_ids"].tolist() == IDS


def test_sniffing_reads_the_first_lines_only(tmp_path):
    path = write(tmp_path / "a.csv", rows(",") + "not a table" * 3)
    assert (sniff(path).separator, sniff(path).n_skip) == (",", 1)
