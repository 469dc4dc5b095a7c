"""Write docs/study.md from the folders that ``diffvae benchmark`` left (the page has the commands).

python docs/study.py FOLDER [FOLDER ...]
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from diffvae import benchmark
from diffvae.benchmark import _markdown as md
from diffvae.benchmark._findings import Findings
from diffvae.benchmark._statistics import Bootstrap, at

DOCS = Path(__file__).parent
NEW, OLD, NO_MMD, NO_KL = "new default", "old default", "MMD 0", "KL 0"
NAMES = {
    "DiffVAE": NEW,
    "DiffVAE (new_default)": NEW,
    "DiffVAE (old_default)": OLD,
    "DiffVAE (mmd_0)": NO_MMD,
    "DiffVAE (kl_0)": NO_KL,
    "DiffVAE (paper)": "paper",
    "DiffVAE (code)": "code",
}
"""Methods of the comparisons and their names on the page; PCA is called PCA-50, PCA-20, ... by its dimensions."""
CONFIGS = {
    "old_default": {
        "hidden": [512, 256], "covariance_weight": 0, "linear_skip": False, "target_neighbors": 0, "batch_size": 128,
        "lr": 1e-3, "min_steps": 1000,
    },
    "mmd_0": {"mmd_weight": 0},
    "kl_0": {"kl_weight": 0},
}  # fmt: skip
N_LATENT = 50
TUNED = [NEW, OLD, NO_MMD, NO_KL]
"""Configurations that were tuned on these sets."""
OTHERS = ["PCA-50", "PCA-20", "ICA", "VAE", "AE", "paper", "code", OLD, NO_MMD, NO_KL]
"""What the new default is compared with."""
SIMULATED = re.compile(r"tree\d*")
POSTERIOR, PLAIN, EITHER = "leiden_posterior", "leiden", "leiden_either"
FEW_SETS = 5
"""With fewer sets nothing is claimed."""


class Measure(NamedTuple):
    """A column of the first table: its title, its name in a sentence, the column of the runs, and its setting."""

    title: str
    name: str
    metric: str
    clusterer: str | None = None
    k_given: bool | None = None

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the runs of its setting."""
        return table if self.clusterer is None else at(table, clusterer=self.clusterer, k_given=self.k_given)


KMEANS = Measure("k-means", "adjusted Rand index of k-means", "ari", "kmeans", True)
PURITY = Measure("purity", "purity of the 15 nearest neighbours", "knn_purity")
TYPES = [
    KMEANS,
    Measure("Leiden 1, plain", "adjusted Rand index of Leiden at resolution 1, plain graph", "ari", PLAIN, False),
    Measure("Leiden 1, posterior", "... on the posterior graph", "ari", POSTERIOR, False),
    Measure("Leiden k, plain", "... with the number of types given, plain graph", "ari", PLAIN, True),
    Measure("Leiden k, posterior", "... on the posterior graph", "ari", POSTERIOR, True),
    PURITY,
    Measure("silhouette", "silhouette of the types", "silhouette"),
]
DIMENSIONS = [
    Measure("active", "active dimensions", "active_dimensions"),
    Measure("recurrence", "recurrence of dimensions", "recurrence"),
    Measure("recurrence, active", "recurrence of active dimensions", "recurrence_active"),
    Measure("mean abs. r", "mean absolute correlation of dimensions", "mean_correlation"),
    Measure("MIG", "mutual information gap", "mig"),
    Measure("DCI", "DCI disentanglement", "dci_disentanglement"),
    Measure("R²", "R² of held-out cells", "reconstruction_r2"),
    Measure("seconds", "seconds of a training", "training_seconds"),
]
MAIN = [
    KMEANS,
    PURITY,
    Measure("Leiden 1", "adjusted Rand index of Leiden at resolution 1", "ari", EITHER, False),
    Measure("Leiden k", "adjusted Rand index of Leiden with the number of types given", "ari", EITHER, True),
]


def main(folders: list[Path]) -> None:
    """Write the page."""
    commands = [json.loads((folder / "summary.json").read_text())["command"] for folder in folders]
    table = pd.concat([pd.read_csv(folder / "runs.csv") for folder in folders], ignore_index=True)
    (DOCS / "study.md").write_text(page(table, commands), encoding="utf-8")


def page(table: pd.DataFrame, commands: list[str]) -> str:
    """Return the page from the runs of all comparisons."""
    table = named(table)
    sets = list(table["dataset"].unique())
    real = [name for name in sets if not SIMULATED.fullmatch(name)]
    order = [m for m in [NEW, *OTHERS] if m in set(table["method"])]
    order += [m for m in table["method"].unique() if m not in order]
    trainings = table.groupby(["dataset", "method"])["seed"].nunique()
    paired = pairs(table, real)
    parts = [
        INTRODUCTION.format(
            n_real=len(real), n_simulated=len(sets) - len(real), low=trainings.min(), high=trainings.max()
        ),
        f"## Means over sets\n\n{OVERVIEW}\n\n{overview(table, order, TYPES)}\n\n{overview(table, order, DIMENSIONS)}",
        *(f"## {md.capital(m.name)}\n\n{by_set(table, m, order)}" for m in MAIN),
        f"## Paired differences\n\n{PAIRED}\n\n{differences(paired)}",
        f"## Chosen without the set that it is judged on\n\n{left_out(table)}",
        f"## What may be claimed\n\n{claims(paired, len(sets))}",
        f"## How it was made\n\n{MADE.format(commands=_commands(commands), configs=_configs())}",
    ]
    return "\n\n".join(parts) + "\n"


