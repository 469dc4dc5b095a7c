"""Differences between methods on the same data sets and splits, with intervals, wins and losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffvae import _measures, _random
from diffvae.benchmark._bootstrap import Bootstrap, resampled
from diffvae.benchmark._statistics import trainings

MARGIN = 0.01
"""A difference up to this is a tie whatever its interval."""
_SET = ("reference_mean", "method_mean", "difference", "low", "high", "result", "n_pairs", "n_dropped", "resampled")
_ALL = (*_SET[:5], "wins", "ties", "losses", "n_datasets", *_SET[6:])


def compare(
    table: pd.DataFrame,
    reference: str = "DiffVAE",
    metric: str = "ari",
    *,
    by: Sequence[str] | None = None,
    per_dataset: bool = False,
    margin: float = MARGIN,
    level: float = 0.95,
    n_bootstrap: int = 2000,
    rng: _random.Rng = 0,
) -> pd.DataFrame:
    r"""Return how much better a method is than each other one, on the same data sets and splits.

    A pair are the trainings of two methods with the same data set, seed and setting, each the mean of its clusterings.
    The difference is the mean over data sets of the mean over pairs,

    .. math:: \frac{1}{D} \sum_d \frac{1}{n_d} \sum_s (r_{ds} - m_{ds})

    reference minus method. Its interval is a bootstrap: data sets are drawn with replacement, then pairs within each;
    of a single data set the pairs alone. Plain quantiles of so few are too narrow (of 5 normal differences a "95 %"
    interval holds the truth in 84 % of simulations), so that their distances from the mean are multiplied by
    :math:`\sqrt{n/(n-1)} \, t_{n-1} / z`, n being the number of data sets, or of pairs of a single one (then 94 %).

    Parameters
    ----------
    table
        ``comparison.table`` of :func:`diffvae.benchmark.run`, or rows of it.
    reference
        Method with which the others are compared.
    metric
        Column.
    by
        Of ``n_latent``, ``space``, ``clusterer`` and ``k_given`` those that get rows of their own; pairs are averaged
        over the others. None: all on which the measure depends.
    per_dataset
        Return the differences of each data set instead.
    margin
        A data set is a win or loss if its own interval excludes zero *and* its difference is larger than this.
    level
        Of the intervals.
    n_bootstrap
        Draws.
    rng
        Seed.

    Returns
    -------
    One row per other method and setting: ``metric``, ``reference``, ``method``, the setting, ``reference_mean`` and
    ``method_mean`` (of the pairs), ``difference``, ``low``, ``high``, ``wins``, ``ties``, ``losses`` (data sets, from
    the reference's side; of seconds fewer is better), ``n_datasets``, ``n_pairs``, ``n_dropped`` (trainings without a
    partner, or without a value on either side), ``resampled``: "data sets, then trainings", "data sets" (one pair in
    each), "trainings" (one data set), or "nothing" (one pair: no interval, and a tie). With ``per_dataset`` a column
    ``dataset`` and ``result`` ("win", "tie" or "loss") in place of the counts.

    Raises
    ------
    ValueError
        If the table lacks the measure or the reference, or an option is out of range.

    References
    ----------
    Hesterberg 2015, What teachers should know about the bootstrap, The American Statistician 69, 371-386.

    Examples
    --------
    >>> import pandas as pd
    >>> setting = {"n_latent": 50, "space": "latent", "clusterer": "kmeans", "k_given": True}
    >>> scores = {"DiffVAE": [0.60, 0.71, 0.83], "PCA": [0.50, 0.60, 0.70]}
    >>> table = pd.DataFrame(
    ...     {"dataset": "tree", "method": name, **setting, "seed": seed, "clustering_seed": 0, "ari": ari}
    ...     for name, values in scores.items() for seed, ari in enumerate(values)
    ... )
    >>> compare(table)[["method", "difference", "low", "high", "wins", "n_pairs"]].round(2).values.tolist()
    [['PCA', 0.11, 0.08, 0.16, 1, 3]]
    """
    bootstrap = Bootstrap(n_bootstrap, level, rng)
    return differences(table, reference, metric, bootstrap, by=by, margin=margin)[per_dataset]


def differences(
    table: pd.DataFrame,
    reference: str,
    metric: str,
    bootstrap: Bootstrap,
    *,
    by: Sequence[str] | None = None,
    margin: float = MARGIN,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return differences over all data sets, and of each: what :func:`compare` gives without and with per_dataset."""
    keys = _measures.setting_of(metric)
    chosen = keys if by is None else list(by)
    if wrong := [c for c in chosen if c not in keys]:
        raise ValueError(f"by names {', '.join(wrong)}; {metric} depends on {', '.join(keys)}.")
    cells = trainings(table, metric)
    own = cells[cells["method"] == reference]
    if own.empty:
        there = ", ".join(map(repr, cells["method"].unique())) or "nothing"
        raise ValueError(f"reference is {reference!r}, of which the table has no {metric}; it has {there}.")
    rows: list[dict[str, Any]] = []
    rows_of_sets: list[dict[str, Any]] = []
    for method in cells["method"].unique():
        if method == reference:
            continue
        pairs = _measures.ordered(_pairs(own, cells[cells["method"] == method], keys, chosen), cells)
        for setting, here in _groups(pairs, chosen):
            about = {"metric": metric, "reference": reference, "method": method, **setting}
            name = tuple(map(str, about.values()))
            parts = _sets(here)
            sets = []
            for one in parts:
                row = _row([one], bootstrap, *name, one.dataset)
                sets.append(about | {"dataset": one.dataset} | row | {"result": _result(row, margin, metric)})
            rows_of_sets += sets
            rows.append(about | _row(parts, bootstrap, *name) | _tally(sets))
    columns = ["metric", "reference", "method", *chosen]
    return pd.DataFrame(rows, columns=[*columns, *_ALL]), pd.DataFrame(
        rows_of_sets, columns=[*columns, "dataset", *_SET]
    )


