"""Write docs/scvi.md from the folder that ``diffvae benchmark`` left (the page has the command).

python docs/scvi.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
from study import MEASURES, _bare, _by_set, _markdown

from diffvae import benchmark

DOCS = Path(__file__).parent
ORDER = ["DiffVAE", "scVI", "PCA"]


def main(folder: Path) -> None:
    """Write the page."""
    table = pd.read_csv(folder / "runs.csv")
    summary = json.loads((folder / "summary.json").read_text())
    kmeans, leiden = (table[table["clusterer"] == name] for name in ("kmeans", "leiden"))
    minutes = table.drop_duplicates(["dataset", "method", "seed"]).groupby("method")["training_seconds"].sum() / 60
    parts = [TEXT.format(command=_bare(summary["command"]), **{name: minutes[name] for name in ORDER})]
    for measure, name in MEASURES.items():
        parts.append(f"## {name}\n\n{_by_set(kmeans, measure, ORDER)}\n")
    parts.append(f"## Adjusted Rand index of Leiden\n\n{_by_set(leiden, 'ari', ORDER)}\n")
    parts.append(f"## Paired differences\n\n{PAIRED}\n\n{_markdown(_paired(table))}\n")
    (DOCS / "scvi.md").write_text("\n".join(parts), encoding="utf-8")


def _paired(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for measure, clusterer in (("ari", "kmeans"), ("ari", "leiden"), ("knn_purity", "kmeans")):
        found = benchmark.compare(table[table["clusterer"] == clusterer], "DiffVAE", measure)
        name = "purity" if measure == "knn_purity" else f"{measure.upper()} of {clusterer}"
        for row in found.itertuples():
            surely = "more" if row.low > 0 else "less" if row.high < 0 else "not separated"
            rows.append((name, row.method, f"{row.difference:+.3f}", f"{row.low:+.3f} to {row.high:+.3f}", surely))
    return pd.DataFrame(rows, columns=["measure", "against", "difference", "95 % interval", "DiffVAE has"])


TEXT = """# Beside scVI

DiffVAE with the default settings of version 0.1, scVI with its own (scvi-tools; counts of the genes that
`diffvae.pp.prepare` chose; 50 latent dimensions instead of its 10, so that all have the same), and PCA of
log-normalised values. Seven sets: the human myoblasts of [the study](study.md) are no counts, which scVI needs. The
number of types is given. One training each, so that there is no spread over seeds: some hundredths on one set mean
nothing. Trained in one thread on a machine with other work, all sets together took
DiffVAE {DiffVAE:.1f} minutes, scVI {scVI:.1f} and PCA {PCA:.1f}. Written by `docs/scvi.py` from what this command left:

```
{command}
```
"""
PAIRED = "DiffVAE minus the other method, paired by data set; bootstrap over data sets (`diffvae.benchmark.compare`)."

if __name__ == "__main__":
    main(Path(sys.argv[1]))
