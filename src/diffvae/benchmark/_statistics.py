"""Statistics of repeated runs: mean and spread, paired differences with intervals, the choice of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffvae import _random
from diffvae._core.validate import Number, Rule, Whole, check
from diffvae.metrics import _names

MARGIN = 0.01
"""A difference up to this is a tie, whatever its interval."""
CHOSEN_BY = ("ari", "knn_purity")
"""Measures whose sum chooses a configuration, so that neither improves at the cost of the other."""
RULES: dict[str, Rule] = {"n_bootstrap": Whole(1), "level": Number("(0, 1)")}
MEANS = ("reference_mean", "method_mean", "difference", "low", "high")
COUNTS = ("n_pairs", "n_dropped", "resampled")


def summary(table: pd.DataFrame, metric: str = "ari") -> pd.DataFrame:
    r"""Return mean and spread of a measure; the spreads of trainings and of clusterings are separate.

    With :math:`m_t` the mean over the clusterings of training t and :math:`s_t` their standard deviation, ``mean`` is
    the mean of :math:`m_t`, ``sd`` their standard deviation, and ``sd_clusterings`` the root of the mean of
    :math:`s_t^2`. Clusterings of one training share one latent representation, so they are not replicates of the
    method.

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
    columns = {
        "mean": grouped["mean"].mean(),
        "sd": grouped["mean"].std(),
        "sd_clusterings": np.sqrt(grouped["variance"].mean()),
        "n_trainings": grouped.size(),
        "n_clusterings": grouped["n"].sum(),
    }
    return pd.DataFrame(columns).reset_index()


