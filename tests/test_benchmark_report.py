"""The report of a comparison, and the folder that it is written into."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from _comparison_data import LEVELS, comparison

from diffvae import benchmark
from diffvae._errors import DataError, OutputError
from diffvae.benchmark import _markdown as md
from diffvae.benchmark._findings import Findings
from diffvae.benchmark._report import verdict
from diffvae.benchmark._statistics import Bootstrap, at

SMALL = {"n_latent": (50,), "clusterers": (("kmeans", True),), "spaces": ("latent",), "n_clusterings": 2}
EXACT = {"spread": 0.0, "jitter": 0.0}


def section(page, heading):
    """Return what stands under a heading, up to the next of its level."""
    level = heading.split(" ")[0]
    return re.split(rf"^#{{1,{len(level)}}} ", page.split(f"\n{heading}\n", 1)[1], flags=re.MULTILINE)[0]


def tables(text):
    """Return the Markdown tables of a text, each as rows of cells."""
    found = re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE)
    return [[[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in t.strip().split("\n")] for t in found]


def findings(runs, reference="DiffVAE"):
    return Findings(runs.table, reference, Bootstrap(500))


@pytest.fixture(scope="module")
def whole():
    return comparison(n_trainings=3, n_clusterings=2, every_measure=True)


@pytest.fixture(scope="module")
def page(whole):
    return whole.report(n_bootstrap=100)


# Scores


def test_scores_are_those_of_the_papers_table_2(whole, page):
    (table, *_) = tables(section(page, "## Adjusted Rand index"))
    assert table[0] == ["space", "clustering", "dimensions", "DiffVAE", "VAE", "AE", "PCA"]
    assert [row[:3] for row in table[2:6]] == [
        ["latent", "k-means, k given", "20"], ["latent", "k-means, k given", "50"],
        ["latent", "k-means, k given", "100"], ["latent", "DBSCAN", "20"],
    ]  # fmt: skip
    assert len(table) == 2 + 2 * 5 * 3
    mean = whole.summary().set_index(["n_latent", "space", "clusterer", "k_given", "method"])
    row = mean.sort_index().loc[(100, "tsne", "dbscan", False, "AE")]
    (line,) = [line for line in table if line[:3] == ["t-SNE of latent", "DBSCAN", "100"]]
    assert line[5].strip("*") == f"{row['mean']:.3f} ± {row['sd']:.3f}"


def test_every_row_has_as_many_cells_as_its_head(page):
    found = tables(page)
    assert len(found) > 4
    assert all(len(row) == len(table[0]) for table in found for row in table)


def test_bold_is_what_is_sure_and_nothing_else():
    sure = comparison({"DiffVAE": 0.8, "PCA": 0.3}, **SMALL)
    (table, *_) = tables(section(sure.report(n_bootstrap=100), "## Adjusted Rand index"))
    assert [cell.startswith("**") for cell in table[2][3:]] == [True, False]
    unsure = comparison({"DiffVAE": 0.51, "PCA": 0.50}, **SMALL)
    (table, *_) = tables(section(unsure.report(n_bootstrap=100), "## Adjusted Rand index"))
    assert "**" not in "".join(table[2])
    alike = comparison({"DiffVAE": 0.5, "again": 0.5}, **SMALL, **EXACT)
    alike.table["training_seconds"] = 1.0
    assert "**" not in "".join(map(str, tables(alike.report(n_bootstrap=100))))


def test_truth_has_one_noise_has_none():
    page = comparison({"truth": 1.0, "noise": 0.0}, **SMALL, **EXACT).report(n_bootstrap=100)
    (table, *_) = tables(section(page, "## Adjusted Rand index"))
    assert table[2][3:] == ["**1.000 ± 0.000**", "0.000 ± 0.000"]
    assert "truth does better than noise by adjusted Rand index; settings better / unclear / worse: 1 / 0 / 0" in page
    assert "| k-means, k given | 50 | noise | **+1.000** | +1.000 to +1.000 | 1 / 0 / 0 | 5 |" in page


def test_several_data_sets_have_a_table_each_and_their_mean():
    runs = comparison(datasets=("a", "b"), **SMALL)
    page = runs.report(n_bootstrap=100)
    assert "the intervals say little about other data sets" in page
    assert "the intervals say little about other data sets" not in comparison(**SMALL).report(n_bootstrap=100)
    part = section(page, "## Adjusted Rand index")
    heads = re.findall("^### (.*)", part, re.MULTILINE)
    assert heads[:3] == ["Mean over 2 data sets", "a", "b"]
    mean, a, b = ([float(c.strip("*").split(" ± ")[0]) for c in t[2][3:]] for t in tables(part)[:3])
    np.testing.assert_allclose(mean, (np.array(a) + b) / 2, atol=1e-3)
    sd = runs.summary().pivot(index="method", columns="dataset", values="sd").loc["PCA"]
    (row,) = at(findings(runs).scores, metric="ari", dataset=None, method="PCA").to_dict("records")
    assert row["sd"] == pytest.approx(np.hypot(*sd) / 2)


def test_a_data_set_that_lacks_a_method_does_not_count_in_the_mean():
    runs = comparison(datasets=("a", "b", "c"), **SMALL)
    t = runs.table
    runs.table = t[(t["dataset"] != "c") | (t["method"] != "PCA")]
    of = runs.summary().set_index(["dataset", "method"])["mean"]
    (row,) = at(findings(runs).scores, metric="ari", dataset=None, method="DiffVAE").to_dict("records")
    assert row["mean"] == pytest.approx((of["a", "DiffVAE"] + of["b", "DiffVAE"]) / 2)
    assert tables(section(runs.report(n_bootstrap=100), "## Adjusted Rand index"))[3][2][-1] == "–"


# Verdict


def test_what_wins_over_the_reference_comes_first():
    runs = comparison({"DiffVAE": 0.5, "VAE": 0.3, "AE": 0.5, "PCA": 0.7}, **SMALL)
    runs.table["knn_purity"] = np.nan
    first, second, third = verdict(findings(runs))
    assert first.startswith("**PCA does better than DiffVAE** by adjusted Rand index; ")
    (row,) = runs.compare().query("method == 'PCA'").to_dict("records")
    assert f"{row['reference_mean']:.3f} against {row['method_mean']:.3f}" in first
    assert second.startswith("**DiffVAE is not clearly better than AE**")
    assert third.startswith("DiffVAE does better than VAE by adjusted Rand index; ")
    assert section(runs.report(n_bootstrap=100), "## Findings").split("- ")[1].startswith("**PCA does better")
    runs = comparison(**SMALL)
    runs.table["knn_purity"] = np.where(runs.table["method"] == "PCA", 0.9, 0.1)
    said = verdict(findings(runs))
    assert said[0].startswith("**PCA does better than DiffVAE** by kNN purity")
    assert any(s.startswith("DiffVAE does better than PCA by adjusted Rand index") for s in said)


def test_data_sets_on_which_another_wins_are_named():
    levels = {"DiffVAE": 0.5, "PCA": {"a": 0.2, "b": 0.3, "c": 0.8}}
    said = verdict(findings(comparison(levels, datasets=("a", "b", "c"), **SMALL)))
    assert said[0].startswith("**PCA does better than DiffVAE on c** by adjusted Rand index")
    assert said[0].endswith("data sets won / tied / lost: 2 / 0 / 1.")


def test_a_single_training_is_no_evidence():
    runs = comparison({"DiffVAE": 0.5, "PCA": 0.7, "VAE": 0.2}, n_trainings=1, **SMALL)
    said = verdict(findings(runs))
    assert said[0].startswith("**PCA is ahead of DiffVAE** by adjusted Rand index in single trainings; ")
    assert said[-1].startswith("DiffVAE is ahead of VAE")
    page = runs.report(n_bootstrap=100)
    assert "A single training has no spread" in page
    assert "±" not in section(page, "## Adjusted Rand index").split("### Spread")[0]
    assert "**" not in "".join(map(str, tables(page)))


# Other tables


def test_spread_of_trainings_and_of_clusterings_are_apart(whole, page):
    table = tables(section(page, "### Spread between trainings and between clusterings of one training"))[0]
    assert table[0][2:] == ["between trainings", "between clusterings of one training"]
    of = {(row[0], row[1]): row[2:] for row in table[2:]}
    found = whole.summary().query("clusterer == 'gmm' and space == 'tsne'")
    assert of["Gaussian mixture, k given", "t-SNE of latent"] == [
        f"{np.sqrt((found[c] ** 2).mean()):.3f}" for c in ("sd", "sd_clusterings")
    ]
    assert of["DBSCAN", "latent"][1] == "–"  # nothing is random there


def test_other_measures_leave_out_what_nobody_has(page):
    (table,) = tables(section(page, "## Other measures"))
    assert table[0] == ["measure", "space", "clustering", "dimensions", "DiffVAE", "VAE", "AE", "PCA"]
    measures = list(dict.fromkeys(row[0] for row in table[2:]))
    assert measures[:2] == ["silhouette of the types", "kNN purity"]
    assert "MIG" in measures
    assert "alignment with batches" not in measures
    assert [row[1:4] for row in table if row[0] == "MIG"] == [["–", "–", n] for n in ("20", "50", "100")]
    assert len([row for row in table if row[0] == "kNN purity"]) == 2 * 3


def test_both_sides_of_integration_stand_together():
    runs = comparison({"DiffVAE": 0.6, "PCA": 0.4}, n_trainings=2, **SMALL)
    plain = runs.report()
    assert "## Batches mixed" not in plain
    # PCA leaves more of the batches, which is worse
    runs.table["batch_r2"] = np.where(runs.table["method"] == "PCA", 0.4, 0.1)
    runs.table["ilisi"] = np.where(runs.table["method"] == "PCA", 0.2, 0.7)
    page = runs.report()
    (table,) = tables(section(page, "## Batches mixed and types kept"))
    names = list(dict.fromkeys(row[0] for row in table[2:]))
    assert names == ["iLISI", "variance explained by batch", "silhouette of the types", "kNN purity"]
    (row,) = [row for row in table if row[0] == "variance explained by batch"]
    assert row[-2:] == ["**0.100 ± 0.000**", "0.400 ± 0.000"]
    assert "Read both sides together" in page
    assert "kNN purity" not in section(page, "## Other measures")


def test_rare_types_by_hand():
    runs = comparison({"DiffVAE": 0.6, "PCA": 0.4}, n_trainings=2, **SMALL)
    types = runs.types[runs.types["type"] != "less"].copy()
    rare = (types["type"] == "rare one") & (types["method"] == "PCA")
    types.loc[rare, "recall"] = [0.0, 1.0, 0.2, 0.2]  # two trainings of two clusterings
    types.loc[rare, "precision"] = [np.nan, 0.4, 0.1, 0.1]
    runs.types = types
    (table,) = tables(section(runs.report(n_bootstrap=100), "## Rare types"))
    assert table[0] == ["type", "cells", "setting", "DiffVAE", "PCA"]
    assert [row[:2] for row in table[2:]] == [["rare one", "40 (4.3%)"]]
    assert table[2][4] == f"0.35 ± {np.std([0.5, 0.2], ddof=1):.2f} / 0.25 ± {np.std([0.4, 0.1], ddof=1):.2f}"
    runs.types = runs.types[runs.types["type"] == "common"]
    assert "## Rare types" not in runs.report(n_bootstrap=100)


def test_seconds_are_counted_once_for_each_training():
    runs = comparison({"DiffVAE": 0.6, "PCA": 0.5}, n_trainings=3, **SMALL)
    page = runs.report(n_bootstrap=100)
    (table,) = tables(section(page, "## Other measures"))
    assert ["seconds of a training", "–", "–", "50", "24.0 ± 0.0", "**12.0 ± 0.0**"] in table
    assert f"Seconds of all trainings: {3 * (24 + 12):.1f}; of all clusterings: {2 * 3 * 2 * 0.2:.1f}." in page


def test_command_and_versions_are_in_the_report():
    runs = comparison(**SMALL)
    runs.command = "diffvae benchmark 'a```b.h5ad'"
    runs.table.loc[0, "versions"] = "diffvae 0.0.9"
    made = section(runs.report(n_bootstrap=100), "## How this report was made")
    assert made.startswith("\n````\ndiffvae benchmark 'a```b.h5ad'\n````\n")
    n = len(runs.table) - 1
    assert f"Versions: diffvae 0.0.9 (runs: 1); diffvae 0.1.0, numpy 2.0 (runs: {n})." in made


def test_trainings_without_a_partner_are_counted():
    runs = comparison(**SMALL)
    t = runs.table
    runs.table = t[(t["method"] != "PCA") | (t["seed"] > 1)]
    assert "Up to 2 trainings of a row lack a partner" in runs.report(n_bootstrap=100)
    assert "Trainings of each method: 3 or 5." in runs.report(n_bootstrap=100)


@pytest.mark.parametrize(
    "change",
    [
        {"n_latent": (7,)},
        {"clusterers": (("dbscan", False),)},
        {"spaces": ("tsne",)},
        {"levels": {"PCA": 0.5}},
        {"levels": {"PCA": 0.5, "UMAP": 0.6}},
    ],
)
def test_small_comparisons_have_a_report(change):
    runs = comparison(**SMALL | change)
    page = runs.report(n_bootstrap=100)
    assert page.startswith(f"# {runs.table['method'].iloc[0]}")
    assert page.count("## Adjusted Rand index") == 1
    assert (" minus each other method\n" in page) == (len(change.get("levels", LEVELS)) > 1)
    assert "nan" not in page.lower().replace("alignment", "")


def test_the_first_measure_of_clusters_takes_the_place_of_one_that_was_not_asked_for():
    runs = comparison(**SMALL)
    runs.table = runs.table.drop(columns=["ari", "overlap"])
    assert "\n## Normalised mutual information\n" in runs.report(n_bootstrap=100)
    runs.table = runs.table.drop(columns="nmi")
    page = runs.report(n_bootstrap=100)
    assert "\n## Other measures\n" in page
    assert "clusterings of one training" not in page


def test_names_are_no_markup():
    ugly = "T|B *x*\n<script>alert(1)</script> `c` [l](u) $a$ _e_"
    runs = comparison({"DiffVAE": 0.6, ugly: 0.5}, datasets=(ugly,), **SMALL)
    runs.types["type"] = runs.types["type"] + ugly
    page = runs.report(n_bootstrap=100)
    assert "<script>" not in page
    assert md.text(ugly) == (
        r"T\|B \*x\* &lt;script&gt;alert(1)&lt;/script&gt; \`c\` \[l\](u) \$a\$ \_e\_"
    )  # fmt: skip
    assert f"### {md.text(ugly)}\n" in page
    assert all(len(row) == len(table[0]) for table in tables(page) for row in table)


def test_the_reference_can_be_another(whole):
    page = whole.report("PCA", n_bootstrap=100)
    assert page.startswith("# PCA compared with DiffVAE, VAE and AE\n")
    assert "paired.csv" not in page  # no files to refer to
    assert "\n## PCA minus each other method\n" in page
    with pytest.raises(ValueError, match="reference is 'UMAP'; the methods are 'DiffVAE', 'VAE'"):
        whole.report("UMAP")


def test_without_runs_there_is_no_report():
    runs = comparison(**SMALL)
    with pytest.raises(DataError, match="every training failed"):
        benchmark.Comparison(runs.table.iloc[:0], runs.types.iloc[:0]).report(n_bootstrap=100)


# The folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "out"
    runs = comparison(datasets=("a", "b"), **SMALL | {"clusterers": (("kmeans", True), ("leiden", False))})
    runs.command = "diffvae benchmark"
    assert runs.write(out, n_bootstrap=200) == out
    assert runs.path == out
    return out, runs


def test_folder_has_report_tables_and_figures(folder):
    out, runs = folder
    tables = ["paired.csv", "paired_by_dataset.csv", "runs.csv", "summary.csv", "types.csv"]
    assert sorted(p.name for p in out.iterdir()) == ["figures", *tables[:2], "report.md", *tables[2:4],
                                                     "summary.json", "types.csv"]  # fmt: skip
    pd.testing.assert_frame_equal(pd.read_csv(out / "runs.csv"), runs.table)
    pd.testing.assert_frame_equal(pd.read_csv(out / "types.csv"), runs.types)
    names = re.findall(r"!\[[^\]]*\]\((.*?)\)", (out / "report.md").read_text())
    assert names == [
        f"figures/{name}.png"
        for setting in ("ari_kmeans_latent_50", "ari_leiden_latent_50", "knn_purity_latent_50")
        for name in (setting, f"paired_{setting}")
    ]
    for name in names:
        assert (out / name).stat().st_size > 5000
        assert (out / name).with_suffix(".svg").is_file()
    assert "All settings and measures are in summary.csv, paired.csv" in (out / "report.md").read_text()
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["state"], summary["n_runs"]) == ("complete", len(runs.table))
    assert summary["command"] == "diffvae benchmark"
    assert summary["verdict"][0] in (out / "report.md").read_text()


def test_tables_in_the_folder_are_those_of_the_functions(folder):
    out, runs = folder
    paired = pd.read_csv(out / "paired.csv")
    ours = runs.compare(n_bootstrap=200)
    ari = paired[paired["metric"] == "ari"].reset_index(drop=True)
    np.testing.assert_allclose(ari[["difference", "low", "high"]], ours[["difference", "low", "high"]])
    sets = pd.read_csv(out / "paired_by_dataset.csv")
    assert len(sets[sets["metric"] == "ari"]) == 2 * len(ours)
    summary = pd.read_csv(out / "summary.csv")
    np.testing.assert_allclose(summary.loc[summary["metric"] == "ari", "mean"], runs.summary()["mean"])


def test_a_report_is_replaced_only_when_asked(folder):
    out, _ = folder
    (out / "tasks").mkdir()
    (out / "tasks" / "piece.json").write_text("[]")
    before = (out / "report.md").read_text()
    runs = comparison({"DiffVAE": 0.6, "UMAP": 0.5}, **SMALL)
    with pytest.raises(OutputError, match="has a report already"):
        runs.write(out, n_bootstrap=50)
    assert (out / "report.md").read_text() == before
    runs.write(out, overwrite=True, n_bootstrap=50)
    assert "UMAP" in (out / "report.md").read_text()
    assert (out / "tasks" / "piece.json").read_text() == "[]"  # what a longer comparison goes on from
    assert not list((out / "figures").glob("*leiden*"))  # of the earlier report
    assert len(list((out / "figures").iterdir())) == 2 * 4


def test_other_peoples_folders_are_left_alone(tmp_path):
    runs = comparison({"DiffVAE": 0.6}, **SMALL)
    (tmp_path / "report.md").write_text("mine")
    with pytest.raises(OutputError, match="files that diffvae did not write"):
        runs.write(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="is a file"):
        runs.write(tmp_path / "report.md")
    assert [p.name for p in tmp_path.iterdir()] == ["report.md"]
    with pytest.raises(ValueError, match="has no folder; give the path of one"):
        runs.write()
