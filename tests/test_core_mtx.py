"""Matrix Market files with names beside them, in the layouts of common programs; loom files."""

import h5py
import numpy as np
import pytest
from _cases_tables import CELLS, GENES, IDS, X, lines, mtx, same, write

from diffvae._core.io.read import load, read
from diffvae._errors import DataError

BIOTYPES = ["protein_coding", "lncRNA", "protein_coding", "miRNA", "Mt_rRNA", "protein_coding", "protein_coding"]
CHROMOSOMES = ["chrX", "chr11", "chr17", "chr10", "chrM", "chr22", "chr19"]


def table(*columns, separator="\t"):
    return lines(separator.join(row) for row in zip(*columns, strict=True))


FEATURES = table(IDS, GENES, ["Gene Expression"] * 7)
WELLS = [f"0{i}_11_{i}2__s1" for i in range(1, 6)]

LAYOUTS = {
    "GEO, shared features": (
        "GSM1_S1-matrix.mtx.gz",
        X.T,
        {"GSM1_S1-barcodes.tsv.gz": lines(CELLS), "GSE1_features.tsv.gz": FEATURES},
    ),
    "GEO, several samples": (
        "GSM1_S1_matrix.mtx",
        X.T,
        {
            "GSM1_S1_barcodes.tsv": lines(CELLS),
            "GSM1_S1_genes.tsv": table(IDS, GENES),
            "GSM2_S2_matrix.mtx": "",
            "GSM2_S2_barcodes.tsv": lines("abcde"),
            "GSM2_S2_genes.tsv": table(GENES, IDS),
            "GSM0_S0_barcodes.tsv": lines("vwxyz"),
        },
    ),
    "features in the folder above": (
        "S1/matrix.mtx",
        X.T,
        {"S1/barcodes.tsv": lines(CELLS), "features.tsv.gz": FEATURES, "barcodes.tsv": lines("abcde")},
    ),
    "EBI": ("E-1.counts.mtx", X.T, {"E-1.counts.mtx_rows": table(IDS, GENES), "E-1.counts.mtx_cols": lines(CELLS)}),
    "R": ("counts.mtx", X.T, {"genes.txt": lines(GENES), "barcodes.txt": lines(CELLS)}),
    "R, with headers": (
        "sparse_matrix.mtx",
        X.T,
        {"gene_names.csv": '"x"\n' + lines(f'"{g}"' for g in GENES), "cell_names.csv": '"x"\n' + lines(CELLS)},
    ),
    "R, numbered lines": (
        "m.mtx",
        X.T,
        {
            "m_genes.csv": '"","x"\n' + lines(f'"{i + 1}","{g}"' for i, g in enumerate(GENES)),
            "m_cells.csv": '"","x"\n' + lines(f'"{i + 1}","{c}"' for i, c in enumerate(CELLS)),
        },
    ),
    "kallisto | bustools": (
        "cells_x_genes.mtx",
        X,
        {"cells_x_genes.genes.txt": lines(GENES), "cells_x_genes.barcodes.txt": lines(CELLS)},
    ),
    "kallisto | bustools with symbols": (
        "cells_x_genes.mtx",
        X,
        {
            "cells_x_genes.genes.txt": lines(IDS),
            "cells_x_genes.genes.names.txt": lines(GENES),
            "cells_x_genes.barcodes.txt": lines(CELLS),
        },
    ),
    "STARsolo": (
        "Solo.out/Gene/filtered/matrix.mtx",
        X.T,
        {
            "Solo.out/Gene/filtered/barcodes.tsv": lines(CELLS),
            "Solo.out/Gene/filtered/features.tsv": FEATURES,
            "Solo.out/Gene/raw/matrix.mtx": "",
            "Solo.out/Barcodes.stats": "x 1\n",
        },
    ),
    "alevin-fry": (
        "af_quant/alevin/quants_mat.mtx",
        X,
        {
            "af_quant/alevin/quants_mat_cols.txt": lines(GENES),
            "af_quant/alevin/quants_mat_rows.txt": lines(CELLS),
            "af_quant/featureDump.txt": "CB\tReads\na\t1\n",
        },
    ),
    "Parse": (
        "DGE_filtered/DGE.mtx",
        X,
        {
            "DGE_filtered/all_genes.csv": "gene_id,gene_name,genome\n" + table(IDS, GENES, ["hg38"] * 7, separator=","),
            "DGE_filtered/cell_metadata.csv": "bc_wells,sample,tscp_count\n"
            + lines(f"{c},s1,{i}00" for i, c in enumerate(CELLS)),
        },
    ),
    "BD Rhapsody": ("matrix.mtx.gz", X.T, {"barcodes.tsv.gz": lines(CELLS), "features.tsv.gz": FEATURES}),
    "Cell Ranger 2": ("matrix.mtx", X.T, {"barcodes.tsv": lines(CELLS), "genes.tsv": table(IDS, GENES)}),
    "biotypes": ("matrix.mtx", X.T, {"barcodes.tsv": lines(CELLS), "features.tsv": table(IDS, GENES, BIOTYPES)}),
    "chromosomes": ("matrix.mtx", X.T, {"barcodes.tsv": lines(CELLS), "features.tsv": table(GENES, CHROMOSOMES)}),
    "a header": (
        "matrix.mtx",
        X.T,
        {"barcodes.tsv": lines(["barcode", *CELLS]), "genes.tsv": "gene_id\tsymbol\n" + table(IDS, GENES)},
    ),
    "Windows": (
        "matrix.mtx",
        X.T,
        {"barcodes.tsv": lines(CELLS).replace("\n", "\r\n"), "genes.tsv": table(IDS, GENES).replace("\n", "\r\n")},
    ),
    "samples at the end": (
        "matrix_S1.mtx",
        X.T,
        {
            "barcodes_S1.tsv": lines(CELLS),
            "genes_S1.tsv": lines(GENES),
            "barcodes_S0.tsv": lines("abcde"),
            "genes_S0.tsv": lines("abcdefg"),
        },
    ),
    "blanks": ("matrix.mtx", X.T, {"barcodes.tsv": lines(CELLS), "genes.tsv": table(IDS, GENES, separator=" ")}),
    "rows and columns": ("a.mtx", X.T, {"a_rownames.txt": lines(GENES), "a_colnames.txt": lines(CELLS)}),
    "rows and columns of AnnData": ("a.mtx", X, {"obs_names.csv": lines(CELLS), "var_names.csv": lines(GENES)}),
}


