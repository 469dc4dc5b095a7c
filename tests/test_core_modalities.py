"""Features that are no genes, in every kind of file."""

import warnings

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
from anndata import AnnData
from anndata.io import write_elem

from diffvae import _keys, pp
from diffvae._core.io.backed import open_store
from diffvae._core.io.modalities import choose_genome, feature_kinds, only_genes
from diffvae._core.io.read import load, read
from diffvae._errors import DataError

GENES = ["Gata1", "Spi1", "Cebpa", "Klf1", "Mpo", "Elane"]
COUNTS = np.random.default_rng(0).poisson(3.0, (30, 8)).astype("float32") + 1
CELLS = [f"AAACCTGAGAAACC{a}{b}-1" for a in "ACGTN" for b in "ACGTNM"]


def with_antibodies(column="feature_types"):
    var = pd.DataFrame({column: ["Gene Expression"] * 6 + ["Antibody Capture"] * 2}, index=[*GENES, "CD3", "CD19"])
    return AnnData(sp.csr_matrix(COUNTS), obs=pd.DataFrame(index=CELLS), var=var)


def tenx(path, features, types, genomes):
    with h5py.File(path, "w") as file:
        matrix, x = file.create_group("matrix"), sp.csc_matrix(COUNTS[:, : len(features)].T)
        for name, value in (("data", x.data.astype("i4")), ("indices", x.indices), ("indptr", x.indptr)):
            matrix[name] = value
        matrix["shape"] = np.array(x.shape)
        matrix["barcodes"] = np.array(CELLS, "S")
        table = matrix.create_group("features")
        for name, value in (("id", features), ("name", features), ("feature_type", types), ("genome", genomes)):
            table[name] = np.array(value, "S")


@pytest.mark.parametrize("form", ["h5ad", "h5", "memory", "h5mu"])
def test_antibodies_are_no_genes_in_any_kind_of_file(form, tmp_path):
    adata, path = with_antibodies(), tmp_path / f"x.{form}"
    if form == "h5ad":
        adata.write_h5ad(path)
    elif form == "h5":
        tenx(path, adata.var_names, adata.var["feature_types"], ["GRCh38"] * 6 + [""] * 2)
    elif form == "h5mu":
        with h5py.File(path, "w") as file:
            write_elem(file, "mod/rna", adata)
            write_elem(file, "mod/prot", adata[:, 6:].copy())
            write_elem(file, "obs", pd.DataFrame({"donor": ["a", "b"] * 15, "rna:n": 1}, index=CELLS))
    with pytest.warns(UserWarning, match=r"2 of type 'antibody capture' \('CD3', 'CD19'\), kept in obsm\['protein'\]"):
        cells, _ = load(adata if form == "memory" else path, None)
    assert cells.var_names.tolist() == GENES
    assert np.array_equal(cells.X.toarray(), COUNTS[:, :6])
    assert np.array_equal(cells.obsm["protein"].to_numpy(), COUNTS[:, 6:])
    assert cells.obsm["protein"].columns.tolist() == ["CD3", "CD19"]
    if form == "h5mu":
        assert cells.obs.columns.tolist() == ["donor"]


def test_a_file_with_several_modalities_and_no_rna_is_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5mu", "w") as file:
        for name in ("atac", "prot"):
            write_elem(file, f"mod/{name}", with_antibodies())
        write_elem(file, "obs", pd.DataFrame(index=CELLS))
    with pytest.raises(DataError, match="modalities 'atac', 'prot'"):
        read(tmp_path / "x.h5mu")


def test_on_disk_they_are_left_out_too(tmp_path):
    adata = with_antibodies()
    adata.raw = adata
    adata.write_h5ad(tmp_path / "x.h5ad")
    store = open_store(tmp_path / "x.h5ad")
    assert store.var_names.tolist() == GENES
    assert np.array_equal(store.matrix(None).read(3, 9).toarray(), COUNTS[3:9, :6])
    assert np.array_equal(store.raw.X.read(3, 9).toarray(), COUNTS[3:9, :6])
    with pytest.warns(UserWarning, match="no genes were left out: 2 of type"):
        store.warn()


