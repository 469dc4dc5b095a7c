"""Matrices of cells x cells in the order of their types."""

from itertools import pairwise

import numpy as np
import pytest
from _pl_data import assert_legible, cells
from _pl_links_data import LONG, graph, linked
from matplotlib.colors import to_hex
from scipy import sparse

import diffvae as dv
from diffvae.pl import _adjacency
from diffvae.pl._style import colours


def title(ax):
    return ax.get_title(loc="left")


def names(ax):
    return sorted(label.get_text() for label in ax.get_yticklabels())


def key(ax):
    legends = [axes.get_legend() for axes in ax.figure.axes] + ax.figure.legends
    return [t.get_text() for legend in legends if legend is not None for t in legend.get_texts()]


def test_share_of_linked_pairs_by_hand():
    # cells 0 2 | 1 3 4 in this order; within the second bin 3 pairs of cells, between the bins 6
    links = graph([(0, 2), (1, 3), (2, 3), (2, 4)], 5)
    order, edges = np.array([0, 2, 1, 3, 4]), np.array([0, 2, 5])
    np.testing.assert_allclose(_adjacency.binned_links(links, order, edges), [[1, 2 / 6], [2 / 6, 1 / 3]])
    exact = _adjacency.binned_links(links, order, np.arange(6))
    np.testing.assert_array_equal(exact, links.toarray()[np.ix_(order, order)])


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
def test_correlation_in_bins_is_the_mean_of_numpys(make):
    x = np.random.default_rng(0).random((50, 8)) * (np.arange(50)[:, None] != 7)  # cell 7 doesn't vary
    order, edges = np.random.default_rng(1).permutation(50), _adjacency.equal_bins(50, 7)
    with np.errstate(invalid="ignore"):
        r = np.nan_to_num(np.abs(np.corrcoef(x[order])))
    wanted = [[r[a:b, c:d].mean() for c, d in pairwise(edges)] for a, b in pairwise(edges)]
    np.testing.assert_allclose(_adjacency.binned_correlation(make(x), order, edges), wanted, atol=1e-6)


def test_a_sample_of_many_cells_stands_for_their_bin():
    x = np.random.default_rng(0).random((3000, 5))
    order, edges = np.argsort(x[:, 0]), _adjacency.equal_bins(3000, 4)
    r = np.abs(np.corrcoef(x[order]))
    wanted = r.reshape(4, 750, 4, 750).mean(axis=(1, 3))
    assert np.abs(_adjacency.binned_correlation(x, order, edges) - wanted).max() < 0.1


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
def test_order_is_by_type_then_by_the_first_component(make):
    position = np.random.default_rng(0).permutation(40).astype(float)
    x = np.outer(position, [1.0, -2, 3]) + 5
    codes = np.repeat([1, 0], 20)
    order = _adjacency.by_type(codes, make(x))
    assert codes[order].tolist() == [0] * 20 + [1] * 20
    for part in (order[:20], order[20:]):
        assert abs(np.sign(np.diff(position[part])).sum()) == 19
    np.testing.assert_array_equal(_adjacency.by_type(codes, make(np.ones((40, 3)))), [*range(20, 40), *range(20)])


def test_few_cells_are_drawn_exactly():
    adata = linked()
    given, called, together = dv.pl.adjacency(adata, "type")
    assert title(given) == "Input graph: 4 links\nwithin type 25%, chance 38%"  # ends 4 2 2: (16 + 4 + 4) / 64
    assert title(called) == "Predicted links: 5\nwithin type 20%, chance 36%"  # ends 4 4 2: (16 + 16 + 4) / 100
    assert title(together) == "Co-expression, |r|"
    assert given.images[0].get_array().filled(0).sum() == 8
    assert key(given) == ["a link"]
    assert names(given) == ["a", "b", "c"]
    assert not names(called)
    assert_legible(given)


def test_many_cells_are_binned():
    adata = cells()
    n = adata.n_obs
    pairs = np.random.default_rng(0).integers(n, size=(900, 2))
    adata.obsp["cell_graph"] = graph(pairs[pairs[:, 0] != pairs[:, 1]], n)
    axes = dv.pl.adjacency(adata, "cell_type", graphs="cell_graph", layer=None, n_bins=100)
    assert len(axes) == 2
    share = axes[0].images[0].get_array()
    assert share.shape == (100, 100)
    assert share.min() >= 1 / 49
    assert axes[0].images[0].norm.vmin == share.min()
    strip = [p.get_facecolor() for p in axes[0].patches]
    assert len(strip) == 20
    assert_legible(axes[0])
    labels = {ax.get_xlabel() for ax in axes[0].figure.axes}
    assert {"share of pairs linked (log)", "|Pearson's r|, mean of pairs"} <= labels


@pytest.mark.parametrize(
    ("n", "name", "graphs", "coexpression", "n_bins"),
    [
        (2, "{}", ["cell_graph"], True, 300),
        (12, LONG, ["cell_graph", "diffvae_links"], False, 10),
        (12, "{}", [], True, 10),
        (24, LONG, ["cell_graph", "diffvae_links"], True, 10),
        (24, "{}", ["cell_graph"], False, 300),
    ],
)
def test_legible_whatever_the_panels(n, name, graphs, coexpression, n_bins):
    axes = dv.pl.adjacency(linked(n, name), "type", graphs=graphs, coexpression=coexpression, n_bins=n_bins)
    assert len(axes) == len(graphs) + coexpression
    assert axes[0].figure.get_size_inches()[0] == 6
    assert_legible(axes[0])


def test_types_without_a_name_are_in_the_legend():
    adata = linked(24, "type {}")
    (ax,) = dv.pl.adjacency(adata, "type", graphs=["cell_graph"], coexpression=False)
    listed = key(ax)[1:]
    assert sorted(names(ax) + listed) == sorted(adata.obs["type"].cat.categories)
    assert listed


def test_colours_are_those_of_the_other_figures():
    adata = linked()
    ax = dv.pl.adjacency(adata, "type")[0]
    assert {to_hex(p.get_facecolor()) for p in ax.patches} == set(colours(["a", "b", "c"]).values())
    red = dv.pl.adjacency(adata, "type", palette={"a": "#ff0000"}, title="Mine")[0]
    assert red.patches[0].get_facecolor() == (1, 0, 0, 1)
    assert red.figure.get_suptitle() == "Mine"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n_bins": 1}, "n_bins is 1; it must be a whole number of 2 or more"),
        ({"graphs": [], "coexpression": False}, "there is nothing to draw; pass a graph"),
        ({"graphs": ["other"]}, r"adata\.obsp\['other'\] is missing; there are: cell_graph, "),
        ({"groupby": "other"}, r"adata\.obs\['other'\] is missing; there are: type"),
        ({"layer": "other"}, r"adata\.layers\['other'\] is missing; it has the layers 'unit'"),
    ],
)
def test_errors_are_sentences(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        dv.pl.adjacency(linked(), **{"groupby": "type"} | arguments)


def test_values_that_are_missing():
    adata = linked()
    adata.layers["unit"][2, 2] = np.nan
    with pytest.raises(ValueError, match=r"adata\.layers\['unit'\] holds NaN"):
        dv.pl.adjacency(adata, "type")
