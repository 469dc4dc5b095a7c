import gzip
import sys
from contextlib import nullcontext

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
from anndata import AnnData

from diffvae._core.io.read import load, read
from diffvae._errors import DataError

X = np.array([[3, 0, 0, 0], [0, 5, 0, 1], [0, 0, 2, 0]], dtype=np.float32)
CELLS, GENES = ["c1", "c2", "c3"], ["Gata1", "Spi1", "Mpo", "Elane"]
TABLE = pd.DataFrame(X, index=CELLS, columns=GENES)


def same(adata, names=True):
    assert (adata.to_df().to_numpy() == X).all()
    if names:
        assert adata.obs_names.tolist() == CELLS
        assert adata.var_names.tolist() == GENES
    return adata


@pytest.mark.filterwarnings("ignore:.*zarr v2:UserWarning")
def test_h5ad_and_zarr(tmp_path):
    adata = AnnData(sp.csr_matrix(X), obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=GENES))
    adata.write_h5ad(tmp_path / "a.h5ad")
    same(read(tmp_path / "a.h5ad"))
    same(read(str(tmp_path / "a.h5ad")))
    assert read(tmp_path / "a.h5ad", transpose=True).shape == (4, 3)
    adata.write_zarr(tmp_path / "a.zarr")
    same(read(tmp_path / "a.zarr"))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.csv.gz", "a.tsv.gz", "a.txt.gz"])
def test_tables(tmp_path, name):
    TABLE.to_csv(tmp_path / name, sep="," if "csv" in name else "\t")
    adata = same(read(tmp_path / name))
    assert sp.issparse(adata.X)
    assert adata.X.dtype == np.float32


@pytest.mark.parametrize(
    "text", ["cell;A;B\nc1;1;2\nc2;3;4\n", "A B\nc1 1 2\nc2 3 4\n", "\ufeff,A,B\r\nc1,1,2\r\nc2,3,4"]
)
def test_tables_of_other_makes(tmp_path, text):
    (tmp_path / "a.csv").write_bytes(text.encode())
    adata = read(tmp_path / "a.csv")
    assert adata.to_df().to_dict("list") == {"A": [1, 3], "B": [2, 4]}
    assert adata.obs_names.tolist() == ["c1", "c2"]
    assert isinstance(adata.X, np.ndarray)


