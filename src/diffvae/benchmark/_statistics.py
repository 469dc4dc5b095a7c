"""Statistics of repeated runs: mean and spread, paired differences with intervals, the choice of a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffvae import _random
from diffvae.metrics import _names

MARGIN = 0.01
"""A difference up to this is a tie whatever its interval."""
CHOSEN_BY = ("ari", "knn_purity")
"""Measures whose sum chooses a configuration, so that neither is bought with the other."""
_SET = ("reference_mean", "method_mean", "difference", "low", "high", "result", "n_pairs", "n_dropped", "resampled")
_ALL = (*_SET[:5], "wins", "ties", "losses", "n_datasets", *_SET[6:])


def summary(table: pd.DataFrame, metric: str = "ari") -> pd.DataFrame:
    r"""Return mean and spread of a measure, separating the spread of trainings from that of clusterings.

    With :math:`m_t` the mean over the clusterings of training t and :math:`s_t` their standard deviation, ``mean`` is
    the mean of :math:`m_t`, ``sd`` their standard deviation, and ``sd_clusterings`` the root of the mean of
    :math:`s_t^2`. Clusterings of one training are not replicates of the method: they share one latent representation.

    Parameters
    ----------
    table
        ``comparison.table`` of :func:`diffvae.benchmark.run`, or rows of it.
    metric
        Column.

    Returns
    -------
    One row per data set, method and the part of the setting on which the measure depends (kNN purity depends on the
    space, not on the clusterer): ``mean``, ``sd``, ``sd_clusterings``, ``n_trainings``, ``n_clusterings`` (over all
    trainings). The spread of a single value is NaN.

    Raises
    ------
    ValueError
        If the table has no such measure.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame(
    ...     {"dataset": "tree", "method": "PCA", "n_latent": 50, "space": "latent", "clusterer": "kmeans",
    ...      "k_given": True, "seed": [0, 0, 1, 1], "clustering_seed": [0, 1, 0, 1], "ari": [0.5, 0.7, 0.3, 0.5]}
    ... )
    >>> summary(table)[["mean", "sd", "sd_clusterings", "n_trainings", "n_clusterings"]].round(3).values.tolist()
    [[0.5, 0.141, 0.141, 2.0, 4.0]]
    """
    keys = ["dataset", "method", *_names.setting_of(metric)]
    grouped = trainings(table, metric).groupby(keys, sort=False, dropna=False)
    found = pd.DataFrame(
        {
            "mean": grouped["mean"].mean(),
            "sd": grouped["mean"].std(),
            "sd_clusterings": np.sqrt(grouped["variance"].mean()),
            "n_trainings": grouped.size(),
            "n_clusterings": grouped["n"].sum(),
        }
    )
    return found.reset_index()


def trainings(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return one row per training and setting: mean, variance and number of its clusterings that have a value."""
    keys = ["dataset", "method", *_names.setting_of(metric), "seed"]
    missing = [c for c in (*keys, "clustering_seed") if c not in table]
    if missing or metric not in table:
        there = ", ".join(_names.measures(table)) or "none"
        raise ValueError(f"The table has no {', '.join(missing) or metric}; it has the measures {there}.")
    known = table[table[metric].notna()]
    if metric in (*_names.OF_SPACE, *_names.OF_TRAINING):  # the same value on several rows is one value
        known = known.drop_duplicates([*keys, *(["clustering_seed"] if metric in _names.OF_SPACE else [])])
    grouped = known.groupby(keys, sort=False, dropna=False, observed=True)[metric]
    found = pd.DataFrame({"mean": grouped.mean(), "variance": grouped.var(), "n": grouped.size()}).reset_index()
    found["mean"] = found["mean"].astype(float)
    return found