def trainings(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return one row per training and setting: mean, variance and number of its clusterings that have a value."""
    keys = ["dataset", "method", *_names.setting_of(metric), "seed"]
    missing = [c for c in (*keys, "clustering_seed") if c not in table]
    if missing or metric not in table:
        known = ", ".join(_names.measures(table)) or "none"
        raise ValueError(f"The table has no {', '.join(missing) or metric}; it has the measures {known}.")
    rows = table[table[metric].notna()]
    if metric in (*_names.OF_SPACE, *_names.OF_TRAINING):  # repeated on the rows of a space or training
        rows = rows.drop_duplicates([*keys, *(["clustering_seed"] if metric in _names.OF_SPACE else [])])
    grouped = rows.groupby(keys, sort=False, dropna=False, observed=True)[metric]
    columns = {"mean": grouped.mean().astype(float), "variance": grouped.var(), "n": grouped.size()}
    return pd.DataFrame(columns).reset_index()


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
    """Bootstrap intervals of the mean over data sets of the mean over pairs; see :func:`compare`.

    Examples
    --------
    >>> low, high = Bootstrap().interval([np.array([0.1, 0.2, 0.3])])
    >>> low < 0.1 < 0.3 < high  # an interval of three pairs is wide
    True
    """

    n: int = 2000
    level: float = 0.95
    rng: _random.Rng = 0

    def __post_init__(self) -> None:
        check(RULES, n_bootstrap=self.n, level=self.level)

    def interval(self, differences: Sequence[np.ndarray], *purpose: str) -> tuple[float, float]:
        """Return the interval for one array of differences per data set; NaN for a single difference."""
        from scipy import special

        sets = [np.asarray(d, float) for d in differences if len(d)]
        n = len(sets) if len(sets) > 1 else sum(map(len, sets))
        if n < 2:
            return np.nan, np.nan
        mean = float(np.mean([d.mean() for d in sets]))
        tails = np.array([0.5 - self.level / 2, 0.5 + self.level / 2])
        factor = np.sqrt(n / (n - 1)) * special.stdtrit(n - 1, tails[1]) / special.ndtri(tails[1])
        means = _resampled_means(sets, self.n, _random.generator(self.rng, "bootstrap", *purpose))
        low, high = mean + factor * (np.quantile(means, tails) - mean)
        return float(low), float(high)


def _resampled_means(sets: list[np.ndarray], n: int, generator: np.random.Generator) -> np.ndarray:
    """Return the mean of each draw: data sets are resampled, then the pairs within each."""
    if len(sets) == 1:
        (pairs,) = sets
        return pairs[generator.integers(len(pairs), size=(n, len(pairs)))].mean(1)
    picks = generator.integers(len(sets), size=(n, len(sets)))
    means = np.empty(picks.shape)
    for i, pairs in enumerate(sets):
        here = picks == i
        means[here] = pairs[generator.integers(len(pairs), size=(int(here.sum()), len(pairs)))].mean(1)
    return means.mean(1)


def resampled(differences: Sequence[np.ndarray]) -> str:
    """Return which units an interval resamples."""
    sizes = [len(d) for d in differences if len(d)]
    if len(sizes) < 2:
        return "trainings" if sum(sizes) > 1 else "nothing"
    return "data sets, then trainings" if max(sizes) > 1 else "data sets"


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
    r"""Return how much better a method is than each other method, on the same data sets and splits.

    A pair consists of the trainings of two methods with the same data set, seed and setting, each the mean of its
    clusterings. The difference is the mean over data sets of the mean over pairs,

    .. math:: \frac{1}{D} \sum_d \frac{1}{n_d} \sum_s (r_{ds} - m_{ds})

    reference minus method. Its interval is a bootstrap: data sets are resampled, then the pairs within each; with a
    single data set only its pairs. With few units the resampled means vary too little: by :math:`\sqrt{(n-1)/n}`, and
    with normal instead of Student's tails. The distances of their quantiles from the mean are therefore multiplied by

    .. math:: \sqrt{n / (n - 1)} \; t_{n-1} / z

    where n is the number of data sets, or of pairs in a single data set. (Hesterberg 2015 corrects for the same by
    moving the quantiles outwards, which cannot leave the range of the data.) In 1500 simulations of 5 pairs of normal
    differences, plain 95 % quantiles covered the truth in 84 %, these in 94 %; with 8 data sets of 5 pairs and equal
    variance between and within data sets, 93 and 97 %.

    Parameters
    ----------
    table
        ``comparison.table`` of :func:`diffvae.benchmark.run`, or rows of it.
    reference
        Method with which the others are compared.
    metric
        Column.
    by
        Which of ``n_latent``, ``space``, ``clusterer`` and ``k_given`` have separate rows; pairs are averaged over the
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
    ``method_mean`` (of the pairs), ``difference``, ``low``, ``high``, ``wins``, ``ties``, ``losses`` (number of data
    sets on which the reference wins; fewer seconds win), ``n_datasets``, ``n_pairs``, ``n_dropped`` (trainings without
    a partner, or with a missing value), ``resampled``: "data sets, then trainings", "data sets" (one pair in each),
    "trainings" (one data set), or "nothing" (one pair: no interval, and a tie). With ``per_dataset`` the columns
    ``dataset`` and ``result`` ("win", "tie" or "loss") replace the counts.

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
    of_trainings = trainings(table, metric)
    names = list(of_trainings["method"].unique())
    if reference not in names:
        known = ", ".join(map(repr, names)) or "nothing"
        raise ValueError(f"reference is {reference!r}, of which the table has no {metric}; it has {known}.")
    rows: list[dict[str, Any]] = []
    rows_of_sets: list[dict[str, Any]] = []
    for method in [m for m in names if m != reference]:
        sides = [of_trainings[of_trainings["method"] == name] for name in (reference, method)]
        pairs = _names.ordered(_pairs(sides[0], sides[1], keys, chosen), of_trainings)
        groups = pairs.groupby(chosen, sort=False, dropna=False) if chosen else [((), pairs)]
        for values, here in groups:
            setting = dict(zip(chosen, values, strict=True))
            about = {"metric": metric, "reference": reference, "method": method, **setting}
            purpose = tuple(map(str, about.values()))
            sets, results = _sets(here), []
            for one in sets:
                row = _row([one], bootstrap, *purpose, one.dataset)
                results.append(_result(row, margin, metric))
                rows_of_sets.append(about | {"dataset": one.dataset} | row | {"result": results[-1]})
            tally = {"wins": results.count("win"), "ties": results.count("tie"), "losses": results.count("loss")}
            rows.append(about | _row(sets, bootstrap, *purpose) | tally)
    columns = ["metric", "reference", "method", *chosen]
    over_sets = pd.DataFrame(rows, columns=[*columns, *MEANS, "wins", "ties", "losses", "n_datasets", *COUNTS])
    return over_sets, pd.DataFrame(rows_of_sets, columns=[*columns, "dataset", *MEANS, "result", *COUNTS])


class _Set(NamedTuple):
    """The pairs of one data set: the means of both methods by seed, and the number of trainings without a partner."""

    dataset: str
    reference: np.ndarray
    method: np.ndarray
    n_dropped: int


def _pairs(reference: pd.DataFrame, method: pd.DataFrame, keys: list[str], chosen: list[str]) -> pd.DataFrame:
    """Return one row per chosen setting, data set and seed: the means over the settings that both methods have."""
    on = ["dataset", *keys, "seed"]
    sides = ["mean_reference", "mean_method"]
    pairs = reference[[*on, "mean"]].merge(method[[*on, "mean"]], "outer", on, suffixes=("_reference", "_method"))
    pairs["dropped"] = pairs[sides].isna().any(axis=1)
    pairs.loc[pairs["dropped"], sides] = np.nan
    grouped = pairs.groupby([*chosen, "dataset", "seed"], sort=False, dropna=False)
    return grouped.agg(dict.fromkeys(sides, "mean") | {"dropped": "sum"}).reset_index()


def _sets(pairs: pd.DataFrame) -> list[_Set]:
    sets = []
    for name, here in pairs.groupby("dataset", sort=False, observed=True):
        known = here[here["mean_reference"].notna()]
        means = known["mean_reference"].to_numpy(), known["mean_method"].to_numpy()
        sets.append(_Set(str(name), *means, int(here["dropped"].sum())))
    return sets


def _row(sets: list[_Set], bootstrap: Bootstrap, *purpose: str) -> dict[str, Any]:
    """Return means, difference and interval over data sets."""
    known = [one for one in sets if len(one.reference)]
    sides = [one.reference for one in known], [one.method for one in known]
    reference, method = (float(np.mean([x.mean() for x in side])) if known else np.nan for side in sides)
    differences = [one.reference - one.method for one in known]
    low, high = bootstrap.interval(differences, *purpose)
    return {
        "reference_mean": reference,
        "method_mean": method,
        "difference": reference - method,
        "low": low,
        "high": high,
        "n_datasets": len(known),
        "n_pairs": sum(map(len, differences)),
        "n_dropped": sum(one.n_dropped for one in sets),
        "resampled": resampled(differences),
    }


def _result(row: dict[str, Any], margin: float, metric: str) -> str | None:
    """Return whether the reference wins on a data set; None without pairs."""
    if not row["n_pairs"]:
        return None
    clear = row["low"] > 0 or row["high"] < 0
    if not clear or abs(row["difference"]) <= margin:
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
    """Choose a configuration on all data sets but one and evaluate it on that one, for each data set in turn.

    The scores of a configuration are too high on the data sets that chose it. Here the configuration with the highest
    summed measures, averaged over the *other* data sets, is evaluated on the one left out.

    Parameters
    ----------
    table
        ``comparison.table`` of :func:`diffvae.benchmark.run`.
    candidates
        Methods to choose from.
    baselines
        Methods to compare with on the data set left out.
    measures
        Columns whose sum decides.
    clusterer, space, n_latent
        Setting of the runs to use; clusterers that can be given the number of types are given it. ``n_latent=None``
        uses all sizes.

    Returns
    -------
    One row per data set: ``dataset``, ``chosen``; for each measure ``<measure>`` of the chosen method on that data set
    and ``<measure> <baseline>``. The last row (``dataset`` is "mean") has the means; its ``chosen`` is the choice over
    all data sets, whose scores are not comparable because all data sets chose it.

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
    >>> found[["dataset", "chosen", "ari", "ari PCA"]].values.tolist()  # on x the choice of y is evaluated
    [['x', 'B', 0.6, 0.5], ['y', 'A', 0.5, 0.5], ['mean', 'A', 0.55, 0.5]]
    """
    if missing := [m for m in measures if m not in table]:
        raise ValueError(f"The table has no column {missing[0]!r}.")
    runs = at(table, clusterer=clusterer, space=space, **({} if n_latent is None else {"n_latent": n_latent}))
    runs = runs[runs["k_given"] | ~runs["k_given"].any()]
    by_training = runs.groupby(["dataset", "method", "seed"], sort=False)[list(measures)].mean()
    means = by_training.groupby(["dataset", "method"], sort=False).mean()
    sets = list(runs["dataset"].unique())
    if len(sets) < 2:
        raise ValueError(f"The table has {len(sets)} data set; leaving one out needs two.")
    for dataset in sets:
        for method in (*candidates, *baselines):
            if (dataset, method) not in means.index or means.loc[(dataset, method)].isna().any():
                raise ValueError(f"{method!r} has no runs on {dataset!r} at this setting; run it there too.")
    score = means[list(measures)].sum(axis=1, skipna=False).unstack("method")[list(candidates)]
    rows: list[dict[str, Any]] = []
    for left_out in score.index:
        chosen = score.drop(index=left_out).mean().idxmax()
        row: dict[str, Any] = {"dataset": left_out, "chosen": chosen}
        for measure in measures:
            row[measure] = means.loc[(left_out, chosen), measure]
            row |= {f"{measure} {b}": means.loc[(left_out, b), measure] for b in baselines}
        rows.append(row)
    mean = pd.DataFrame(rows).drop(columns=["dataset", "chosen"]).mean()
    return pd.DataFrame([*rows, {"dataset": "mean", "chosen": score.mean().idxmax(), **mean}])
