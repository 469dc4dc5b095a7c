"""The page of the study claims what the intervals allow, and nothing else."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

LEIDEN = [(name, given) for name in ("leiden", "leiden_posterior") for given in (True, False)]
CLUSTERERS = [("kmeans", True), *LEIDEN]


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "docs"))
    yield importlib.import_module("study")
    monkeypatch.delitem(sys.modules, "study")


def runs(levels, n_sets=6, n_trees=2, n_latent=50):
    """Return runs whose measures are the level of the method, the difficulty of the set, and a little noise."""
    random = np.random.default_rng(0)
    rows = []
    sets = [*(f"set{i}" for i in range(n_sets)), *(f"tree{i}" for i in range(n_trees))]
    for i, dataset in enumerate(sets):
        difficulty = 0.1 * np.sin(i)
        for method, (level, on_trees) in levels.items():
            for seed in range(3):
                score = level + on_trees * dataset.startswith("tree") + difficulty + random.normal(0, 0.004)
                for clusterer, given in CLUSTERERS:
                    if method != "ICA" or clusterer != "leiden_posterior":
                        rows.append({
                            "dataset": dataset, "method": method, "n_latent": n_latent, "seed": seed,
                            "clustering_seed": 0, "space": "latent", "clusterer": clusterer, "k_given": given,
                            "ari": score + 0.05 * (clusterer == "leiden_posterior"), "knn_purity": score,
                            "recurrence": 0.4, "training_seconds": 3.0,
                        })  # fmt: skip
    return pd.DataFrame(rows)


LEVELS = {
    "DiffVAE": (0.6, 0), "PCA": (0.5, 0), "ICA": (0.7, 0), "VAE": (0.6, 0), "AE": (0.601, -0.5),
    "DiffVAE (old_default)": (0.55, 0),
}  # fmt: skip


def section(page, title):
    return page.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_claims_are_those_of_the_intervals(study):
    claimed = section(study.page(runs(LEVELS), ["diffvae benchmark a.h5ad --method PCA"]), "What may be claimed")
    better, rest = claimed.split("These exclude zero against it:")
    worse, neither = rest.split("Neither may be claimed")
    for name in ("k-means", "the 15 nearest neighbours"):
        assert "The new default does better than PCA-50 by" in better
        assert "The new default does better than old default by" in better
        assert "ICA does better than the new default by" in worse
        assert any(name in line and "VAE (" in line for line in neither.splitlines())
    # AE is worse on the trees only, which is too little for a claim about real sets
    assert "than AE" not in better
    assert "AE (" in neither
    assert "VAE" not in better + worse


def test_with_few_sets_nothing_is_claimed(study):
    page = study.page(runs(LEVELS, n_sets=2, n_trees=1), ["a"])
    assert section(page, "What may be claimed").strip().startswith("Nothing: 3 sets are too few")


def test_methods_without_posterior_and_pca_of_fewer_dimensions(study):
    table = pd.concat([runs(LEVELS), runs({"PCA": (0.4, 0)}, n_latent=20), runs(LEVELS).head(20)])
    page = study.page(table, ["a", "b"])
    by_name: dict[str, dict[str, str]] = {}
    for overview in section(page, "Means over sets").split("\n\n"):  # two tables: types, and dimensions
        lines = [line for line in overview.splitlines() if line.startswith("|")]
        for row in lines[2:]:
            cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], row)]
            by_name.setdefault(cells[1][0], {}).update(zip(*cells, strict=True))
    assert list(by_name) == ["new default", "PCA-50", "PCA-20", "ICA", "VAE", "AE", "old default"]
    assert by_name["ICA"]["Leiden 1, posterior"] == "–"
    assert by_name["ICA"]["Leiden 1, plain"] != "–"
    value, plain = (float(by_name["PCA-20"][c].split()[0]) for c in ("Leiden k, posterior", "Leiden k, plain"))
    assert value == pytest.approx(plain + 0.05, abs=2e-3)
    paired = section(page, "Paired differences")
    lines = [line for line in paired.splitlines() if "Leiden at resolution 1 | ICA" in line]
    assert len(lines) == 1
    assert "| 24 |" in lines[0]  # 8 sets x 3 trainings: a repeated run counts once
    assert "| Purity of the 15 nearest neighbours | PCA-20 | +0.20" in paired
