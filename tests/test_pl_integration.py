import numpy as np
import pandas as pd
import pytest
from _pl_data import cells

import diffvae as dv
from diffvae._errors import DataError

ROWS = [
    ("batches mixed", "iLISI", 0.1, 0.6, 0.9),
    ("batches mixed", "variance free of batch", 0.9, 0.98, 1.0),
    ("types kept", "kNN purity", 0.95, 0.9, 0.3),
]
TABLE = pd.DataFrame(ROWS, columns=["side", "score", "pca", "latent", "permuted"])


def markers(ax):
    """Return the places of the markers by row: permuted, PCA, latent."""
    return [
        [line.get_xdata()[0] for line in ax.lines if line.get_ydata()[0] == y] for y in range(len(ax.get_yticklabels()))
    ]


def test_each_score_is_where_the_table_says():
    left, right = dv.pl.integration(TABLE)
    assert markers(left) == [[0.9, 0.1, 0.6], [1.0, 0.9, 0.98]]
    assert markers(right) == [[0.3, 0.95, 0.9]]
    assert left.get_xlim() == right.get_xlim() == (-0.03, 1.03)
    assert left.get_ylim() == right.get_ylim()
    assert left.get_xlabel() == "better →"
    assert left.figure.get_suptitle() == "Batches mixed: 0.50 → 0.79, types kept: 0.95 → 0.90 (mean scores)"


def test_without_types_there_is_one_panel_and_an_adata_will_do():
    adata = cells()
    adata.uns["diffvae"]["integration"] = {"table": TABLE[:2], "params": {}}
    panels = dv.pl.integration(adata, title="mine")
    assert len(panels) == 1
    assert panels[0].figure.get_suptitle() == "mine"
    assert isinstance(panels, np.ndarray)


def test_other_data_are_refused():
    with pytest.raises(ValueError, match="no column 'permuted'"):
        dv.pl.integration(TABLE.drop(columns="permuted"))
    with pytest.raises(ValueError, match="no scores"):
        dv.pl.integration(TABLE[:0])
    with pytest.raises(DataError, match=r"run diffvae.tl.integration\(adata, batch_key\) first"):
        dv.pl.integration(cells())
