"""Write docs/study.md and its pictures from the folder that ``diffvae benchmark`` left (see the page for the command).

python docs/study.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd

from diffvae import benchmark, pl

DOCS = Path(__file__).parent
CHOSEN = "range, hidden inputs, KL 0.5"
NAMES = {
    "DiffVAE (range_input_early_kl_.5)": CHOSEN,
    "DiffVAE (range_input_early_kl_.3)": "range, hidden inputs, KL 0.3",
    "DiffVAE (range_input_early_kl_1)": "range, hidden inputs, KL 1",
    "DiffVAE (lr_5e-4)": "the default before",
}
CANDIDATES = list(NAMES.values())
BASELINES = ["PCA", "PCA (unit)", "VAE", "AE", "DiffVAE (paper)", "DiffVAE (code)"]
MEASURES = {"ari": "adjusted Rand index of k-means", "knn_purity": "kNN purity (15 neighbours)"}


def main(folder: Path) -> None:
    """Write the page and its pictures."""
    table = pd.read_csv(folder / "runs.csv")
    table["method"] = table["method"].replace(NAMES)
    order = [m for m in (*CANDIDATES, *BASELINES) if m in set(table["method"])]
    command = json.loads((folder / "summary.json").read_text())["command"]
    n = table.groupby("method")["seed"].nunique()
    parts = [TEXT.format(command=command.replace(" --", " \\\n  --"), trainings=n.max())]
    kmeans = table[(table["clusterer"] == "kmeans") & (table["space"] == "latent")]
    for measure, name in MEASURES.items():
        parts.append(f"## {name[0].upper()}{name[1:]}\n\n{_by_set(kmeans, measure, order)}\n")
    leiden = table[(table["clusterer"] == "leiden") & (table["space"] == "latent")]
    parts.append(f"## Adjusted Rand index of Leiden, number of types given\n\n{_by_set(leiden, 'ari', order)}\n")
    parts.append(f"## Chosen without the set that it is judged on\n\n{LEFT_OUT}\n\n{_left_out(table)}\n")
    parts.append(f"## Paired differences\n\n{PAIRED}\n\n{_paired(table, order)}\n")
    parts.append(_others(table, order))
    for measure in MEASURES:
        ax = pl.method_scores(kmeans[kmeans["method"].isin(order)], measure)
        pl.save(ax.figure, DOCS / "images" / f"study_{measure}")
        (DOCS / "images" / f"study_{measure}.svg").unlink(missing_ok=True)
        parts.append(f"![{MEASURES[measure]} of every training](images/study_{measure}.png)\n")
    parts.append(READING)
    (DOCS / "study.md").write_text("\n".join(parts), encoding="utf-8")


def _by_set(runs: pd.DataFrame, measure: str, order: list[str]) -> str:
    """Return mean over trainings by data set and method, best in bold, and the mean over sets."""
    trainings = runs.groupby(["dataset", "method", "seed"], sort=False)[measure].mean()
    means = trainings.groupby(["dataset", "method"], sort=False).mean().unstack("method")[order]
    means.loc["mean"] = means.mean()
    sd = trainings.groupby(["dataset", "method"], sort=False).std().groupby("method").mean()
    lines = [f"| | {' | '.join(order)} |", "|---" * (len(order) + 1) + "|"]
    for dataset, row in means.iterrows():
        cells = [f"**{v:.3f}**" if v == row.max() else f"{v:.3f}" for v in row]
        lines.append(f"| {dataset} | {' | '.join(cells)} |")
    lines.append(f"| sd over trainings | {' | '.join(f'{sd[m]:.3f}' for m in order)} |")
    return "\n".join(lines)


def _left_out(table: pd.DataFrame) -> str:
    found = benchmark.leave_one_out(table, CANDIDATES, ["PCA", "VAE"], n_latent=50)
    return _markdown(found)


def _paired(table: pd.DataFrame, order: list[str]) -> str:
    rows = []
    for measure, name in MEASURES.items():
        found = benchmark.compare(table[table["method"].isin(order)], CHOSEN, measure)
        found = found[found["space"] == "latent"]
        if "clusterer" in found:
            found = found[found["clusterer"] == "kmeans"]
        for row in found.itertuples():
            interval = f"{row.low:+.3f} to {row.high:+.3f}"
            tally = f"{row.wins} / {row.ties} / {row.losses}"
            rows.append((name, row.method, f"{row.difference:+.3f}", interval, tally, row.n_pairs))
    columns = ["measure", "against", "difference", "95 % interval", "won / tied / lost sets", "pairs"]
    return _markdown(pd.DataFrame(rows, columns=columns))


def _others(table: pd.DataFrame, order: list[str]) -> str:
    shown = ["reconstruction_r2", "active_dimensions", "mig", "dci_disentanglement", "dci_informativeness",
             "type_alignment", "training_seconds"]  # fmt: skip
    one = table.drop_duplicates(["dataset", "method", "seed"])
    means = one.groupby(["dataset", "method"])[shown].mean().groupby("method").mean().loc[order].reset_index()
    return f"## What else was measured (means over data sets)\n\n{_markdown(means)}\n"


def _markdown(table: pd.DataFrame) -> str:
    def text(value: object) -> str:
        return ("–" if value != value else f"{value:.3f}") if isinstance(value, float) else str(value)

    lines = [f"| {' | '.join(map(str, table.columns))} |", "|---" * table.shape[1] + "|"]
    lines += [f"| {' | '.join(map(text, row))} |" for row in table.itertuples(index=False)]
    return "\n".join(lines)


TEXT = """# Which DiffVAE should be the default?

