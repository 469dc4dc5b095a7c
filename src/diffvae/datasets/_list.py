"""What data sets there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_PARSER = "parser only, on small files of the same form; never the download"


def list_datasets() -> pd.DataFrame:
    """Return a table of the data sets in ``diffvae.datasets``.

    Returns
    -------
    DataFrame
        One row per set: ``name`` (of the function), ``cells``, ``genes``, ``description``, ``source``,
        ``access`` ("bundled", "simulated" or "download") and ``exercised`` (what of it ran in development).

    Examples
    --------
    >>> import diffvae as dv
    >>> dv.datasets.list_datasets().set_index("name")["access"]["zebrafish"]
    'download'
    """
    import pandas as pd

    columns = ["name", "cells", "genes", "description", "source", "access", "exercised"]
    rows = [
        (
            "pbmc68k_reduced",
            700,
            765,
            "human blood, ten types, log-normalised",
            "Zheng et al. 2017; scanpy",
            "bundled",
            "yes",
        ),
        (
            "simulate_differentiation",
            1000,
            1000,
            "counts from a branching tree with known truth; any size, the default is shown",
            "simulated",
            "simulated",
            "yes",
        ),
        (
            "zebrafish",
            1422,
            1845,
            "zebrafish blood, five types, log-normalised; the paper's main set",
            "Athanasiadis et al. 2017; github.com/ioanabica/DiffVAE",
            "download",
            _PARSER,
        ),
        (
            "pancreas",
            2285,
            4000,
            "human pancreas, four donors, labels in a file of their own; the paper's second set",
            "Muraro et al. 2016; GEO GSE85241",
            "download",
            _PARSER,
        ),
        (
            "human_hsc",
            1034,
            700,
            "human stem and progenitor cells, no labels; the paper's third set",
            "Velten et al. 2017; GEO GSE75478",
            "download",
            _PARSER,
        ),
    ]
    return pd.DataFrame(rows, columns=columns)