class _Set(NamedTuple):
    """The pairs of one data set: both methods' means by seed, and how many trainings had no partner."""

    dataset: str
    own: np.ndarray
    other: np.ndarray
    n_dropped: int


def _pairs(own: pd.DataFrame, other: pd.DataFrame, keys: list[str], chosen: list[str]) -> pd.DataFrame:
    """Return one row per chosen setting, data set and seed: the means over the settings that both methods have."""
    on = ["dataset", *keys, "seed"]
    pairs = own[[*on, "mean"]].merge(other[[*on, "mean"]], "outer", on, suffixes=("_own", "_other"))
    pairs["dropped"] = pairs[["mean_own", "mean_other"]].isna().any(axis=1)
    pairs.loc[pairs["dropped"], ["mean_own", "mean_other"]] = np.nan
    grouped = pairs.groupby([*chosen, "dataset", "seed"], sort=False, dropna=False)
    return grouped.agg({"mean_own": "mean", "mean_other": "mean", "dropped": "sum"}).reset_index()


def _groups(pairs: pd.DataFrame, by: list[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    if not by:
        yield {}, pairs
        return
    for values, here in pairs.groupby(by, sort=False, dropna=False):
        yield dict(zip(by, values, strict=True)), here


def _sets(pairs: pd.DataFrame) -> list[_Set]:
    of_set = pairs["dataset"].to_numpy()
    own, other, dropped = (pairs[c].to_numpy() for c in ("mean_own", "mean_other", "dropped"))
    found = []
    for name in pd.unique(of_set):
        here, known = of_set == name, (of_set == name) & ~np.isnan(own)
        found.append(_Set(str(name), own[known], other[known], int(dropped[here].sum())))
    return found


def _row(sets: list[_Set], bootstrap: Bootstrap, *purpose: str) -> dict[str, Any]:
    """Return means, difference and interval of some data sets."""
    known = [one for one in sets if len(one.own)]
    own, other = (float(np.mean([x.mean() for x in xs])) if known else np.nan for xs in _sides(known))
    differences = [one.own - one.other for one in known]
    low, high = bootstrap.interval(differences, *purpose)
    return {
        "reference_mean": own,
        "method_mean": other,
        "difference": own - other,
        "low": low,
        "high": high,
        "n_datasets": len(known),
        "n_pairs": sum(map(len, differences)),
        "n_dropped": sum(one.n_dropped for one in sets),
        "resampled": resampled(differences),
    }


def _sides(sets: list[_Set]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [one.own for one in sets], [one.other for one in sets]


def _result(row: dict[str, Any], margin: float, metric: str) -> str | None:
    """Return who wins a data set, from the reference's side; None if there is no pair in it."""
    if not row["n_pairs"]:
        return None
    sure = row["low"] > 0 or row["high"] < 0
    if not sure or abs(row["difference"]) <= margin:
        return "tie"
    return "win" if (row["difference"] > 0) != (metric in _measures.LESS_IS_BETTER) else "loss"


def _tally(sets: list[dict[str, Any]]) -> dict[str, int]:
    results = [one["result"] for one in sets]
    return {name: results.count(kind) for name, kind in (("wins", "win"), ("ties", "tie"), ("losses", "loss"))}
