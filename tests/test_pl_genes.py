import numpy as np
import pandas as pd
import pytest
from _pl_data import cells
from anndata import AnnData
from scipy import sparse

import diffvae as dv


def small(x=None) -> AnnData:
    adata = AnnData(np.array([[1.0, 0, 2], [3, 0, 2], [0, 4, 0], [0, 0, 2]]) if x is None else x)
    adata.var_names = ["A", "B", "C"]
    adata.obs["diffvae_cluster"] = pd.Categorical(["x", "x", "y", "y"])
    return adata


def rows(ax):
    return [t.get_text() for t in ax.get_yticklabels()]


def dots(ax):
    return next(c for c in ax.collections if len(c.get_offsets()) > 1)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_array])
def test_colour_is_the_mean_and_area_the_share(kind):
    ax = dv.pl.gene_heatmap(small(kind(small().X)), genes=["A", "B", "C"], standard_scale=False)
    np.testing.assert_allclose(dots(ax).get_array(), [2, 0, 0, 2, 2, 1])  # A in x, A in y, B in x, ...
    area = dots(ax).get_sizes()
    np.testing.assert_allclose(area / area.max(), [1, 0, 0, 0.5, 1, 0.5])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x", "y"]
    assert ax.get_title(loc="left") == "3 genes in 2 clusters"


def test_standard_scale_brings_each_gene_to_zero_and_one():
    ax = dv.pl.gene_heatmap(small(), genes=["A", "B", "C"])
    np.testing.assert_allclose(dots(ax).get_array(), [1, 0, 0, 1, 1, 0])


def test_constant_gene_is_no_division_by_zero():
    ax = dv.pl.gene_heatmap(small(np.ones((4, 3))), genes=["A"])
    np.testing.assert_allclose(dots(ax).get_array(), [0, 0])


def test_genes_of_the_table_in_blocks_each_once():
    adata = cells()
    table = adata.uns["diffvae"]["high_weight_genes"]
    up = table[table["direction"] == "up"]
    ax = dv.pl.gene_heatmap(adata, n_genes=2)
    expected = up[up["rank"] <= 2].sort_values(["group", "rank"], key=lambda c: c.astype(int))["gene"].drop_duplicates()
    assert rows(ax) == expected.tolist()
    assert len(ax.patches) == len(up[up["rank"] <= 2].drop_duplicates("gene")["group"].unique())
    assert ax.get_title(loc="left") == "High-weight genes of each cluster"


def test_two_rankings_in_one_table():
    adata = cells()
    table = adata.uns["diffvae"]["high_weight_genes"]
    adata.uns["diffvae"]["high_weight_genes"] = pd.concat(
        [table.assign(ranking="jacobian"), table.assign(ranking="weights", gene="CST3")]
    )
    assert rows(dv.pl.gene_heatmap(adata)) == rows(dv.pl.gene_heatmap(cells()))


def test_figure_grows_down_only():
    few, many = dv.pl.gene_heatmap(cells(), n_genes=1).figure, dv.pl.gene_heatmap(cells(), n_genes=5).figure
    assert few.get_size_inches()[0] == many.get_size_inches()[0] == 6
    assert few.get_size_inches()[1] < many.get_size_inches()[1]


def test_one_gene_by_name_and_duplicated_genes():
    adata = small()
    adata.var_names = ["A", "A", "C"]
    ax = dv.pl.gene_heatmap(adata, genes="A", standard_scale=False)
    np.testing.assert_allclose(dots(ax).get_array(), [2, 0])  # the first of the two


def test_scaled_values_are_refused():
    with pytest.raises(ValueError, match=r"expression goes down to -1, .* pass layer="):
        dv.pl.gene_heatmap(small(small().X - 1), genes=["A"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"genes": ["a"]}, "'a' is not among the genes of adata; did you mean A"),
        ({"genes": []}, "there are no genes to show"),
        ({}, r"\['high_weight_genes'\] is missing; run diffvae\.tl\.high_weight_genes"),
        ({"n_genes": 0}, "n_genes is 0"),
    ],
)
def test_errors_are_sentences(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        dv.pl.gene_heatmap(small(), **options)
