"""What a search gained, in words, and what must be said beside it."""

from __future__ import annotations

import pandas as pd

from diffvae.benchmark._tune_objective import OBJECTIVES, Judge
from diffvae.benchmark._tune_space import Space


def gained(table: pd.DataFrame, objective: str) -> bool:
    """Return whether the best trial is better than the default on average over the repeats."""
    wide = table.pivot(index="repeat", columns="configuration", values="value")
    if "best" not in wide or wide["best"].isna().any():
        return False
    sign = -1 if OBJECTIVES[objective].minimise else 1
    return bool(wide["default"].isna().any() or (sign * (wide["best"] - wide["default"])).mean() > 0)


def sentence(trials: pd.DataFrame, again: pd.DataFrame, objective: str, best: int, running: int) -> str:
    """Say what the search gained, as far as training default and best again bears it out."""
    label, minimise = OBJECTIVES[objective].label.split(",")[0], OBJECTIVES[objective].minimise
    reached = trials.loc[trials["trial"] == best, "value"].iloc[0]
    told = f"Trial {best} is the best of {len(trials)} by {label}, {reached:.4g}"
    if running:
        return (
            f"{told}, so far: {running} are running in other processes, of which the last to finish trains default and "
            "best again."
        )
    if again.empty:
        return f"{told}; it was not trained again, so luck is in it."
    n, default = again["repeat"].nunique(), _spread(again, "default")
    if best == 0:
        told = f"None of {len(trials)} trials is better than the default by {label}"
        return f"{told}; trained again with {n} other seeds it has {default}."
    told += f"; trained again with {n} other seeds and held-out cells it has {_spread(again, 'best')}"
    told += f", the default {default}"
    if not gained(again, objective):
        return f"{told}: nothing is gained, so the default is kept."
    wide = again.pivot(index="repeat", columns="configuration", values="value")
    gain = (wide["best"] - wide["default"]) * (-1 if minimise else 1)
    if gain.isna().any():
        return f"{told}, which diverged in {int(wide['default'].isna().sum())} of {n}."
    return f"{told}: better by {gain.mean():.3g} on average, in {int((gain > 0).sum())} of {n}."


def _spread(table: pd.DataFrame, configuration: str) -> str:
    values = table.loc[table["configuration"] == configuration, "value"]
    if values.isna().all():
        return "diverged"
    return f"{values.mean():.4g}" + (f" ± {values.std():.2g}" if values.count() > 1 else "")


def caveats(trials: pd.DataFrame, space: Space, judge: Judge) -> list[str]:
    """Return what a reader of the result must know of its objective and of trials that were not complete."""
    sentences = []
    if judge.objective == "ari":
        sentences.append(
            f"The trials were chosen by obs[{judge.label_key!r}]: scores of the chosen one against the same labels are "
            "not unsupervised and must not be reported as such."
        )
    if judge.objective == "elbo" and "kl_weight" in space.parameters:
        sentences.append(
            "Reconstruction and KL are scored with weight 1 each, which is what kl_weight = 1 and mmd_weight = 0 "
            "minimise: that the search ends near them says nothing of clusters or dimensions."
        )
    if judge.objective == "stability":
        sentences.append(
            f"Stability is that of {judge.n_clusters} k-means clusters in all trials, beyond clouds without clusters; "
            "it says that clusters come back, not that they are cell types."
        )
    for state, told in (("pruned", "ended early, their loss being above the median"), ("diverged", "diverged")):
        if n := int((trials["state"] == state).sum()):
            sentences.append(f"{n} of {len(trials)} trials {told}.")
    return sentences
