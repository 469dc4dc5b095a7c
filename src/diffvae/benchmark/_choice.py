"""Which of several configurations, chosen without the data set that it is judged on?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

MEASURES = ("ari", "knn_purity")
"""What a configuration is chosen by: their sum, so that neither is bought with the other."""


def leave_one_out(
    table: pd.DataFrame,
    candidates: Sequence[str],
    baselines: Sequence[str] = ("PCA",),
    *,
    measures: Sequence[str] = MEASURES,
    clusterer: str = "kmeans",
    space: str = "latent",
    n_latent: int | None = None,
) -> pd.DataFrame:
    """Choose a configuration on all data sets but one, and judge it on that one; each in turn.

    A configuration that was tuned on the sets that it is judged on looks better than it is. Here the one with the
    highest mean over the *other* sets of the summed measures is taken to the set that was left out.

    Parameters
    ----------
    table
        Of :func:`diffvae.benchmark.run`.
    candidates
        Methods among which is chosen.
    baselines
        Methods to compare with on the set that was left out.
    measures
        Columns whose sum decides.
    clusterer, space, n_latent
        Setting of the runs that count; the number of types is given to clusterers that take it. None for all sizes.

    Returns
    -------
    One row per data set: ``dataset``, ``chosen``; per measure ``<measure>`` of the chosen one on that set, and
    ``<measure> <baseline>``. The last row (``dataset`` "mean") has the means, and as ``chosen`` what all sets together
    would choose, whose own scores are not comparable because it has seen them.

    Raises
    ------
    ValueError
        If there are fewer than two data sets, or a method or measure is missing on one of them.

    Examples
    --------
    >>> rows = [(d, m, s, 0, "latent", "kmeans", True, 50, a) for d, m, s, a in [
    ...     ("x", "A", 0, 0.9), ("x", "B", 0, 0.6), ("y", "A", 0, 0.5), ("y", "B", 0, 0.7), ("x", "PCA", 0, 0.5),
    ...     ("y", "PCA", 0, 0.5)]]
    >>> columns = ["dataset", "method", "seed", "clustering_seed", "space", "clusterer", "k_given", "n_latent", "ari"]
    >>> found = leave_one_out(pd.DataFrame(rows, columns=columns), ["A", "B"], measures=["ari"])
    >>> found[["dataset", "chosen", "ari", "ari PCA"]].values.tolist()  # chosen on y for x, and the other way round
    [['x', 'B', 0.6, 0.5], ['y', 'A', 0.5, 0.5], ['mean', 'A', 0.55, 0.5]]
    """
    means = _means(table, [*candidates, *baselines], measures, clusterer, space, n_latent)
    score = means[list(measures)].sum(axis=1, skipna=False).unstack("method")
    sets = list(score.index)
    if len(sets) < 2:
        raise ValueError(f"The table has {len(sets)} data set; leaving one out needs two at least.")
    own = score[list(candidates)]
    rows: list[dict[str, Any]] = []
    for left_out in sets:
        chosen = own.drop(index=left_out).mean().idxmax()
        row: dict[str, Any] = {"dataset": left_out, "chosen": chosen}
        for measure in measures:
            row[measure] = means.loc[(left_out, chosen), measure]
            row |= {f"{measure} {b}": means.loc[(left_out, b), measure] for b in baselines}
        rows.append(row)
    found = pd.DataFrame(rows)
    mean = found.drop(columns=["dataset", "chosen"]).mean()
    found.loc[len(found)] = {"dataset": "mean", "chosen": own.mean().idxmax(), **mean}
    return found


def _means(
    table: pd.DataFrame,
    methods: Sequence[str],
    measures: Sequence[str],
    clusterer: str,
    space: str,
    n_latent: int | None,
) -> pd.DataFrame:
    """Return the mean over trainings of each measure, by data set and method; refuse gaps."""
    here = table[(table["clusterer"] == clusterer) & (table["space"] == space)]
    here = here[here["k_given"] | ~here["k_given"].any()]
    if n_latent is not None:
        here = here[here["n_latent"] == n_latent]
    if missing := [m for m in measures if m not in here]:
        raise ValueError(f"The table has no column {missing[0]!r}.")
    by_training = here.groupby(["dataset", "method", "seed"], sort=False)[list(measures)].mean()
    means = by_training.groupby(["dataset", "method"], sort=False).mean()
    for dataset in here["dataset"].unique():
        for method in methods:
            if (dataset, method) not in means.index or means.loc[(dataset, method)].isna().any():
                raise ValueError(f"{method!r} has no runs on {dataset!r} at this setting; run it there as well.")
    return means