def test_prepare_and_new_cells_take_totals_over_genes_only():
    adata = with_antibodies()
    with pytest.warns(UserWarning, match="antibody capture"):
        made = pp.prepare(adata, copy=True)
    alone = pp.prepare(with_antibodies()[:, :6].copy(), copy=True)
    assert np.allclose(made.raw.X.toarray(), alone.raw.X.toarray())
    assert adata.n_vars == 8
    options = {"minimum": alone.var[_keys.UNIT_MIN], "maximum": alone.var[_keys.UNIT_MAX], "target_sum": 1e4}
    unit, _ = pp.prepare_new(with_antibodies(), gene_names=alone.var_names, **options)
    assert np.allclose(unit.toarray(), alone.layers["unit"].toarray())


def test_biotypes_are_no_feature_types():
    var = pd.DataFrame({"feature_type": ["protein_coding", "lncRNA"]}, index=["A", "B"])
    assert feature_kinds(var).tolist() == ["", ""]
    adata = with_antibodies("feature_type")
    assert only_genes(adata)[0].n_vars == 6


def test_counters_and_quality_columns():
    names = [*GENES, "__no_feature", "nCount_RNA"]
    adata = AnnData(COUNTS.copy(), obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=names))
    with pytest.warns(UserWarning, match=r"1 of counters of reads \('__no_feature'\); 1 of columns of quality control"):
        cells, _ = load(adata, None)
    assert cells.var_names.tolist() == GENES
    assert np.array_equal(cells.obs["nCount_RNA"], COUNTS[:, 7])


def test_antibodies_by_their_names():
    names = pd.DataFrame(index=[*GENES, "AB_CD4", "CD8_TotalSeqB", "adt_CD3", "Hashtag1", "ABCB1", "HTR2A"])
    assert feature_kinds(names).tolist() == [""] * 6 + ["antibody capture"] * 4 + [""] * 2


def test_peaks_alone_are_refused():
    adata = with_antibodies()
    adata.var["feature_types"] = "Peaks"
    with pytest.raises(DataError, match="No feature is a gene: they are of type 'peaks'"):
        load(adata, None)


BARNYARD = ["GRCh38_GATA1", "GRCh38_SPI1", "GRCh38_MPO", "mm10___Gata1", "mm10___Spi1", "mm10___Mpo"]


@pytest.mark.parametrize("by", ["prefix", "column", "file"])
def test_two_genomes_need_a_choice(by, tmp_path):
    names = GENES if by == "column" else BARNYARD
    var = pd.DataFrame({"genome": ["GRCh38"] * 3 + ["mm10"] * 3} if by == "column" else {}, index=names)
    data = AnnData(COUNTS[:, :6].copy(), obs=pd.DataFrame(index=CELLS), var=var)
    if by == "file":
        data = tmp_path / "x.h5"
        tenx(data, names, ["Gene Expression"] * 6, ["GRCh38"] * 3 + ["mm10"] * 3)
    with pytest.raises(DataError, match=r"several genomes, 'GRCh38' \(3 genes\) and 'mm10' .*\(genome\)"):
        load(data, None)
    with pytest.raises(DataError, match="genome is 'hg19', but no gene is of this genome; genomes: 'GRCh38', 'mm10'"):
        load(data, None, genome="hg19")
    with pytest.warns(UserWarning, match="other genomes than 'mm10' were left out: 3"):
        cells, _ = load(data, None, genome="mm10")
    assert cells.var_names.tolist() == (GENES[3:] if by == "column" else ["Gata1", "Spi1", "Mpo"])