def named(table: pd.DataFrame) -> pd.DataFrame:
    """Return the runs in the latent space by the names on the page, each training once.

    PCA of any dimensions is compared with the others at 50. Rows of "leiden_either" are Leiden on the posterior graph,
    or on the plain graph for a method without posterior.
    """
    table = table[table["space"] == "latent"].copy()
    of_pca = table["method"] == "PCA"
    table.loc[of_pca, "method"] = "PCA-" + table.loc[of_pca, "n_latent"].astype(int).astype(str)
    table = table[of_pca | (table["n_latent"] == N_LATENT)].assign(n_latent=N_LATENT)
    table["method"] = table["method"].replace(NAMES)
    run = ["dataset", "method", "seed", "clusterer", "k_given", "clustering_seed"]
    table = table.drop_duplicates(run)
    leiden = table[table["clusterer"].isin([PLAIN, POSTERIOR])]
    with_posterior = set(leiden.loc[leiden["clusterer"] == POSTERIOR, "method"])
    wanted = leiden["method"].isin(with_posterior) == (leiden["clusterer"] == POSTERIOR)
    return pd.concat([table, leiden[wanted].assign(clusterer=EITHER)], ignore_index=True)


def overview(table: pd.DataFrame, order: list[str], columns: list[Measure]) -> str:
    """Return mean over sets and standard deviation over trainings of each method and measure."""
    found = Findings(table, order[0], Bootstrap(1)).over_sets
    rows = []
    for method in order:
        cells = []
        for measure in columns:
            here = measure.rows(found[(found["metric"] == measure.metric) & (found["method"] == method)])
            digits = 1 if measure.metric in ("training_seconds", "active_dimensions") else 3
            spread = md.spread(here["mean"].iloc[0], here["sd"].iloc[0], digits) if len(here) else "–"
            cells.append(spread.replace(" ", "\N{NO-BREAK SPACE}"))
        rows.append([md.text(method), *cells])
    return md.table(["", *(m.title for m in columns)], rows)


def by_set(table: pd.DataFrame, measure: Measure, order: list[str]) -> str:
    """Return means over trainings by set and method, the best of a set in bold, and the means over sets."""
    means = benchmark.summary(measure.rows(table), measure.metric).pivot_table(
        index="dataset", columns="method", values="mean", sort=False
    )
    means = means[[m for m in order if m in means]]
    shared = means.dropna()
    means.loc[f"mean of {len(shared)} sets"] = shared.mean()
    lines = []
    for dataset, row in means.iterrows():
        cells = [f"**{md.number(v)}**" if v == row.max() else md.number(v) for v in row]
        lines.append([md.text(dataset), *cells])
    return md.table(["", *map(md.text, means.columns)], lines)


def pairs(table: pd.DataFrame, real: list[str]) -> pd.DataFrame:
    """Return the paired differences of the new default, on all sets and (``real_``) with intervals of the real ones."""
    parts = []
    for measure in MAIN:
        rows = measure.rows(table)
        known = rows[rows[measure.metric].notna()]
        if NEW not in set(known["method"]):
            continue
        found = benchmark.compare(known, NEW, measure.metric).set_index("method")
        if NEW in set(known.loc[known["dataset"].isin(real), "method"]):
            alone = benchmark.compare(known[known["dataset"].isin(real)], NEW, measure.metric).set_index("method")
            found = found.join(alone[["low", "high"]].add_prefix("real_"))
        else:
            found = found.assign(real_low=float("nan"), real_high=float("nan"))
        found = found.loc[[m for m in OTHERS if m in found.index and found.loc[m, "n_pairs"] > 0]]
        parts.append(found.reset_index().assign(measure=measure.name))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def differences(paired: pd.DataFrame) -> str:
    """Return the table of paired differences."""
    lines = []
    for row in paired.itertuples():
        tally = f"{row.wins} / {row.ties} / {row.losses}"
        intervals = _interval(row.low, row.high), _interval(row.real_low, row.real_high)
        lines.append(
            [md.capital(row.measure), row.method, md.signed(row.difference), *intervals, tally, str(row.n_pairs)]
        )
    header = ["measure", "against", "difference", "interval", "interval, real sets", "sets won / tied / lost", "pairs"]
    return md.table(header, lines, left=2)


def _interval(low: float, high: float) -> str:
    return "–" if pd.isna(low) else f"{md.signed(low)} to {md.signed(high)}"


