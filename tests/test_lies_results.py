"""Folders of results that are not as they were written: a page, or one sentence and no trace."""

import json
import shutil

import h5py
import numpy as np
import pandas as pd
import plotly.offline
import pytest
from _comparison_data import comparison

import diffvae as dv
from diffvae import _keys, report
from diffvae._errors import DataError, OutputError
from diffvae.pipeline import _result
from diffvae.report import _page

DEEP = "[" * 200_000
NOT_SHOWN = "{} is not shown: it is damaged ("


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the folder of a small run with all parts; without figures, which the page does not read."""
    folder = tmp_path_factory.mktemp("written") / "run"
    cells = dv.datasets.simulate_differentiation(60, 40, tree={"stem": ["red", "white"]}, effect=2, rng=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dv.pl, "save", lambda drawn, file: None)
        patch.setattr(_result, "_figures", lambda result, label_key: {})
        dv.pipeline.run(
            cells, folder, label_key="cell_type", markers={"red": ["gene_01", "gene_02"]}, n_latent=3, max_epochs=2,
            n_clusters=3, cluster_method="kmeans", links=False, progress=False,
        )  # fmt: skip
        dv.pipeline.perturb(folder, source="stem", n_sd=[2.0], n_random=2, progress=False)
        dv.pipeline.links(folder, source="stem", max_epochs=2, progress=False)
        small = {"n_latent": [50], "clusterers": [("kmeans", True)], "spaces": ["latent"], "n_trainings": 2}
        comparison(**small, n_clusterings=1).write(folder / "benchmark", n_bootstrap=10)
    return folder


@pytest.fixture
def folder(written, tmp_path, monkeypatch):
    """Return a copy of it; the drawing library, by far most of a page, is left out."""
    monkeypatch.setattr(plotly.offline, "get_plotlyjs", lambda: "")
    shutil.copytree(written, tmp_path / "run", ignore=shutil.ignore_patterns("model", "classifier"))
    return tmp_path / "run"


@pytest.fixture
def alone(folder):
    """Return a copy of the run without its parts."""
    for part in ("perturbation", "links", "benchmark"):
        shutil.rmtree(folder / part)
    return folder


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# What is done to a file: each is called with it


def place(*keys, **value):
    """Return what changes a place in JSON: ``to=`` another value, or without it takes it out."""

    def change(file):
        top = inner = json.loads(file.read_text())
        for key in keys[:-1]:
            inner = inner[key]
        if value:
            inner[keys[-1]] = value["to"]
        else:
            del inner[keys[-1]]
        file.write_text(json.dumps(top))

    return change


def text(content):
    return lambda file: file.write_bytes(content.encode() if isinstance(content, str) else content)


def cut(share):
    return lambda file: file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


def table(change):
    return lambda file: change(pd.read_csv(file, dtype=str, keep_default_na=False)).to_csv(file, index=False)


def without(column):
    return table(lambda t: t.drop(columns=column))


def filled(column, value):
    return table(lambda t: t.assign(**{column: value}))


TWICE = table(lambda t: pd.concat([t, t]))
LATIN = text("gene,target\né,ä\n".encode("latin-1"))


def stored(change):
    def of(file):
        with h5py.File(file, "r+") as cells:
            change(cells)

    return of


def instead(name, **array):
    def change(cells):
        del cells[name]
        if array:
            cells.create_dataset(name, compression="gzip", chunks=True, **array)

    return stored(change)


LIE = stored(lambda cells: cells.create_dataset("lie", shape=10**13, dtype="f4", chunks=(10**6,), compression="gzip"))
MAP = f"obsm/{_keys.TSNE}"

REFUSED = {
    "scores without names": ("summary.json", place("scores", 0, "score"), "summary.scores[0] has no score"),
    "a cluster that is a number": ("summary.json", place("clusters", 0, to=1), "summary.clusters[0] is no dictionary"),
    "a list of types": ("summary.json", place("clusters", 0, "cell_type", to=["red"]), "is damaged"),
    "genes that are nothing": ("summary.json", place("clusters", 0, "genes_up", to=[None]), "is damaged"),
    "no clustering": ("summary.json", place("clustering", to=None), "is damaged"),
    "time in words": ("summary.json", place("seconds", "read", to="long"), "is damaged"),
    "time in time": ("summary.json", place("seconds", "read", to={}), "is damaged"),
    "parameters in words": ("summary.json", place("parameters", to="all"), "is damaged"),
    "a list of labels": ("summary.json", place("parameters", "label_key", to=["a"]), "is damaged"),
    "no versions": ("summary.json", place("versions", to=None), "is damaged"),
    "a verdict that is a number": ("summary.json", place("verdict", to=5), "is damaged"),
    "brackets without end": ("summary.json", text(DEEP), "can't be read"),
    "letters of another code": ("tables/clusters.csv", LATIN, "tables/clusters.csv' can't be read"),
    "clusters without markers": ("tables/clusters.csv", without("marker_genes"), "lacks the column 'marker_genes'"),
    "dimensions twice": ("tables/latent_dimensions.csv", TWICE, "is damaged"),
    "dimensions in words": ("tables/latent_dimensions.csv", filled("share", "much"), "is damaged"),
    "genes without rank": ("tables/high_weight_genes.csv", without("rank"), "is damaged"),
    "losses in words": ("tables/history.csv", filled("train_loss", "low"), "is damaged"),
    "cells that are text": ("results.h5ad", text("cells"), "results.h5ad' can't be read"),
    "half of the cells": ("results.h5ad", cut(0.5), "results.h5ad' can't be read"),
    "cells without a map": ("results.h5ad", instead("obsm"), "is damaged"),
    "cells that no memory holds": ("results.h5ad", LIE, "in memory, of which"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_damaged_result_is_refused(alone, case):
    file, change, said = REFUSED[case]
    change(alone / file)
    before = contents(alone)
    with pytest.raises(DataError) as refused:
        report.write(alone)
    assert said in str(refused.value)
    assert "; " in str(refused.value)  # the way out
    assert contents(alone) == before


LEFT_OUT = {
    "changes of nothing": ("perturbation/summary.json", text("{}")),
    "changes, parameters in words": ("perturbation/summary.json", place("parameters", to="all")),
    "changes, steps in words": ("perturbation/summary.json", place("parameters", "n_sd", to=["far"])),
    "changes, shares in words": ("perturbation/summary.json", place("parameters", "step", to=["far"])),
    "changes, a verdict that is a number": ("perturbation/summary.json", place("verdict", to=5)),
    "changes, brackets without end": ("perturbation/summary.json", text(DEEP)),
    "changes, another code": ("perturbation/tables/effects.csv", LATIN),
    "changes twice": ("perturbation/tables/conversions.csv", TWICE),
    "changes without method": ("perturbation/tables/conversions.csv", without("method")),
    "changes, numbers in words": ("perturbation/tables/targets.csv", filled("q_value", "small")),
    "changes, a way in words": ("perturbation/tables/targets.csv", filled("route", "long")),
    "changes, a judge in words": ("perturbation/tables/conversions.csv", filled("judged", "all")),
    "changes, earlier in words": ("perturbation/tables/targets.csv", filled("earlier", "perhaps")),
    "changed cells that are text": ("perturbation/changed_cells.h5ad", text("cells")),
    "half of the changed cells": ("perturbation/changed_cells.h5ad", cut(0.5)),
    "changed cells without maps": ("perturbation/changed_cells.h5ad", instead("obsm")),
    "a short map": ("perturbation/changed_cells.h5ad", instead(MAP, data=np.zeros((1, 2)))),
    "a map without end": ("perturbation/changed_cells.h5ad", instead(MAP, shape=(10**9, 2), dtype="f4")),
    "changed cells that no memory holds": ("perturbation/changed_cells.h5ad", LIE),
    "links of nothing": ("links/summary.json", text("{}")),
    "links by a number": ("links/summary.json", place("parameters", "groupby", to=7)),
    "links, another code": ("links/tables/link_table.csv", LATIN),
    "half of the links": ("links/tables/called_links.csv", table(lambda t: t.assign(cell_1=t["cell_1"].str[:2]))),
    "links without cells": ("links/tables/called_links.csv", without("cell_2")),
    "links, calls without names": ("links/tables/commitment.csv", without("call")),
    "linked cells that are text": ("links/cells.h5ad", text("cells")),
    "half of the linked cells": ("links/cells.h5ad", cut(0.5)),
    "linked cells without graphs": ("links/cells.h5ad", instead("obsp")),
    "linked cells that no memory holds": ("links/cells.h5ad", LIE),
    "a comparison with nothing": ("benchmark/summary.json", place("reference")),
    "a comparison without verdict": ("benchmark/summary.json", place("verdict")),
    "a comparison without methods": ("benchmark/summary.csv", without("method")),
    "a comparison, another code": ("benchmark/paired.csv", LATIN),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_a_damaged_part_is_left_out(folder, case):
    file, change = LEFT_OUT[case]
    part = file.split("/")[0]
    change(folder / file)
    page = report.write(folder).read_text(encoding="utf-8")
    assert NOT_SHOWN.format(part) in page
    sections = {"perturbation": "changes", "links": "links", "benchmark": "compared"}
    assert [f'<section id="{s}">' in page for s in sections.values()] == [name != part for name in sections]


SHOWN = {
    "half a pair of surrogates": ("summary.json", place("source", to="cells \ud800.h5ad")),
    "a type that is a number": ("summary.json", place("clusters", 0, "cell_type", to=10**30)),
    "no scores": ("summary.json", place("scores", to=[])),
    "no table of dimensions": ("tables/latent_dimensions.csv", lambda file: file.unlink()),
    "an empty table": ("tables/history.csv", text("\n\n")),
    "markup in a table": ("tables/clusters.csv", filled("cell_type", "<script>alert(1)</script>")),
    "changes without a judge": ("perturbation/tables/conversions.csv", without("judged")),
    "changes without ways": ("perturbation/tables/targets.csv", without("route")),
    "types that are passed without names": ("perturbation/tables/targets.csv", filled("passes", "")),
    "a comparison under way": ("benchmark/summary.csv", lambda file: file.unlink()),
}


@pytest.mark.parametrize("case", SHOWN)
def test_what_can_be_shown_is_shown(folder, case):
    file, change = SHOWN[case]
    change(folder / file)
    page = report.write(folder).read_text(encoding="utf-8")
    assert '<section id="map">' in page
    assert "<script>alert" not in page
    assert "is damaged" not in page


COMPARED = {
    "without reference": ("summary.json", place("reference"), "summary has no reference"),
    "without verdict": ("summary.json", place("verdict"), "summary has no verdict"),
    "a verdict of numbers": ("summary.json", place("verdict", to=[1]), "summary.verdict[0] is 1"),
    "without versions": ("summary.json", place("versions"), "is damaged"),
    "methods that are a number": ("summary.json", place("methods", to=1), "is damaged"),
    "without means": ("summary.csv", without("mean"), "lacks the column 'mean'"),
    "differences in words": ("paired.csv", filled("difference", "none"), "is damaged"),
    "without differences": ("paired.csv", lambda file: file.unlink(), "holds no summary.csv or no paired.csv"),
    "another code": ("summary.csv", LATIN, "summary.csv' can't be read"),
}


@pytest.mark.parametrize("case", COMPARED)
def test_a_damaged_comparison_is_refused(folder, case):
    file, change, said = COMPARED[case]
    change(folder / "benchmark" / file)
    before = contents(folder)
    with pytest.raises(DataError) as refused:
        report.write(folder / "benchmark")
    assert said in str(refused.value)
    assert contents(folder) == before


def test_a_mistake_in_the_program_is_not_taken_for_damage(alone, monkeypatch):
    def mistaken(*given):
        raise TypeError("a mistake")

    monkeypatch.setattr(_page, "_words_of_run", mistaken)
    with pytest.raises(TypeError, match="a mistake"):
        report.page(alone)


def test_the_cause_of_a_refusal_is_kept(alone):
    LATIN(alone / "tables" / "clusters.csv")
    with pytest.raises(DataError) as refused:
        report.page(alone)
    assert isinstance(refused.value.__cause__.__cause__, UnicodeDecodeError)


def test_a_later_part_is_not_lost_with_the_page(folder, written, diffvae, monkeypatch):
    monkeypatch.setattr(dv.pl, "save", lambda drawn, file: None)
    shutil.copytree(written / "model", folder / "model")
    place("clustering", to=None)(folder / "summary.json")
    page = (folder / "report.html").read_bytes()
    code, said, told = diffvae("perturb", folder, "--source", "stem", "--n-sd", "1", "--n-random", "2", "--overwrite")
    assert code == 0
    assert f"Written to {folder / 'perturbation'}" in said
    told = " ".join(told.split())  # it is folded
    assert "The result was written, but its page was not: " in told
    assert f"Then run: diffvae report {folder}" in told
    assert (folder / "report.html").read_bytes() == page


@pytest.mark.parametrize(
    "change",
    [
        place("parameters", to="all"),
        place("parameters", to=[]),
        place("parameters", "label_key", to=["cell_type"]),
        place("parameters", "label_key", to={}),
        place("source", to=None),
        text(DEEP),
    ],
)
def test_later_parts_refuse_a_damaged_summary(alone, change):
    change(alone / "summary.json")
    before = contents(alone)
    for later in (dv.pipeline.links, lambda *given: dv.pipeline.perturb(*given, source="stem")):
        with pytest.raises(DataError, match=r"summary\.json"):
            later(alone, alone / "new")
    assert contents(alone) == before


@pytest.mark.parametrize("figures", [5, [None, "\ud800", "figures/..", "figures/a\0.png", "/etc/passwd"]])
def test_a_comparison_replaces_one_whose_figures_are_none(folder, figures, monkeypatch):
    monkeypatch.setattr(dv.pl, "save", lambda drawn, file: None)
    monkeypatch.setattr("diffvae.benchmark._comparison.figures", lambda found: {})
    place("figures", to=figures)(folder / "benchmark" / "summary.json")
    small = {"n_latent": [50], "clusterers": [("kmeans", True)], "spaces": ["latent"], "n_trainings": 2}
    comparison(**small, n_clusterings=1).write(folder / "benchmark", n_bootstrap=5, overwrite=True)
    assert json.loads((folder / "benchmark" / "summary.json").read_text())["figures"] == []


def test_a_comparison_does_not_replace_what_says_nothing(folder):
    (folder / "benchmark" / "summary.json").write_text("[]")
    before = contents(folder)
    with pytest.raises(OutputError, match="did not write"):
        comparison(n_latent=[50], n_trainings=2).write(folder / "benchmark", n_bootstrap=5, overwrite=True)
    assert contents(folder) == before