def test_genomes_of_cell_ranger_2(tmp_path):
    x = sp.csc_matrix(COUNTS[:, :3].T)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for genome in ("hg19", "mm10"):
            group = file.create_group(genome)
            for name, value in (("data", x.data.astype("i4")), ("indices", x.indices), ("indptr", x.indptr)):
                group[name] = value
            group["shape"], group["barcodes"] = np.array(x.shape), np.array(CELLS, "S")
            group["genes"] = group["gene_names"] = np.array([f"{genome}_{g}" for g in GENES[:3]], "S")
    with pytest.raises(DataError, match="several genomes, 'hg19', 'mm10'; choose one"):
        read(tmp_path / "x.h5")
    assert load(tmp_path / "x.h5", None, genome="mm10")[0].shape == (30, 3)


def test_a_virus_is_no_second_genome():
    var = pd.DataFrame({"genome": ["GRCh38"] * 95 + ["SARS-CoV-2"] * 5}, index=[f"g{i}" for i in range(100)])
    assert choose_genome(var, None) is None


OF_CELLS = [
    *("Unnamed: 0", "age", "nuclear_area", "cell_area", "area", "volume", "UMAP1", "UMAP_1", "tSNE1", "PC1", "sum"),
    *("detected", "total", "subsets_Mito_percent", "mitoRatio", "log10GenesPerUMI", "pANN_0.25_0.09_5"),
    *("DF.classifications_0.25_0.09_5", "num_genes_expressed", "n_genes_by_counts", "x_centroid", "y_centroid", "fov"),
    *("transcript_counts", "control_probe_counts", "percent.top_50", "x", "y"),
]


def test_columns_that_describe_cells_are_no_genes():
    assert set(feature_kinds(pd.DataFrame(index=[*GENES, *OF_CELLS]))[6:]) == {"quality"}
    genes = [
        "y",
        "w",
        "z",
        "PC",
        "ICA1",
        "UMAD1",
        "AREL1",
        "AGER",
        "SUMO1",
        "TOP1",
        "adt-1",
        "adt-2",
        "Start1",
        "CHRM1",
    ]
    assert not feature_kinds(pd.DataFrame(index=genes)).any()


NO_GENES = {
    "control": "Blank-1 NegControlProbe_00042 NegPrb3 NegControlCodeword_0500 UnassignedCodeword_0001 SystemControl12 "
    "Negative5 FalseCode3 DeprecatedCodeword_0318",
    "antibody capture": "CD3-TotalA CD3_prot CD3_TotalSeqB CD4.TotalC ADT-1 ADT-CD3 HTO_1",
    "multiplexing capture": "CMO301 CMO312",
    "peaks": "chr1:1-500 chrX_100_900 chr2-5-90 GL000194.1:1-50",
}


@pytest.mark.parametrize("kind", NO_GENES)
def test_features_that_are_no_genes_by_their_names(kind):
    names = NO_GENES[kind].split()
    kinds = feature_kinds(pd.DataFrame(index=[*GENES, *names]))
    assert kinds.tolist() == [""] * 6 + [kind] * len(names)


def test_peaks_alone_are_refused_by_their_names():
    adata = AnnData(COUNTS.copy(), var=pd.DataFrame(index=[f"chr1:{i}-{i + 500}" for i in range(8)]))
    with pytest.raises(DataError, match="No feature is a gene: they are of type 'peaks'"):
        load(adata, None)


def mixed():
    """Return cells with a row and columns that are none, some by their names, some by their values."""
    n = len(CELLS)
    names = [f"Gene{i}" for i in range(6)]
    x = np.hstack([COUNTS, np.random.default_rng(1).poisson(2.0, (n, 6))]).astype("float32")
    genes = [*names, *GENES, "Sox9", "Klf4"]
    sums = x.sum(axis=1)
    extra = {"everything": sums, "row": np.arange(n) + 1, "nFeature_RNA": np.full(n, 14), "__no_feature": np.full(n, 7)}
    x = np.column_stack([x, *extra.values()])
    table = pd.DataFrame(x, index=CELLS, columns=[*genes, *extra])
    table.loc["Length"] = np.arange(table.shape[1]) + 100.0
    return table.astype("float32"), genes, extra