def left_out(table: pd.DataFrame) -> str:
    """Return the choice between the tuned configurations without each set, and what the choice scores on it."""
    rows = table[table["clusterer"] == "kmeans"]
    tuned = [m for m in TUNED if m in set(rows["method"])]
    baselines = [m for m in ("PCA-50", "VAE") if m in set(rows["method"])]
    scored = rows[rows["method"].isin([*tuned, *baselines])].groupby("dataset")["method"].nunique()
    shared = list(scored.index[scored == len(tuned) + len(baselines)])
    if len(tuned) < 2 or len(shared) < 2:
        return "This needs two configurations on two sets."
    found = benchmark.leave_one_out(rows[rows["dataset"].isin(shared)], tuned, baselines, n_latent=N_LATENT)
    lines = [[md.text(v) if isinstance(v, str) else md.number(v) for v in row] for row in found.itertuples(index=False)]
    return f"{LEFT_OUT.format(tuned=md.listed(tuned))}\n\n{md.table(list(found.columns), lines, left=2)}"


def claims(paired: pd.DataFrame, n_sets: int) -> str:
    """Return the sentences that the intervals allow: better or worse on all sets and on the real ones, or neither."""
    if n_sets < FEW_SETS or paired.empty:
        return f"Nothing: {n_sets} sets are too few for an interval over sets; {FEW_SETS} are asked for."
    kinds: dict[str, list[str]] = {"better": [], "worse": [], "open": []}
    for measure, rows in paired.groupby("measure", sort=False):
        unclear = []
        for row in rows.itertuples():
            figures = f"by {measure}: {md.signed(row.difference)} ({_interval(row.low, row.high)})"
            real = row.real_low, row.real_high
            if row.n_datasets >= FEW_SETS and row.low > 0 and real[0] > 0:
                kinds["better"].append(f"The {NEW} does better than {row.method} {figures}.")
            elif row.n_datasets >= FEW_SETS and row.high < 0 and real[1] < 0:
                kinds["worse"].append(f"{md.capital(row.method)} does better than the {NEW} {figures}.")
            else:
                unclear.append(f"{row.method} ({_interval(row.low, row.high)})")
        if unclear:
            kinds["open"].append(f"{md.capital(measure)}: no difference from {md.listed(unclear, 'or')}.")
    titles = {
        "better": "These intervals exclude zero in favour of the new default, on all sets and on the real ones alone:",
        "worse": "These exclude zero against it:",
        "open": "Neither may be claimed, because an interval includes zero (or there are too few sets):",
    }
    return "\n\n".join(
        f"{titles[kind]}\n\n{md.bullets(lines) if lines else 'none.'}" for kind, lines in kinds.items()
    ) + (f"\n\n{CAUTION.format(n=len(paired), chance=0.05 * len(paired))}")


def _commands(commands: list[str]) -> str:
    """Return the commands without folders, an option to a line."""
    return "\n\n".join(re.sub(r"\S*/(\S+\.(?:h5ad|json))", r"\1", c).replace(" --", " \\\n  --") for c in commands)


def _configs() -> str:
    return "\n".join(f"{name}.json  {json.dumps(values)}" for name, values in CONFIGS.items())


INTRODUCTION = """# How good is the default of DiffVAE?

The new default of DiffVAE beside the old one, PCA, ICA, VAE, AE and the presets of the paper: {n_real} real data sets
and {n_simulated} simulated trees with known types, {low} to {high} trainings of each method on a set, each with its own
split. The default was developed on these sets. A set that nobody has seen can do worse."""
OVERVIEW = (
    "Means over the sets that all methods of a column have, ± the standard deviation over trainings of that mean. "
    "Leiden 1: at resolution 1. Leiden k: with the number of types given. Plain: on the graph of the posterior means. "
    "Posterior: on the graph averaged over the posterior, which ICA and AE lack. Active: dimensions that carry more "
    "than 0.1 nat. Recurrence: share of the dimensions that come back in another training, 0.05 by chance; of all 50, "
    "or of the active ones, which are defined for methods with a prior. Less is better for the correlation and the "
    "seconds, which were measured beside other work. The scale of a method without prior is arbitrary, and so is its "
    "silhouette."
)
PAIRED = (
    f"The {NEW} minus the other method, paired by data set and split; 95 % bootstrap intervals over data sets and "
    "trainings (`diffvae.benchmark.compare`). Leiden uses the posterior graph of both methods, the plain graph of ICA "
    "and AE."
)
LEFT_OUT = (
    "For each set the configuration among {tuned} with the highest sum of k-means' adjusted Rand index and purity on "
    "the *other* sets (`diffvae.benchmark.leave_one_out`): closer to what a new data set can expect. The last row has "
    "the means, and what all sets together choose."
)
CAUTION = (
    "These are {n} intervals of 95 %; without any difference about {chance:.0f} of them would exclude zero by chance. "
    "The default was developed on these sets, so the claims are about sets like these."
)
MADE = """`docs/study.py` wrote this page from what these commands left. PCA-20 is `--method PCA --n-latent 20`, in a
folder of its own.

```
{commands}
```

The configurations:

```
{configs}
```"""

if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