def test_genes_that_occur_twice_keep_their_names(tmp_path):
    (tmp_path / "a.csv").write_text("cell,A,A\nc1,1,2\n")
    assert read(tmp_path / "a.csv").var_names.tolist() == ["A", "A"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gene,c1,c2\nGata1,1,2\n", "the first column is called 'gene'"),
        ("id,c1,c2\nENSMUSG00000000001,1,2\nENSMUSG00000000028.3,0,2\n", "rows have names such as 'ENSMUSG0"),
        ("id,AAACCTGAGCATCATC-1,AAACCTGAGCTAACTC-1\nGata1,1,2\n", "columns have names such as 'AAACCTG"),
    ],
)
def test_genes_in_rows(tmp_path, text, why):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=why) as error:
        read(tmp_path / "a.csv")
    assert error.match(r"transpose=True, or with transpose=False if")
    assert read(tmp_path / "a.csv", transpose=True).var_names[0] == text.splitlines()[1].split(",")[0]
    assert read(tmp_path / "a.csv", transpose=False).obs_names[0] == text.splitlines()[1].split(",")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("cell,A\n", "has 1 line"),
        ("cell\nc1\nc2\n", "has at most one column"),
        ("cell,A,B\nc1,1,2\nc2,2,T\n", "Column 'B' of .* is not numeric: it holds 'T' in row 'c2'"),
        ("cell,A,type\nc1,1,1\nc2,2,T\n", "Column 'type' of .* is not numeric: it holds 'T' in row 'c2'"),
        ("1,2,3\n4,5,6\n", "first line of .* holds numbers"),
        ("A,B\n0.5,1\n0.25,2\n", r"first column of .* \('A'\) holds numbers such as 0.5"),
        ("cell,A,B\nc1,1,2\nc2,1,2,3,4\n", "can't be read; it may be damaged"),
        ("cell,A,B\nc1,1\nc2,1\n", "can't be read|names 2 columns|has one column"),
    ],
)
def test_tables_that_are_none(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.csv")


def write_10x(folder, packed=False, features="features.tsv", prefix="", kinds=True):
    folder.mkdir(exist_ok=True)
    genes = pd.DataFrame({"id": ["E1", "E2", "E3", "E4"], "name": GENES})
    matrix = X.T
    if kinds:
        genes["type"] = "Gene Expression"
        genes.loc[4] = ["AB", "CD3", "Antibody Capture"]
        matrix = np.vstack([matrix, [9, 9, 9]])
    scipy.io.mmwrite(folder / f"{prefix}matrix.mtx", sp.coo_matrix(matrix))
    genes.to_csv(folder / f"{prefix}{features}", sep="\t", header=False, index=False)
    (folder / f"{prefix}barcodes.tsv").write_text("\n".join(CELLS) + "\n")
    if packed:
        for file in list(folder.iterdir()):
            (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    return folder


@pytest.mark.parametrize(
    "kwargs",
    [
        {"packed": True},
        {"packed": True, "prefix": "GSM1_"},
        {"features": "genes.tsv", "kinds": False},
        {"packed": False},
    ],
)
def test_10x_folder(tmp_path, kwargs):
    folder = write_10x(tmp_path / "x", **kwargs)
    for path in (folder, next(folder.glob("*matrix.mtx*"))):
        with nullcontext() if kwargs.get("kinds") is False else pytest.warns(UserWarning, match="'antibody capture'"):
            adata = same(load(path, None)[0])
        assert adata.var["gene_ids"].tolist() == ["E1", "E2", "E3", "E4"]
        assert adata.X.format == "csr"


def test_plain_mtx(tmp_path):
    scipy.io.mmwrite(tmp_path / "a.mtx", sp.coo_matrix(X))
    with pytest.raises(DataError, match=r"\(3 x 4\) has no names of genes and cells beside it .*transpose=False"):
        read(tmp_path / "a.mtx")
    same(read(tmp_path / "a.mtx", transpose=False), names=False)
    assert read(tmp_path / "a.mtx", transpose=True).shape == (4, 3)
    (tmp_path / "b.mtx.gz").write_bytes(gzip.compress((tmp_path / "a.mtx").read_bytes()))
    same(read(tmp_path / "b.mtx.gz", transpose=False), names=False)


def test_10x_h5(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        matrix = sp.csr_matrix(X.astype(np.int32))  # genes x cells by columns
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"] = [4, 3]
        group["barcodes"] = np.array(CELLS, dtype="S")
        features = group.create_group("features")
        features["name"] = np.array(["Gata1", "Gata1", "Mpo", "Elane"], dtype="S")
        features["id"] = np.array(["E1", "E2", "E3", "E4"], dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * 4, dtype="S")
        features["genome"] = np.array(["mm10"] * 4, dtype="S")
    adata = same(read(tmp_path / "a.h5"), names=False)
    assert adata.var_names.tolist() == ["Gata1", "Gata1-1", "Mpo", "Elane"]
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["layers"] = [1]
    with pytest.raises(DataError, match="is HDF5, but not a 10x matrix: it holds 'layers'"):
        read(tmp_path / "b.h5")


def test_files_that_are_damaged_or_unknown(tmp_path):
    AnnData(X).write_h5ad(tmp_path / "whole.h5ad")
    content = (tmp_path / "whole.h5ad").read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.h5ad").write_text("not HDF5")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(TABLE.to_csv().encode())[:-12])
    (tmp_path / "plain.csv.gz").write_text(TABLE.to_csv())
    (tmp_path / "bad.mtx").write_text("%%MatrixMarket matrix\nnonsense\n")
    (tmp_path / "odd.csv").write_bytes(b"cell,A\n\xff\x81\xfa,1\n")
    for name in ("cut.h5ad", "text.h5ad", "cut.csv.gz", "plain.csv.gz", "bad.mtx", "odd.csv"):
        with pytest.raises(DataError, match="can't be read; it may be damaged"):
            read(tmp_path / name)
    (tmp_path / "nothing.h5ad").touch()
    with pytest.raises(DataError, match=r"is empty \(0 bytes\)"):
        read(tmp_path / "nothing.h5ad")
    with pytest.raises(DataError, match="There is no file or folder"):
        read(tmp_path / "absent.h5ad")
    for name, advice in {
        "a.rds": "zellkonverter",
        "a.xlsx": "as .csv",
        "a.tar.gz": "Unpack",
        "a.dat": "Known formats",
    }.items():
        (tmp_path / name).write_text("x")
        with pytest.raises(DataError, match=advice):
            read(tmp_path / name)


def test_folders_without_a_matrix(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no matrix.mtx or matrix.mtx.gz, and is no .zarr either\.$"):
        read(tmp_path / "empty")
    write_10x(tmp_path / "filtered")
    with pytest.raises(DataError, match=r"Perhaps you mean '.*filtered'"):
        read(tmp_path)
    (tmp_path / "filtered" / "barcodes.tsv").write_text("c1\n")
    with pytest.raises(DataError, match=r"has 1 lines, but 'matrix\.mtx' needs 3 names"):
        read(tmp_path / "filtered")
    (tmp_path / "filtered" / "barcodes.tsv").unlink()
    with pytest.raises(DataError, match=r"has no barcodes.tsv\(.gz\) beside it"):
        read(tmp_path / "filtered")
    write_10x(tmp_path / "filtered", prefix="b_")
    with pytest.raises(DataError, match="several matrices"):
        read(tmp_path / "filtered")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scanpy", None)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["matrix/barcodes"] = [b"c1"]
    with pytest.raises(DataError, match="needs a package that is not installed: pip install scanpy"):
        read(tmp_path / "a.h5")


def test_a_table_with_an_empty_first_line_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("\na,1,2\nb,3,4\n")
    with pytest.raises(DataError, match=r"first line of .* holds numbers"):
        read(tmp_path / "a.csv")