@pytest.mark.parametrize("form", ["csv", "genes x cells", "h5ad", "sparse h5ad", "csc", "mtx", "loom", "memory"])
def test_the_reader_does_not_decide_what_is_a_gene(form, tmp_path):
    table, genes, extra = mixed()
    n = len(CELLS)
    names = {"obs": pd.DataFrame(index=table.index), "var": pd.DataFrame(index=table.columns)}
    path, transpose = tmp_path / f"x.{form.split()[-1]}", None
    if form in ("csv", "genes x cells"):
        path, transpose = tmp_path / "x.csv", form != "csv" or None
        (table.T if transpose else table).to_csv(path)
    elif form == "mtx":
        scipy.io.mmwrite(path, sp.coo_matrix(table.T.to_numpy()))
        (tmp_path / "x_genes.txt").write_text("\n".join(table.columns) + "\n")
        (tmp_path / "x_barcodes.txt").write_text("\n".join(table.index) + "\n")
    elif form == "loom":
        with h5py.File(path, "w") as file:
            file["matrix"] = table.T.to_numpy()
            file["col_attrs/CellID"], file["row_attrs/Gene"] = list(table.index), list(table.columns)
    else:
        x = table.to_numpy() if form in ("h5ad", "memory") else sp.csr_matrix(table.to_numpy())
        path = AnnData(x.tocsc() if form == "csc" else x, **names)
        if form.endswith("h5ad"):
            path.write_h5ad(tmp_path / "x.h5ad")
            path = tmp_path / "x.h5ad"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cells, _ = load(path, transpose)
    assert cells.var_names.tolist() == genes
    assert cells.obs_names.tolist() == CELLS
    assert np.array_equal(cells.to_df(), table.loc[CELLS, genes])
    assert {name: cells.obs[name].tolist() for name in ("everything", "row", "nFeature_RNA")} == {
        name: extra[name].tolist() for name in ("everything", "row", "nFeature_RNA")
    }
    assert "__no_feature" not in cells.obs
    assert cells.var["Length"].tolist() == [100.0 + i for i in range(len(genes))]
    said = " ".join(str(w.message) for w in caught)
    assert all(repr(name) in said for name in ("everything", "row", "nFeature_RNA", "__no_feature", "Length"))
    assert cells.n_obs == n


@pytest.mark.parametrize("names", [["Res", "Par"], ["PC", "GC"], ["UMAP", "start"]])
@pytest.mark.parametrize("transpose", [None, True])
def test_cells_are_not_set_aside_by_the_names_of_columns(names, transpose, tmp_path):
    cells = [f"{name}_{i}" for name in names for i in range(15)]
    table = pd.DataFrame(COUNTS[:, :6], index=cells, columns=GENES)
    (table.T if transpose else table).to_csv(tmp_path / "x.csv")
    made, _ = load(tmp_path / "x.csv", transpose)
    assert made.obs_names.tolist() == cells
    assert np.array_equal(made.to_df(), table)


def test_values_far_beyond_those_of_genes_are_said():
    x = np.column_stack([COUNTS, np.full(30, 900.0), np.full(30, 900.0)]).astype("float32")
    genes = [*GENES, *(f"Gm{i}12" for i in range(2)), *(f"Gm{i}13" for i in range(2))]
    adata = AnnData(x[:, [*range(8), 8, 9]], var=pd.DataFrame(index=genes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(adata, None)[0].n_vars == 10
    adata = AnnData(
        np.hstack([COUNTS, COUNTS, x[:, [8]]]), var=pd.DataFrame(index=[f"Gm{i}1" for i in range(16)] + ["q"])
    )
    with pytest.warns(UserWarning, match="values of 'q' go far beyond those of all genes"):
        assert load(adata, None)[0].n_vars == 17
