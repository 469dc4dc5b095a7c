"""Write the tables of docs/batches.md from what ``benchmarks/batches.py`` left (the page has the commands).

python docs/batches.py FILE.csv [FILE.csv ...]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from diffvae.benchmark import _markdown as md

DOCS = Path(__file__).parent
CEILING = "PCA, no batches"
NAMES = {
    CEILING: "PCA, cells without batches",
    "PCA": "PCA",
    "Harmony": "Harmony",
    "Harmony, sigma 0.3": "Harmony, sigma .3",
    "DiffVAE": "DiffVAE",
    "DiffVAE, batches": "DiffVAE with batches",
    "scVI": "scVI",
    "scVI, batches": "scVI with batches",
}
"""Methods of the benchmark, in the order of the page, and their names there."""


class Score(NamedTuple):
    """A column of the tables: that of the csv, its title, and the same in plain words."""

    column: str
    title: str
    words: str


MIXED = [
    Score("ilisi", "iLISI", "batches among the 90 nearest cells: 0 one batch, 1 all batches evenly"),
    Score("kbet_acceptance", "kBET", "share of neighbourhoods within a type whose batches a test finds mixed"),
    Score("batch_silhouette", "batch silhouette", "1 if batches form no clusters within a type; high for many spaces"),
    Score("batch_r2", "batch R²", "share of the variance that batches explain; **less is better**"),
]
KEPT = [
    Score("knn_purity", "purity", "share of the 15 nearest cells that are of the same type"),
    Score("silhouette", "silhouette", "how far types lie apart, from -1 to 1"),
    Score("isolated_types", "isolated", "the same of the types that occur in the fewest batches, from 0 to 1"),
    Score("ari_leiden", "Leiden 1", "agreement of Leiden clusters at resolution 1 with types (adjusted Rand index)"),
    Score("ari_leiden_k", "Leiden k", "the same with the number of types given"),
    Score("ari_posterior", "Leiden 1, posterior", "as Leiden 1, on the posterior graph, which a run uses"),
    Score("ari_posterior_k", "Leiden k, posterior", "the same with the number of types given"),
]  # fmt: skip
SECONDS = Score("training_seconds", "seconds", "of a training, in one thread, measured beside other work")
SCORES = [*MIXED, *KEPT, SECONDS]
START, END = "<!-- tables: written by docs/batches.py -->", "<!-- end of tables -->"


def main(files: list[Path]) -> None:
    """Write the tables into the page."""
    page = DOCS / "batches.md"
    page.write_text(renewed(page.read_text(encoding="utf-8"), read(files)), encoding="utf-8")


def read(files: list[Path]) -> pd.DataFrame:
    """Return the runs of all files; a number that two files have is taken from the first."""
    runs = pd.concat([pd.read_csv(file) for file in files], ignore_index=True)
    if unknown := sorted(set(runs["method"]) - set(NAMES)):
        raise ValueError(f"The page has no name for the method {unknown[0]!r}; add it to NAMES in docs/batches.py.")
    return runs.groupby(["set", "seed", "method"], sort=False).first().reset_index()


def renewed(page: str, runs: pd.DataFrame) -> str:
    """Return the page with the tables of these runs between its two marks."""
    before, rest = page.split(START)
    return f"{before}{START}\n\n{tables(runs)}\n\n{END}{rest.split(END)[1]}"


def tables(runs: pd.DataFrame) -> str:
    """Return what the columns mean, the means over sets, and a table for each set."""
    words = [
        [side, score.title, score.words]
        for side, scores in (("batches mixed", MIXED), ("types kept", KEPT), ("time", [SECONDS]))
        for score in scores
        if score in _shown(runs)
    ]
    parts = [
        md.table(["side", "column", "what it says"], words, left=3),
        f"## Means over sets\n\n{over_sets(runs)}",
        *(f"## {md.text(name)}\n\n{of_set(here)}" for name, here in runs.groupby("set", sort=False)),
    ]
    return "\n\n".join(parts)


def over_sets(runs: pd.DataFrame) -> str:
    """Return means over the sets that all methods have, each the mean over its seeds, with their names."""
    n_methods, shown = runs["method"].nunique(), _shown(runs)
    complete = [name for name, here in runs.groupby("set", sort=False) if here["method"].nunique() == n_methods]
    if not complete:
        return "No set was measured with all methods, so there are no means over sets."
    columns = [score.column for score in shown]
    by_set = runs[runs["set"].isin(complete)].groupby(["method", "set"])[columns].agg(_mean)
    means = by_set.groupby("method").agg(_mean)
    rows = [[NAMES[m], *(_cell(means.loc[m, s.column], float("nan"), s) for s in shown)] for m in _order(runs)]
    left_out = [md.text(name) for name in runs["set"].unique() if name not in complete]
    sentence = f"Mean of {len(complete)} sets that all methods have: {md.listed([md.text(name) for name in complete])}."
    if left_out:
        sentence += f" Left out, because a method has no result there: {md.listed(left_out)}."
    return f"{sentence}\n\n{md.table(['', *(s.title for s in shown)], rows)}"


def of_set(runs: pd.DataFrame) -> str:
    """Return mean and standard deviation over the seeds of a set, a row for each method."""
    rows, shown = [], _shown(runs)
    for method in _order(runs):
        here = runs[runs["method"] == method]
        cells = [_cell(_mean(here[s.column]), here[s.column].std(), s) for s in shown]
        rows.append([NAMES[method], str(len(here)), *cells])
    return md.table(["", "seeds", *(s.title for s in shown)], rows)


def _shown(runs: pd.DataFrame) -> list[Score]:
    """Return the scores that any of the runs has."""
    return [score for score in SCORES if score.column in runs and runs[score.column].notna().any()]


def _mean(values: pd.Series) -> float:
    """Return the mean, NaN if a value is missing: means of different sets or seeds can't be compared."""
    return float(values.mean(skipna=False))


def _order(runs: pd.DataFrame) -> list[str]:
    return [method for method in NAMES if method in set(runs["method"])]


def _cell(mean: float, sd: float, score: Score) -> str:
    spread = md.spread(mean, sd, 1 if score is SECONDS else 3)
    return spread.replace(" ", "\N{NO-BREAK SPACE}")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
