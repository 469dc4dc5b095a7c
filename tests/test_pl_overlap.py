import numpy as np
import pandas as pd
import pytest
from _pl_data import cells

import diffvae as dv

COUNTS = pd.DataFrame(
    [[0, 8, 1, 1], [30, 0, 0, 0], [0, 1, 1, 3]], index=["B", "T", "NK"], columns=["0", "1", "2", "unassigned"]
)


def ticks(axis):
    return [t.get_text() for t in axis.get_ticklabels()]


def test_matching_lies_on_the_diagonal_and_rows_add_up():
    ax = dv.pl.overlap(COUNTS)
    assert ticks(ax.yaxis) == ["T (30)", "B (10)", "NK (5)"]
    assert ticks(ax.xaxis) == ["0 (30)", "1 (9)", "2 (2)", "unassigned (4)"]
    share = np.ma.filled(np.ma.masked_invalid(ax.images[0].get_array()), 0)
    np.testing.assert_allclose(share, [[1, 0, 0, 0], [0, 0.8, 0.1, 0.1], [0, 0.2, 0.2, 0.6]])
    assert ax.get_title(loc="left").replace("\n", " ") == "87% of 45 cells lie on the best one-to-one matching"
    assert sorted(t.get_text() for t in ax.texts) == sorted(["30", "8", "1", "1", "1", "1", "3"])


def test_order_of_rows_and_columns_does_not_matter():
    shuffled = COUNTS.loc[["NK", "B", "T"], ["unassigned", "2", "0", "1"]]
    assert ticks(dv.pl.overlap(shuffled).xaxis) == ticks(dv.pl.overlap(COUNTS).xaxis)


def test_cells_and_counts_and_adata_agree():
    adata = cells()
    pair = {"reference": "cell_type", "groupby": "diffvae_cluster"}
    counts = pd.crosstab(adata.obs["cell_type"], adata.obs["diffvae_cluster"])
    expected = dv.pl.overlap(adata, **pair)
    for data in (counts, adata.obs):
        ax = dv.pl.overlap(data, **pair)
        assert ticks(ax.xaxis) == ticks(expected.xaxis)
        np.testing.assert_array_equal(ax.images[0].get_array(), expected.images[0].get_array())


def test_title_agrees_with_the_metric():
    adata = cells()
    share = dv.metrics.overlap(adata.obs["cell_type"], adata.obs["diffvae_cluster"]).share
    assert dv.pl.overlap(adata, groupby="diffvae_cluster").get_title(loc="left").startswith(f"{share:.0%} of 700")


def test_more_labels_than_groups():
    ax = dv.pl.overlap(COUNTS[["1"]])
    assert ticks(ax.yaxis) == ["B (8)", "NK (1)"]


def test_counts_are_left_out_where_they_do_not_fit():
    rng = np.random.default_rng(0)
    assert len(dv.pl.overlap(pd.DataFrame(rng.integers(1000, 9000, (30, 30)))).texts) == 0


def test_missing_labels_are_their_own_row():
    frame = pd.DataFrame({"cell_type": ["a", None, "b"], "diffvae_cell_type": ["x", "x", "y"]})
    assert ticks(dv.pl.overlap(frame).yaxis) == ["a (1)", "b (1)", "NA (1)"]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([1], "data is a list; pass an AnnData or a data frame"),
        (COUNTS - 1, "neither the columns 'cell_type' and 'diffvae_cell_type' nor only counts"),
        (pd.DataFrame({"a": ["x"]}), "nor only counts"),
        (COUNTS * 0, "there are no cells to compare"),
    ],
)
def test_errors_are_sentences(data, sentence):
    with pytest.raises(ValueError, match=sentence):
        dv.pl.overlap(data)
