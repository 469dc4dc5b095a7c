"""The page of data integration compares means of the same sets, and has a place for all methods."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]


def module_of(folder):
    """Return the script of this name in a folder; the two folders have one each."""
    spec = importlib.util.spec_from_file_location(f"{folder}_batches", ROOT / folder / "batches.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def batches():
    return module_of("docs")


def runs(levels, sets=("tree0.3", "paul15"), seeds=(0, 1, 2)):
    """Return runs whose scores are the level of the method, with .1 more on the second set and .01 more by seed."""
    return pd.DataFrame([
        {
            "set": name, "seed": seed, "method": method, "ilisi": level + 0.1 * i + 0.01 * seed,
            "isolated_types": np.nan if name == "tree0.3" else level, "training_seconds": 2.0,
        }
        for i, name in enumerate(sets) for seed in seeds for method, level in levels.items()
    ])  # fmt: skip


def rows(text, title):
    """Return the table of a section: method to column to cell."""
    part = f"\n{text}".split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:1] == "|"]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def test_a_set_has_means_and_deviations_over_seeds(batches):
    found = rows(batches.tables(runs({"DiffVAE, batches": 0.5, "PCA": 0.2})), "paul15")
    assert list(found) == ["PCA", "DiffVAE with batches"]
    assert found["PCA"]["iLISI"] == "0.310\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.010"
    assert found["PCA"]["seeds"] == "3"
    assert "purity" not in found["PCA"]  # nobody measured it


def test_means_over_sets_are_of_sets_that_all_methods_have(batches):
    table = pd.concat([runs({"PCA": 0.2, "Harmony": 0.4}), runs({"PCA, no batches": 0.6}, ["tree0.3"])])
    text = batches.tables(table)
    assert (
        "Mean of 1 sets that all methods have: tree0.3. Left out, because a method has no result there: paul15" in text
    )
    found = rows(text, "Means over sets")
    assert [found[name]["iLISI"] for name in ("PCA", "Harmony", "PCA, cells without batches")] == [
        "0.210",
        "0.410",
        "0.610",
    ]
    assert found["PCA"]["isolated"] == "–"
    nowhere = pd.concat([runs({"PCA": 0.2}, ["tree0.3"]), runs({"Harmony": 0.4}, ["paul15"])])
    assert "there are no means over sets" in batches.tables(nowhere)


def test_a_score_that_a_set_lacks_has_no_mean_over_sets(batches):
    found = rows(batches.tables(runs({"PCA": 0.2})), "Means over sets")
    assert found["PCA"]["iLISI"] == "0.260"
    assert found["PCA"]["isolated"] == "–"


def test_files_complete_each_other(batches, tmp_path):
    first, second = runs({"PCA": 0.2}), runs({"PCA": 0.9, "scVI, batches": 0.3}).assign(knn_purity=0.8)
    for name, table in (("a", first), ("b", second)):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    found = rows(batches.tables(batches.read([tmp_path / "a.csv", tmp_path / "b.csv"])), "tree0.3")
    assert found["PCA"]["iLISI"].startswith("0.210")  # a number that both have is that of the first
    assert found["PCA"]["purity"].startswith("0.800")
    assert list(found) == ["PCA", "scVI with batches"]
    runs({"BBKNN": 0.2}).to_csv(tmp_path / "c.csv")
    with pytest.raises(ValueError, match="no name for the method 'BBKNN'"):
        batches.read([tmp_path / "c.csv"])


def test_the_text_of_the_page_stays(batches):
    page = (ROOT / "docs" / "batches.md").read_text(encoding="utf-8")
    renewed = batches.renewed(page, runs({"PCA": 0.2}))
    assert rows(renewed, "paul15")["PCA"]["seeds"] == "3"
    assert renewed.split(batches.START)[0] == page.split(batches.START)[0]
    assert renewed.split(batches.END)[1] == page.split(batches.END)[1]
    assert batches.renewed(renewed, runs({"PCA": 0.2})) == renewed


def test_every_method_and_score_of_the_benchmark_has_a_place(batches):
    benchmark = module_of("benchmarks")
    assert set(benchmark.all_methods()) | {benchmark.UNTOUCHED} <= set(batches.NAMES)
    assert {*benchmark.SCORES, *benchmark.ARI} <= {score.column for score in batches.SCORES}