def make(folder, case):
    name, matrix, files = LAYOUTS[case]
    for other, content in files.items():
        write(folder / other, content)
    return mtx(folder / name, matrix)


@pytest.mark.parametrize("case", LAYOUTS)
def test_names_are_found(tmp_path, case):
    path = make(tmp_path / "x", case)
    adata = same(read(path))
    assert adata.X.format == "csr"
    if "gene_ids" in adata.var:
        assert adata.var["gene_ids"].tolist() in (IDS, GENES)
    stored = LAYOUTS[case][1].shape == X.T.shape
    same(read(path, transpose=stored))
    with pytest.warns(UserWarning, match=r"its genes are in (rows|columns); transpose=.* is left aside"):
        same(read(path, transpose=not stored))


@pytest.mark.parametrize("case", ["STARsolo", "alevin-fry", "Parse"])
def test_folders_of_programs(tmp_path, case):
    path = make(tmp_path / "x", case)
    same(read(path.parent))
    with pytest.warns(UserWarning, match=rf"Read from '.*{path.name}'"):
        same(read(tmp_path / "x"))


def test_metadata_of_cells_is_kept(tmp_path):
    adata = read(make(tmp_path, "Parse"))
    assert adata.obs["sample"].tolist() == ["s1"] * 5
    assert adata.obs["tscp_count"].tolist() == [0, 100, 200, 300, 400]
    assert adata.var["genome"].tolist() == ["hg38"] * 7


def test_biotypes_and_chromosomes_leave_out_no_gene(tmp_path):
    assert "feature_types" not in read(make(tmp_path / "a", "biotypes")).var
    assert "feature_types" not in read(make(tmp_path / "b", "chromosomes")).var


def test_several_matrices_in_a_folder_are_refused(tmp_path):
    make(tmp_path, "R")
    make(tmp_path, "EBI")
    with pytest.raises(DataError, match=r"several matrices \('E-1.counts.mtx', 'counts.mtx'\)"):
        read(tmp_path)
    same(read(tmp_path / "counts.mtx"))  # the names of another matrix are not taken
    assert "gene_ids" in read(tmp_path / "E-1.counts.mtx").var


def test_names_of_another_length(tmp_path):
    path = mtx(tmp_path / "matrix.mtx", X.T)
    write(tmp_path / "features.tsv", FEATURES)
    with pytest.raises(DataError, match=r"has no barcodes.tsv\(.gz\) beside it, only 'features.tsv'.*transpose=False"):
        read(path)
    write(tmp_path / "barcodes.tsv", lines(CELLS[:3]))
    with pytest.raises(DataError, match=r"barcodes.tsv' has 3 lines, but 'matrix.mtx' needs 5 names"):
        read(path)
    assert read(path, transpose=True).shape == (5, 7)
    assert read(path, transpose=False).shape == (7, 5)


def test_names_of_genes_only(tmp_path):
    path = mtx(tmp_path / "a.mtx", X.T)
    write(tmp_path / "genes.txt", lines(GENES))
    with pytest.raises(DataError, match=r"has no barcodes.tsv\(.gz\) beside it, only 'genes.txt'"):
        read(path)
    same(read(path, transpose=True), cells="01234")


def test_several_files_of_names_that_fit(tmp_path):
    path = mtx(tmp_path / "a.mtx", X.T)
    write(tmp_path / "genes.txt", lines(GENES))
    write(tmp_path / "barcodes_1.txt", lines(CELLS))
    write(tmp_path / "barcodes_2.txt", lines("abcde"))
    with pytest.raises(DataError, match=r"several files of names .* fit, .*'barcodes_1.txt'.*'barcodes_2.txt'"):
        read(path)


