"""Features that are no genes, in every kind of file."""

import h5py
import numpy as np
import pandas as pd
import pytest
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
