"""Markers, lists of genes and marks of transcription factors find symbols that are not the names of genes."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import diffvae as dv
from diffvae._errors import DataError
from diffvae.pp._usable import as_usable
from diffvae.tl._minimal_genes import allowed_genes
from diffvae.tl._regulators import by_symbol


@pytest.fixture(scope="module")
def blood():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = dv.datasets.pbmc68k_reduced()
        named = dv.tl.annotate(adata, groupby="cell_type", n_permutations=200, copy=True)
    assert named.uns["diffvae"]["annotation_params"]["markers"] == "blood-human"
    return adata, named.obs["diffvae_cell_type"].tolist()


def by_identifier(adata, form):
    adata = adata.copy()
    raw = adata.copy() if adata.raw is None else adata.raw.to_adata()
    for part in (raw, adata):
        symbols = part.var_names.to_numpy()
        part.var["feature_name"] = pd.Categorical(symbols)
        part.var_names = [form(f"ENSG{sum(map(ord, s)):05d}{i:06d}", s) for i, s in enumerate(symbols)]
        if "ENSG" not in part.var_names[0]:
            del part.var["feature_name"]
    adata.raw = raw
    return adata


@pytest.mark.parametrize(
    "form", [lambda i, s: i, lambda i, s: f"{s}__chr1", lambda i, s: f"GRCh38_{s}", lambda i, s: f"{i}|{s}"]
)
def test_clusters_get_the_names_that_they_get_by_symbol(blood, form):
    adata, names = blood
    cells = by_identifier(adata, form)
    before = cells.var_names.tolist(), cells.raw.var_names.tolist()
    with pytest.warns(UserWarning, match=r"Genes are matched to the markers by var"):
        dv.tl.annotate(cells, groupby="cell_type", n_permutations=200)
    assert cells.obs["diffvae_cell_type"].tolist() == names
    assert (cells.var_names.tolist(), cells.raw.var_names.tolist()) == before
    stored = cells.uns["diffvae"]
    assert "CD79A" in ",".join(stored["annotation"]["genes"])
    assert stored["annotation_params"]["gene_names"].startswith("var")


def test_markers_that_are_nowhere_are_refused_with_where_was_looked(blood):
    adata, _ = blood
    with pytest.raises(DataError, match=r"None of the 2 marker genes .* in the columns of adata.raw.var"):
        dv.tl.annotate(by_identifier(adata, lambda i, s: i), {"a": ["Nowhere1", "Nowhere2"]}, groupby="cell_type")


def test_genes_that_may_change_are_found_by_symbol():
    var = pd.DataFrame({"gene_short_name": ["GATA1", "HBB", "SPI1", "CD19"]}, index=["E1", "E2", "E3", "E4"])
    assert allowed_genes(var.index, "tf", var).tolist() == [True, False, True, False]
    with pytest.warns(UserWarning, match=r"matched by var\['gene_short_name'\] \('E4' is 'CD19'\)"):
        assert allowed_genes(var.index, ["CD19", "SPI1"], var).tolist() == [False, False, True, True]
    assert allowed_genes(var.index[[3, 0]], ["E1"], var).tolist() == [False, True]
    assert by_symbol(var) == dict(zip(var.index, var["gene_short_name"], strict=True))
    with pytest.raises(DataError, match="None of the 1 genes of restrict"):
        allowed_genes(var.index, ["GENE7"], var)


def test_raw_stands_in_for_a_scaled_matrix_only_where_it_can_be_used():
    rng = np.random.default_rng(0)
    counts = ad.AnnData(rng.poisson(2.0, (30, 20)).astype("float32"))
    counts.obs["kept"] = "yes"
    cells = counts.copy()
    cells.raw = counts
    assert as_usable(cells) is cells
    cells.X = cells.X - 2
    with pytest.warns(UserWarning, match=r"adata.raw, which holds counts of 20 genes, is taken instead"):
        taken = as_usable(cells)
    assert (taken.X == counts.X).all()
    assert taken.obs["kept"].eq("yes").all()
    cells.layers["counts"] = counts.X
    assert as_usable(cells, layer="counts") is cells
    cells.raw = cells.copy()
    assert as_usable(cells) is cells


def test_cells_that_express_too_few_genes_are_left_out():
    x = sp.random(40, 30, density=0.3, random_state=0, format="csr", dtype="float32")
    x.data[:] = 2
    genes = np.asarray((x != 0).sum(1)).ravel()
    cells = ad.AnnData(x)
    with pytest.warns(UserWarning, match=rf"{(genes < 9).sum()} of 40 cells express fewer than 9 genes and were left"):
        kept = as_usable(cells, min_genes=9)
    assert kept.obs_names.tolist() == cells.obs_names[genes >= 9].tolist()
    with pytest.raises(DataError, match="min_genes is 31, but no cell expresses so many genes"):
        as_usable(cells, min_genes=31)