def at(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Return the rows where columns have these values; names that are not columns are ignored.

    Examples
    --------
    >>> at(pd.DataFrame({"a": [1, 2], "b": [3, 4]}), a=2, c=5)["b"].tolist()
    [4]
    """
    for column, value in values.items():
        if column in frame:
            frame = frame[frame[column].isna() if value is None or value != value else frame[column] == value]
    return frame


@dataclass(frozen=True)
class Bootstrap:
    r"""Intervals of the mean over data sets of the mean over pairs.

    Data sets are resampled, then the pairs within each; with a single data set only its pairs are. With few units the
    resampled means vary too little: by :math:`\sqrt{(n-1)/n}`, and with normal instead of Student's tails, where n is
    the number of units resampled first. The distances of their quantiles from the mean are therefore multiplied by

    .. math:: \sqrt{n / (n - 1)} \; t_{n-1} / z

    (Hesterberg 2015 corrects for the same by moving the quantiles outwards, which cannot leave the range of the data.)
    In 1500 simulations of 5 pairs of normal differences, plain 95 % quantiles covered the truth in 84 %, these in 94 %;
    with 8 data sets of 5 pairs and equal variance between and within data sets, 93 and 97 %.

    Attributes
    ----------
    n
        Bootstrap draws.
    level
        Confidence level.
    rng
        Seed.

    References
    ----------
    Hesterberg 2015, What teachers should know about the bootstrap, The American Statistician 69, 371-386.

    Examples
    --------
    >>> low, high = Bootstrap().interval([np.array([0.1, 0.2, 0.3])])
    >>> low < 0.1 < 0.3 < high  # three pairs say little
    True
    """

    n: int = 2000
    level: float = 0.95
    rng: _random.Rng = 0

    def __post_init__(self) -> None:
        if self.n < 1 or not 0 < self.level < 1:
            raise ValueError(f"n_bootstrap is {self.n} and level {self.level}; give 1 or more, and between 0 and 1.")

    def interval(self, differences: Sequence[np.ndarray], *purpose: str) -> tuple[float, float]:
        """Return the interval for one array of differences per data set; NaN for a single difference."""
        from scipy import special

        sets = [np.asarray(d, float) for d in differences if len(d)]
        n = len(sets) if len(sets) > 1 else sum(map(len, sets))
        if n < 2:
            return np.nan, np.nan
        mean = float(np.mean([d.mean() for d in sets]))
        tails = np.array([0.5 - self.level / 2, 0.5 + self.level / 2])
        wider = np.sqrt(n / (n - 1)) * special.stdtrit(n - 1, tails[1]) / special.ndtri(tails[1])
        drawn = _means(sets, self.n, _random.generator(self.rng, "bootstrap", *purpose))
        low, high = mean + wider * (np.quantile(drawn, tails) - mean)
        return float(low), float(high)


def resampled(differences: Sequence[np.ndarray]) -> str:
    """Return which units an interval resamples."""
    sizes = [len(d) for d in differences if len(d)]
    if len(sizes) < 2:
        return "trainings" if sum(sizes) > 1 else "nothing"
    return "data sets, then trainings" if max(sizes) > 1 else "data sets"


def _means(sets: list[np.ndarray], n: int, chance: np.random.Generator) -> np.ndarray:
    """Return the mean of each draw."""
    if len(sets) == 1:
        (own,) = sets
        return own[chance.integers(len(own), size=(n, len(own)))].mean(1)
    picks = chance.integers(len(sets), size=(n, len(sets)))
    means = np.empty(picks.shape)
    for i, own in enumerate(sets):
        here = picks == i
        means[here] = own[chance.integers(len(own), size=(int(here.sum()), len(own)))].mean(1)
    return means.mean(1)


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

    A pair consists of the trainings of two methods with the same data set, seed and setting, each the mean of its
    clusterings. The difference is the mean over data sets of the mean over pairs,

    .. math:: \frac{1}{D} \sum_d \frac{1}{n_d} \sum_s (r_{ds} - m_{ds})

    reference minus method. Its interval is a bootstrap over data sets, then over the pairs within each; with a single
    data set over its pairs. Plain quantiles of so few units are too narrow (with 5 normal differences a "95 %" interval
    covers the truth in 84 % of simulations), so their distances from the mean are multiplied by
    :math:`\sqrt{n/(n-1)} \, t_{n-1} / z`, where n is the number of data sets, or of pairs in a single one (then 94 %).

    Parameters
    ----------
    table
        ``comparison.table`` of :func:`diffvae.benchmark.run`, or rows of it.
    reference
        Method with which the others are compared.
    metric
        Column.
    by
        Those of ``n_latent``, ``space``, ``clusterer`` and ``k_given`` that separate rows; pairs are averaged over the
        others. None for all on which the measure depends.
    per_dataset
        Return one row per data set instead.
    margin
        A data set counts as a win or loss if its interval excludes zero *and* its difference is larger than this.
    level
        Confidence level of the intervals.
    n_bootstrap
        Bootstrap draws.
    rng
        Seed.

    Returns
    -------
    One row per other method and setting: ``metric``, ``reference``, ``method``, the setting, ``reference_mean`` and
    ``method_mean`` (of the pairs), ``difference``, ``low``, ``high``, ``wins``, ``ties``, ``losses`` (of the reference,
    counted over data sets; fewer seconds win), ``n_datasets``, ``n_pairs``, ``n_dropped`` (trainings without a
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
    """Return what :func:`compare` returns without and with ``per_dataset``."""
    keys = _names.setting_of(metric)
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
    for method in [m for m in cells["method"].unique() if m != reference]:
        pairs = _names.ordered(_pairs(own, cells[cells["method"] == method], keys, chosen), cells)
        for setting, here in _groups(pairs, chosen):
            about = {"metric": metric, "reference": reference, "method": method, **setting}
            name = tuple(map(str, about.values()))
            parts, results = _sets(here), []
            for part in parts:
                row = _row([part], bootstrap, *name, part.dataset)
                results.append(_result(row, margin, metric))
                rows_of_sets.append(about | {"dataset": part.dataset} | row | {"result": results[-1]})
            tally = {many: results.count(one) for one, many in (("win", "wins"), ("tie", "ties"), ("loss", "losses"))}
            rows.append(about | _row(parts, bootstrap, *name) | tally)
    columns = ["metric", "reference", "method", *chosen]
    of_sets = pd.DataFrame(rows_of_sets, columns=[*columns, "dataset", *_SET])
    return pd.DataFrame(rows, columns=[*columns, *_ALL]), of_sets


class _Set(NamedTuple):
    """The pairs of one data set: both methods' means by seed, and the number of trainings without a partner."""

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
    sides = [one.own for one in known], [one.other for one in known]
    own, other = (float(np.mean([x.mean() for x in side])) if known else np.nan for side in sides)
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


def _result(row: dict[str, Any], margin: float, metric: str) -> str | None:
    """Return whether the reference wins on a data set; None if it has no pair."""
    if not row["n_pairs"]:
        return None
    sure = row["low"] > 0 or row["high"] < 0
    if not sure or abs(row["difference"]) <= margin:
        return "tie"
    return "win" if (row["difference"] > 0) != (metric in _names.LESS_IS_BETTER) else "loss"


def leave_one_out(
    table: pd.DataFrame,
    candidates: Sequence[str],
    baselines: Sequence[str] = ("PCA",),
    *,
    measures: Sequence[str] = CHOSEN_BY,
    clusterer: str = "kmeans",
    space: str = "latent",
    n_latent: int | None = None,
) -> pd.DataFrame:
    """Choose a configuration on all data sets but one and judge it on that one, for each in turn.

    A configuration looks better than it is on the data sets that it was tuned on. Here the configuration with the
    highest summed measures, averaged over the *other* data sets, is judged on the one left out.

    Parameters
    ----------
    table
        Of :func:`diffvae.benchmark.run`.
    candidates
        Methods to choose from.
    baselines
        Methods to compare with on the data set left out.
    measures
        Columns whose sum decides.
    clusterer, space, n_latent
        Setting of the runs that count; clusterers that take the number of types are given it. ``n_latent=None`` counts
        all sizes.

    Returns
    -------
    One row per data set: ``dataset``, ``chosen``; for each measure ``<measure>`` of the chosen method on that data set
    and ``<measure> <baseline>``. The last row (``dataset`` is "mean") has the means; its ``chosen`` is the choice over
    all data sets, whose scores are not comparable because it has seen them all.

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
    >>> found[["dataset", "chosen", "ari", "ari PCA"]].values.tolist()  # x is judged by the choice on y
    [['x', 'B', 0.6, 0.5], ['y', 'A', 0.5, 0.5], ['mean', 'A', 0.55, 0.5]]
    """
    means = _means_by_set(table, [*candidates, *baselines], measures, clusterer, space, n_latent)
    score = means[list(measures)].sum(axis=1, skipna=False).unstack("method")
    sets = list(score.index)
    if len(sets) < 2:
        raise ValueError(f"The table has {len(sets)} data set; leaving one out needs two.")
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


def _means_by_set(
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
                raise ValueError(f"{method!r} has no runs on {dataset!r} at this setting; run it there too.")
    return means