def test_alevin_fry_with_introns(tmp_path):
    write(tmp_path / "quants_mat_rows.txt", lines(CELLS))
    write(tmp_path / "quants_mat_cols.txt", lines([*GENES, *(f"{g}-U" for g in GENES), *(f"{g}-A" for g in GENES)]))
    path = mtx(tmp_path / "quants_mat.mtx", np.hstack([X - 1, X + 5, np.ones_like(X)]))
    with pytest.warns(UserWarning, match="X is the sum of spliced and ambiguous ones"):
        adata = same(read(path))
    assert (adata.layers["unspliced"].toarray() == X + 5).all()


def test_square_matrices(tmp_path):
    square = X[:, :5]
    for name in ("a", "matrix", "cells_x_genes"):
        folder = tmp_path / name
        write(folder / "genes.txt", lines(GENES[:5]))
        write(folder / "barcodes.txt", lines(CELLS))
        path = mtx(folder / f"{name}.mtx", square)
        for transpose in (True, False):
            found = read(path, transpose=transpose)
            assert (found.X.toarray() == (square.T if transpose else square)).all()
            assert found.var_names.tolist() == GENES[:5]
    with pytest.raises(DataError, match=r"is 5 x 5, and the names beside it fit both ways.*transpose=True"):
        read(tmp_path / "a" / "a.mtx")
    assert (read(tmp_path / "matrix").X.toarray() == square.T).all()
    assert (read(tmp_path / "cells_x_genes").X.toarray() == square).all()


def test_rows_and_columns_of_a_square_matrix_by_their_names(tmp_path):
    write(tmp_path / "a.mtx_rows", lines(CELLS))
    write(tmp_path / "a.mtx_cols", lines(GENES[:5]))
    adata = read(mtx(tmp_path / "a.mtx", X[:, :5]))
    assert adata.var_names.tolist() == GENES[:5]
    assert (adata.X.toarray() == X[:, :5]).all()


def test_counters_are_no_genes(tmp_path):
    write(tmp_path / "barcodes.tsv", lines(CELLS))
    write(tmp_path / "genes.tsv", lines([*GENES, "__no_feature"]))
    path = mtx(tmp_path / "matrix.mtx", np.vstack([X.T, np.full(5, 9)]))
    with pytest.warns(UserWarning, match=r"counters of reads \('__no_feature'\)"):
        same(load(path, None)[0])


# loom


def loom(path, columns, rows, layers=(), main=X):
    with h5py.File(path, "w") as file:
        file["matrix"] = main.T
        for name, factor in layers:
            file[f"layers/{name}"] = X.T * factor
        for group, attributes in (("col_attrs", columns), ("row_attrs", rows)):
            for name, values in attributes.items():
                values = np.asarray(values)
                file[f"{group}/{name}"] = values.astype("S") if values.dtype.kind == "U" else values
    return path


@pytest.mark.parametrize(
    ("cell", "gene"),
    [("CellID", "Gene"), ("obs_names", "var_names"), ("cell_names", "gene_names"), ("barcode", "Symbol")],
)
def test_loom(tmp_path, cell, gene):
    regulons = np.zeros(5, dtype=[("Gata1(+)", "f8"), ("Spi1(+)", "f8")])
    columns = {cell: CELLS, "ClusterID": [1, 2, 2, 1, 1], "RegulonsAUC": regulons}
    adata = same(read(loom(tmp_path / "a.loom", columns, {gene: GENES, "Accession": IDS})))
    assert adata.obs["ClusterID"].tolist() == [1, 2, 2, 1, 1]
    assert adata.obsm["X_RegulonsAUC"].shape == (5, 2)
    assert adata.var["gene_ids"].tolist() == IDS


def test_loom_of_velocyto_says_which_matrix_is_used(tmp_path):
    layers = [("spliced", 1), ("unspliced", 2), ("ambiguous", 3)]
    path = loom(tmp_path / "a.loom", {"CellID": CELLS}, {"Gene": GENES}, layers, main=X * 6)
    with pytest.warns(UserWarning, match="X is 'spliced', the layers are 'ambiguous', 'unspliced', 'matrix'"):
        adata = same(read(path))
    assert (adata.layers["matrix"].toarray() == X * 6).all()
    assert (adata.layers["unspliced"].toarray() == X * 2).all()


def test_loom_with_an_empty_matrix(tmp_path):
    path = loom(tmp_path / "a.loom", {"CellID": CELLS}, {"Gene": GENES}, [("counts", 1)], main=X * 0)
    with pytest.warns(UserWarning, match="X is 'counts'"):
        same(read(path))


def test_loom_without_names_of_genes(tmp_path):
    with pytest.raises(DataError, match=r"no names of genes: its rows have the attributes 'Length'; .*'Gene'"):
        read(loom(tmp_path / "a.loom", {"CellID": CELLS}, {"Length": [1] * 7}))
    with h5py.File(tmp_path / "b.loom", "w") as file:
        file["other"] = [1]
    with pytest.raises(DataError, match="is HDF5, but not a loom file: it holds 'other'"):
        read(tmp_path / "b.loom")
