"""Links between cells on the map, between types, and what progenitors are called by them."""

import numpy as np
import pytest
from _pl_data import assert_legible
from _pl_links_data import LONG, called, linked
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

import diffvae as dv
from diffvae.pl._style import colours


def title(ax):
    return ax.get_title(loc="left")


def lines(ax):
    (found,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    return found


def legend(ax):
    return [t.get_text() for t in ax.figure.legends[0].get_texts()]


def test_links_of_a_source_lead_to_other_types_in_their_colours():
    adata = linked()
    given, new = dv.pl.links(adata, "type", source="a")
    assert (title(given), title(new)) == ("Input graph:\nall 2 links", "Newly predicted:\n1 link")
    xy = adata.obsm["X_diffvae_graph_tsne"]
    np.testing.assert_allclose(lines(given).get_segments(), [xy[[0, 4]], xy[[1, 8]]])
    np.testing.assert_allclose(lines(new).get_segments(), [xy[[2, 5]]])  # 0-4 is given, 1-3 within the type
    of = colours(["a", "b", "c"])
    assert [to_hex(c) for c in lines(given).get_edgecolors()] == [of["b"], of["c"]]
    assert legend(given) == ["a: source", "b: 1 given, 1 new", "c: 1 given, 0 new"]
    assert given.figure.get_suptitle() == "a: links of its 4 cells to other types"
    assert_legible(given)


def test_only_the_most_probable_links_are_drawn():
    adata = linked()
    given, new = dv.pl.links(adata, "type", max_links=2)
    assert title(given) == "Input graph:\n2 at random of 3 links"
    assert title(new) == "Newly predicted:\nthe 2 most probable of 3"
    xy = adata.obsm["X_diffvae_graph_tsne"]
    np.testing.assert_allclose(lines(new).get_segments(), [xy[[6, 9]], xy[[2, 5]]])
    again = dv.pl.links(adata, "type", max_links=2)[0]
    np.testing.assert_array_equal(lines(given).get_segments(), lines(again).get_segments())
    seeds = {str(lines(dv.pl.links(adata, "type", max_links=2, rng=i)[0]).get_segments()) for i in range(8)}
    assert len(seeds) > 1


def test_no_link_between_types():
    adata = linked()
    adata.obsp["diffvae_called_links"] = adata.obsp["cell_graph"]
    new = dv.pl.links(adata, "type", source="b")[1]
    assert title(new) == "Newly predicted:\nno link between types"
    assert not lines(new).get_segments()


def test_table_is_symmetric_with_stars():
    left, right = dv.pl.link_table(linked())
    assert title(left).split() == ["Input", "graph", "1", "of", "3", "pairs", "linked", "more,", "1", "less"]
    assert title(right).split() == ["Predicted", "links", "0", "of", "3", "pairs", "linked", "more,", "0", "less"]
    np.testing.assert_allclose(left.images[0].get_array(), [[2, -4, 1], [-4, 2, 0], [1, 0, 2]])  # -6 is off the scale
    assert sorted((t.get_position(), t.get_text()) for t in left.texts if "*" in t.get_text()) == [
        ((0, 1), "0*"), ((0, 2), "7*"), ((1, 0), "0*"), ((2, 0), "7*"),
    ]  # fmt: skip
    assert {t.get_text() for t in right.texts} == {"7"}
    assert len(left.patches) == 3
    assert_legible(left)
    assert [title(ax).split("\n")[0] for ax in dv.pl.link_table(linked(), graphs="cell_graph")] == ["Input graph"]


@pytest.mark.parametrize(("n", "name"), [(2, "{}"), (12, LONG), (24, "{}")])
def test_all_figures_are_legible(n, name):
    adata = linked(n, name)
    source = adata.obs["type"].iloc[0]
    for axes in (
        dv.pl.links(adata, "type", source=source),
        dv.pl.link_table(adata),
        dv.pl.link_table(adata, graphs=["cell_graph"]),
    ):
        assert axes[0].figure.get_size_inches()[0] == 6
        assert_legible(axes[0])


def test_commitment_counts_the_calls_beside_those_of_raw_neighbours():
    adata = called(["biased: b"] * 3 + ["uncommitted"], ["uncommitted"] * 2 + ["biased: c"] * 2)
    places, bars = dv.pl.commitment(adata)
    assert places.figure.get_suptitle() == "a: 3 of 4 cells called; 2 by PCA neighbours"
    assert [t.get_text() for t in bars.get_yticklabels()] == ["biased: b", "biased: c", "uncommitted"]
    assert [bar.get_width() for bar in bars.patches] == [3, 0, 1, 0, 2, 2]
    assert [t.get_text() for t in bars.texts] == ["3", "0", "1", "0", "2", "2"]
    rest, uncommitted, c, b = places.collections
    assert [len(s.get_offsets()) for s in (rest, uncommitted, c, b)] == [len(adata) - 4, 1, 0, 3]
    assert to_hex(b.get_facecolor()[0]) == colours(["a", "b", "c"])["b"]
    assert len(uncommitted.get_paths()[0]) != len(b.get_paths()[0])  # another shape
    assert_legible(places)


def test_two_types_fill_and_rim_a_diamond_even_with_a_slash_in_a_name():
    adata = called(["bipotent: x/y/z"] * 2 + ["multipotent: x/y/b/z"] * 2, ["uncommitted"] * 4, ("a", "x/y", "z", "b"))
    places, _ = dv.pl.commitment(adata)
    multipotent, bipotent = (c for c in places.collections[1:] if len(c.get_offsets()))
    if to_hex(bipotent.get_edgecolor()[0]) != colours(["a", "x/y", "z", "b"])["z"]:
        multipotent, bipotent = bipotent, multipotent
    of = colours(["a", "x/y", "z", "b"])
    assert to_hex(bipotent.get_facecolor()[0]) == to_hex(multipotent.get_facecolor()[0]) == of["x/y"]
    assert to_hex(bipotent.get_edgecolor()[0]) == of["z"]


@pytest.mark.parametrize("name", [LONG])
def test_rare_calls_share_a_row_per_kind(name):
    types = [name.format(i) for i in range(12)]
    pairs = [f"bipotent: {types[i]}/{types[j]}" for i in range(1, 8) for j in range(i + 1, 9)]
    many = [f"multipotent: {'/'.join(types[i : i + 3])}" for i in range(1, 4)]
    calls = [pairs[0]] * 5 + [f"biased: {t}" for t in types[1:10] for _ in range(9)] + pairs + many + ["uncommitted"]
    places, bars = dv.pl.commitment(called(calls, ["uncommitted"] * len(calls), types))
    rows = [t.get_text() for t in bars.get_yticklabels()]
    assert len(rows) == 13
    assert rows[-3:] == ["other bipotent", "multipotent", "uncommitted"]
    widths = [bar.get_width() for bar in bars.patches]
    assert widths[:13] == [9] * 9 + [6, len(pairs) - 1, 3, 1]
    assert sum(len(c.get_offsets()) for c in places.collections[1:]) == len(calls)
    assert_legible(places)


@pytest.mark.parametrize(
    ("without", "draw", "sentence"),
    [
        (
            ("obsm", "X_diffvae_graph_tsne"),
            lambda a: dv.pl.links(a, "type"),
            r"missing; run diffvae\.tl\.tsne\(adata, use_rep='X_diffvae_graph', key_added='X_diffvae_graph_tsne'\)",
        ),
        (("obsm", "X_diffvae_tsne"), dv.pl.commitment, r"missing; run diffvae\.tl\.tsne\(adata\) first"),
        (("obsp", "diffvae_links"), lambda a: dv.pl.links(a, "type"), r"run diffvae\.tl\.links\(adata, model\) first"),
        (("obsp", "cell_graph"), lambda a: dv.pl.links(a, "type"), r"run diffvae\.pp\.cell_graph\(adata\) first"),
        (("obs", "diffvae_commitment"), dv.pl.commitment, r"run diffvae\.tl\.commitment\(adata, source, groupby\)"),
        (("uns", "diffvae"), dv.pl.commitment, r"run diffvae\.tl\.commitment\(adata, source, groupby\) first"),
        (("uns", "diffvae"), dv.pl.link_table, r"run diffvae\.tl\.link_table\(adata, groupby\) first"),
        (None, lambda a: dv.pl.links(a, "type", source="z"), r"source is 'z'; the types of adata.obs\['type'\] are a"),
        (None, lambda a: dv.pl.links(a, "type", max_links=0), "max_links is 0; it must be a whole number of 1 or more"),
        (None, lambda a: dv.pl.link_table(a, graphs="z"), "graphs is z; the table has cell_graph, diffvae_called"),
        (None, lambda a: dv.pl.link_table(a, graphs=[]), "graphs is nothing; the table has"),
        (
            None,
            lambda a: dv.pl.commitment(a[1:]),
            r"has calls of 3 cells, but the table has 4; run diffvae\.tl\.commitment",
        ),
    ],
)
def test_errors_are_sentences(without, draw, sentence):
    adata = called(["uncommitted"] * 4, ["uncommitted"] * 4)
    if without:
        del getattr(adata, without[0])[without[1]]
    with pytest.raises(ValueError, match=sentence):
        draw(adata)


def test_table_of_another_make():
    adata = linked()
    del adata.uns["diffvae"]["link_table"]["q_value"]
    with pytest.raises(ValueError, match="has no column q_value; run diffvae"):
        dv.pl.link_table(adata)