Four configurations of DiffVAE beside VAE, AE, PCA and the presets of the paper, on five real data sets (mouse myeloid
progenitors with 19 clusters, mouse pancreas in development, mouse pancreas, human blood, human myoblasts) and three
simulated trees with known types. {trainings} trainings of each, 50 dimensions; k-means and Leiden on the latent
representation, the number of types given. This page is written by `docs/study.py` from what this command left, files
and label keys as there; the simulated trees are `diffvae.datasets.simulate_differentiation(rng=0)`, 1 and 2, and the
configurations those of the section at the end.

```
{command}
```
"""
LEFT_OUT = (
    "For each set the configuration with the highest sum of both measures on the *other* sets "
    "(`diffvae.benchmark.leave_one_out`): what a user with a new data set can expect. The last row has the means, and "
    "what all sets together choose."
)
PAIRED = (
    f"“{CHOSEN}” minus the other method, paired by data set and split; bootstrap over data sets and trainings "
    "(`diffvae.benchmark.compare`)."
)
READING = """## What follows

- **PCA (unit)** sees the values in [0, 1] that DiffVAE is trained on, **PCA** log-normalised ones. Scaling each gene by
  its range makes rarely expressed genes as loud as all others. `gene_weighting="range"` takes that back in the loss.
- **Half of a cell's genes hidden from the encoder** (`input_dropout=0.5`) and **early stopping** matter where cells are
  few. Without them the encoder learns its training cells by heart.
- k-means cuts a latent representation that is spread like a Gaussian into parts of similar size, so that large types
  are torn; PCA keeps large distances large. Where types are of very different sizes (beta cells are half of
  `baron_mouse_pancreas`) this costs the index, while purity beside it hardly moves.
- Reference labels of several of the real sets were themselves found by clustering on principal components, in favour of
  PCA; those of the simulated trees are the truth.
- An average over eight data sets of a few trainings decides nothing about a ninth: see the intervals.

The configurations, as `diffvae benchmark --config FILE.json` takes them: all with `"lr": 1e-3, "input_dropout": 0.5,
"early_stopping": true, "gene_weighting": "range"`, `kl_weight` as named and `mmd_weight` 1000 times that; the default
before had `"lr": 5e-4, "kl_weight": 1, "mmd_weight": 1000` and none of the others.
"""

if __name__ == "__main__":
    main(Path(sys.argv[1]))
