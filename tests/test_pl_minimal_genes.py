from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from _pl_data import assert_legible, minimal
from matplotlib.colors import to_hex

import diffvae as dv


def title(ax):
    return ax.get_title(loc="left")


def legend(ax):
    return [t.get_text() for t in ax.get_legend().get_texts()]


def test_curve_its_middle_and_the_baselines():
    ax = dv.pl.gene_counts(minimal())
    curve, dot = ax.lines
    np.testing.assert_allclose(curve.get_xdata(), [1, 1, 2, 4, 4.2])
    np.testing.assert_allclose(curve.get_ydata(), [0, 0.2, 0.6, 0.8, 0.8])
    assert (list(dot.get_xdata()), list(dot.get_ydata())) == ([2], [0.4])  # half of the cells that flip
    assert title(ax) == "A median of 2 genes turn a converted A cell into B"
    assert legend(ax) == [
        "B: 4 of 5 cells flip, median 2 genes\nwith equally many other genes: differentially expressed 25%, random <1%"
    ]
    assert ax.get_xscale() == "linear"
    assert_legible(ax)


def test_the_median_is_that_of_the_table():
    result = minimal(sizes=(3, 8, 9, 40), converted=20)  # most of the converted cells do not flip
    ax = dv.pl.gene_counts(result)
    assert ax.lines[1].get_xdata()[0] == result.cells["n_genes"].median() == 8.5
    assert ax.lines[1].get_ydata()[0] == pytest.approx(0.1)
    assert title(ax) == "A median of 8.5 genes turn a converted A cell into B"
    assert "4 of 20 cells flip, median 8.5 genes" in legend(ax)[0]
    assert title(dv.pl.gene_counts(minimal(sizes=(1, 1)))) == "A median of 1 gene turns a converted A cell into B"


def test_several_curves_one_of_them_empty():
    ax = dv.pl.gene_counts({"B": minimal(), "C": minimal((10, 300), 3, "C"), "D": minimal((), 0, "D")})
    assert len({line.get_color() for line in ax.lines[:3:2]}) == 2
    assert title(ax) == "How many genes turn A into other types"
    assert legend(ax)[2] == "D: No cell of A converts to D at step 1.5."
    assert ax.get_xscale() == "log"
    assert_legible(ax)


def test_bars_have_direction_change_and_null():
    ax = dv.pl.minimal_genes(minimal())
    assert [t.get_text() for t in ax.get_yticklabels()] == ["G0", "G1", "G2"]
    assert [p.get_width() for p in ax.patches] == [1.0, 0.5, 0.25]
    up, down, also_up = (to_hex(p.get_facecolor()) for p in ax.patches)
    assert up == also_up != down
    np.testing.assert_allclose(ax.lines[1].get_xdata(), [0.1, 0.6, 0.2])
    assert [t.get_text() for t in ax.texts] == ["+1.50 *", "−0.25", "+0.50", "mean log\nchange"]
    assert legend(ax) == ["up", "down", "random directions", "more than these (q < 0.05)"]
    assert title(ax) == "Genes that turn A into B, in 4 cells"
    assert_legible(ax)


def test_without_a_known_scaling_or_a_sure_gene():
    result = minimal()
    ax = dv.pl.minimal_genes(replace(result, genes=result.genes.drop(columns="mean_log_change").assign(q_value=0.9)))
    assert [t.get_text() for t in ax.texts] == ["+0.20", "−0.10", "+0.10", "mean\nchange"]
    assert "no gene is significantly more frequent than under random directions" in ax.get_xlabel()
    assert_legible(ax)


def test_many_genes_with_long_names():
    result = minimal()
    genes = pd.concat([result.genes] * 15, ignore_index=True)
    genes["gene"] = [f"ENSG000001234{i}.12-readthrough" for i in range(len(genes))]
    assert len(dv.pl.minimal_genes(replace(result, genes=genes)).get_yticks()) == 20
    ax = dv.pl.minimal_genes(replace(result, genes=genes), n_genes=40)
    assert len(ax.get_yticks()) == 40
    assert_legible(ax)


@pytest.mark.parametrize("draw", [dv.pl.gene_counts, dv.pl.minimal_genes])
@pytest.mark.parametrize(
    ("size", "converted", "sentence"),
    [
        ({"n_sd": 2.0}, 0, "No cell of A converts to B at 2 sd. Try another step, or a nearer source."),
        ({"step": 1.5}, 0, "No cell of A converts to B at step 1.5. Try another step, or a nearer source."),
        (
            {},
            7,
            "7 cells convert to B, but no set of genes flips any of them. Let more genes change, or try a larger step.",
        ),
    ],
)
def test_nothing_found_is_explained(draw, size, converted, sentence):
    ax = draw(minimal((), converted, **size))
    assert title(ax) == "No genes turn A into B"
    assert [t.get_text().replace("\n", " ") for t in ax.texts] == [sentence]
    assert_legible(ax)


@pytest.mark.parametrize(
    ("draw", "sentence"),
    [
        (lambda: dv.pl.gene_counts(3), r"minimal is a int; pass the result of diffvae\.tl\.minimal_genes"),
        (lambda: dv.pl.gene_counts({}), "minimal is empty; pass at least one result"),
        (lambda: dv.pl.minimal_genes(pd.DataFrame()), "minimal is a DataFrame; pass the result"),
        (lambda: dv.pl.minimal_genes(minimal(), n_genes=0), "n_genes is 0; it must be a whole number of 1 or more"),
    ],
)
def test_errors_are_sentences(draw, sentence):
    with pytest.raises(ValueError, match=sentence):
        draw()
