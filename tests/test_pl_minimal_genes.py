from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from _pl_data import assert_legible
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

import diffvae as dv
from diffvae.tl._minimal_genes import MinimalGenes


def small(sizes=(1, 2, 2, 4), converted=5, target="B"):
    """Cells flipped by so many genes each; G0 goes up in all cells, G1 down in half, G2 up in a quarter."""
    genes = pd.DataFrame(
        {
            "gene": ["G0", "G1", "G2"],
            "n_cells": [4, 2, 1],
            "share": [1.0, 0.5, 0.25],
            "direction": ["up", "down", "up"],
            "mean_change": [0.2, -0.1, 0.1],
            "mean_log_change": [1.5, -0.25, 0.5],
            "null_share": [0.1, 0.6, 0.2],
            "p_value": [0.01, 0.8, 0.3],
            "q_value": [0.03, 0.8, np.nan],
        }
    )
    baselines = pd.DataFrame(
        {"genes": ["found", "differentially expressed", "random"], "flipped": [1.0, 0.25, 0.004], "sd": np.nan}
    )
    counts = {"source": 20, "already_target": 0, "converted": converted, "flipped": len(sizes)}
    cells = pd.DataFrame({"n_genes": np.array(sizes, dtype=int)})
    params = {"source": "A", "target": target, "n_sd": 2.0}
    genes = genes if sizes else genes[:0]
    return MinimalGenes(cells, genes, baselines, counts, params, AnnData(), None, np.array([]), np.array([]))


def title(ax):
    return ax.get_title(loc="left")


def legend(ax):
    return [t.get_text() for t in ax.get_legend().get_texts()]


def test_curve_its_middle_and_the_baselines():
    ax = dv.pl.gene_counts(small())
    curve, dot, half = ax.lines
    np.testing.assert_allclose(curve.get_xdata(), [1, 1, 2, 4, 4.2])
    np.testing.assert_allclose(curve.get_ydata(), [0, 0.2, 0.6, 0.8, 0.8])
    assert (list(dot.get_xdata()), list(dot.get_ydata())) == ([2], [0.5])
    assert list(half.get_ydata()) == [0.5, 0.5]
    assert title(ax) == "Half of the converted A cells become B with at most 2 genes"
    assert legend(ax) == [
        "B: 4 of 5 cells flip, half with 2 genes\n"
        "flipped by equally many other genes: differentially expressed 25%, random <1%"
    ]
    assert ax.get_xscale() == "linear"
    assert_legible(ax)


def test_half_is_not_reached():
    ax = dv.pl.gene_counts(small(converted=20))
    assert len(ax.lines) == 1
    assert title(ax) == "Fewer than half of the converted A cells flip to B"
    assert "4 of 20 cells flip, fewer than half" in legend(ax)[0]


def test_several_curves_one_of_them_empty():
    ax = dv.pl.gene_counts({"B": small(), "C": small((10, 300), 3, "C"), "D": small((), 0, "D")})
    assert len({line.get_color() for line in ax.lines[:3:2]}) == 2
    assert title(ax) == "How many genes turn A into other types"
    assert legend(ax)[2] == "D: No cell of A converts to D by 2 sd."
    assert ax.get_xscale() == "log"
    assert_legible(ax)


def test_bars_have_direction_change_and_null():
    ax = dv.pl.minimal_genes(small())
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
    found = small()
    ax = dv.pl.minimal_genes(replace(found, genes=found.genes.drop(columns="mean_log_change").assign(q_value=0.9)))
    assert [t.get_text() for t in ax.texts] == ["+0.20", "−0.10", "+0.10", "mean\nchange"]
    assert "none is sure to be in more sets than under random directions" in ax.get_xlabel()
    assert_legible(ax)


def test_many_genes_with_long_names():
    found = small()
    genes = pd.concat([found.genes] * 15, ignore_index=True)
    genes["gene"] = [f"ENSG000001234{i}.12-readthrough" for i in range(len(genes))]
    assert len(dv.pl.minimal_genes(replace(found, genes=genes)).get_yticks()) == 20
    ax = dv.pl.minimal_genes(replace(found, genes=genes), n_genes=40)
    assert len(ax.get_yticks()) == 40
    assert_legible(ax)


@pytest.mark.parametrize("draw", [dv.pl.gene_counts, dv.pl.minimal_genes])
@pytest.mark.parametrize(
    ("converted", "sentence"),
    [(0, "No cell of A converts to B by 2 sd."), (7, "7 cells convert to B, but no set of genes flips any of them.")],
)
def test_nothing_found(draw, converted, sentence):
    ax = draw(small((), converted))
    assert title(ax) == "No genes turn A into B"
    assert [t.get_text() for t in ax.texts] == [sentence]
    assert_legible(ax)


@pytest.mark.parametrize("draw", [dv.pl.gene_counts, dv.pl.minimal_genes])
def test_saved_and_drawn_into_given_axes(draw, tmp_path):
    ax = draw(small())
    assert ax.figure.get_size_inches()[0] == 6
    assert [f.name for f in dv.pl.save(ax, tmp_path / "a", formats="png", dpi=50)] == ["a.png"]
    assert plt.get_fignums() == []
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    try:
        assert draw(small(), ax=axes[0], title="Mine") is axes[0]
        assert title(axes[0]) == "Mine"
        axes[1].set_axis_off()
        assert_legible(axes[0])
    finally:
        plt.close(figure)


@pytest.mark.parametrize(
    ("draw", "sentence"),
    [
        (lambda: dv.pl.gene_counts(3), r"minimal is a int; give what diffvae\.tl\.minimal_genes returns"),
        (lambda: dv.pl.gene_counts({}), "minimal is empty; give at least one result"),
        (lambda: dv.pl.minimal_genes(pd.DataFrame()), "minimal is a DataFrame; give what"),
        (lambda: dv.pl.minimal_genes(small(), n_genes=0), "n_genes is 0; give at least 1"),
        (lambda: dv.pl.minimal_genes(small(), ax=np.empty(2)), "ax is a ndarray; give one matplotlib Axes"),
    ],
)
def test_errors_are_sentences(draw, sentence):
    with pytest.raises(ValueError, match=sentence):
        draw()
