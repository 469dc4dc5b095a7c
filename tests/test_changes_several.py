"""Perturbation of several sources: tables, files, the plasticity map, and what the page and the terminal show."""

import json
import os
import re
import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import diffvae as dv
from diffvae import pipeline, report
from diffvae._core.runtime import StepLog
from diffvae.cli._perturb import WIDTH, as_many, show
from diffvae.pipeline import _checks, _links
from diffvae.pipeline._targets import one_or_several
from diffvae.pp import DataError
from diffvae.tl._route import LONG

OPTIONS = {"step": [0.5, 1, 1.5], "n_random": 5, "progress": False}


def without_figures(patch):
    """Replace the functions of diffvae.pl by empty ones."""
    for name in dv.pl.__all__:
        patch.setattr(dv.pl, name, lambda *args, **options: None)


def data_of(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))["changes"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """Return the folder of a run without a source."""
    cells = dv.datasets.simulate_differentiation(200, 60)
    out = tmp_path_factory.mktemp("several") / "out"
    with pytest.MonkeyPatch.context() as patch:
        without_figures(patch)
        pipeline.run(
            cells, out, label_key="cell_type", n_latent=6, lr=5e-3, max_epochs=60, n_clusters=4,
            cluster_method="kmeans", links=False, progress=False,
        )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def two(run_folder, tmp_path_factory):
    """Return the changes of two sources towards two targets, each of them one of the sources or another type."""
    out = tmp_path_factory.mktemp("two") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dv.pl, "save", lambda ax, path: path.with_suffix(".png").touch())
        return pipeline.perturb(
            run_folder, out, source=["HSPC", "MEP"], target=["MEP", "Erythrocyte"], earlier=["HSPC"], **OPTIONS
        )


@pytest.fixture(scope="module")
def every(run_folder, tmp_path_factory):
    """Return the changes of all types, in the folder of their run with a page of both."""
    folder = tmp_path_factory.mktemp("every") / "out"
    shutil.copytree(run_folder, folder)
    with pytest.MonkeyPatch.context() as patch:
        without_figures(patch)  # those of several sources are drawn for two
        patch.setattr(dv.pl, "save", lambda ax, path: path.with_suffix(".png").touch())
        changes = pipeline.perturb(folder, source="all", **OPTIONS)
    return changes, folder


def test_two_sources_have_a_row_per_pair(two):
    pairs = [("HSPC", "MEP"), ("HSPC", "Erythrocyte"), ("MEP", "Erythrocyte")]
    targets = two.targets
    assert list(zip(targets["source"], targets["target"], strict=True)) == pairs
    for (source, target), row in targets.set_index(["source", "target"]).iterrows():
        rows = two.perturbation.rows(target, source)
        shown = rows[rows["step"] == two.perturbation.shown_step(target, source=source)].iloc[0]
        assert row["n_cells"] == shown["n_cells"]
        assert row["converted"] == shown["converted"]
        assert row["reached"] == (two.perturbation.reaching_step(target, source=source) is not None)
    assert two.summary["parameters"]["source"] == ["HSPC", "MEP"]
    assert "--source HSPC --source MEP" in two.summary["command"]
    part = two.path / "tables"
    for name in ("conversions", "resistance", "effects", "minimal_genes", "minimal_sets", "minimal_baselines"):
        table = pd.read_csv(part / f"{name}.csv")
        assert set(zip(table["source"], table["target"], strict=True)) <= set(pairs)


def test_a_source_among_others_gives_what_it_gives_alone(two, run_folder, tmp_path, no_figures, monkeypatch):
    monkeypatch.setattr(dv.pl, "save", lambda ax, path: path.with_suffix(".png").touch())
    alone = pipeline.perturb(run_folder, tmp_path / "out", source=["MEP"], target=["Erythrocyte"], **OPTIONS)
    assert alone.summary["parameters"]["source"] == "MEP"
    own = two.targets[two.targets["source"] == "MEP"].reset_index(drop=True)
    assert own["searched"].all()  # else the genes would not be compared
    names = [c for c in own if c != "q_value"]  # of all pairs together
    pd.testing.assert_frame_equal(own[names], alone.targets[names], check_dtype=False)  # counts beside NaN
    assert {p.name for p in (tmp_path / "out" / "figures").iterdir()} == {
        f"{n}.png"
        for n in ("plasticity", "conversion_curves", "conversions", "gene_counts", "minimal_genes_Erythrocyte")
    }


def test_genes_are_searched_where_a_target_is_reached_without_a_jump(every):
    changes, folder = every
    targets = changes.targets.set_index(["source", "target"])
    assert len(targets) == 7 * 6  # lymphocytes are too few
    expected = targets["reached"] & (targets["route"] <= LONG)
    assert set(changes.minimal) == set(targets.index[expected])
    assert 0 < expected.sum() < len(targets)
    pd.testing.assert_series_equal(targets["searched"], expected, check_names=False)
    assert targets.loc[~expected, "n_flipped"].isna().all()
    assert targets.loc[expected, "n_flipped"].notna().all()
    said = f"Minimal gene sets were searched for {expected.sum()} of 42 pairs: those that are reached through existing"
    assert any(sentence.startswith(said) for sentence in changes.summary["verdict"])
    changed = ad.read_h5ad(folder / "perturbation" / "changed_cells.h5ad").obs
    assert set(zip(changed["source"], changed["target"], strict=True)) == set(changes.minimal)
    figures = {p.stem for p in (folder / "perturbation" / "figures").iterdir()}
    flips = {f"minimal_genes_{a}_to_{b}" for (a, b), m in changes.minimal.items() if len(m.cells)}
    assert {f for f in figures if f.startswith("minimal_genes")} == flips
    assert {"plasticity", "conversion_curves_GMP", "conversions_HSPC"} <= figures


def test_no_pair_is_searched_if_none_is_reached(run_folder, tmp_path, no_figures):
    options = OPTIONS | {"step": [0.01]}
    changes = pipeline.perturb(run_folder, tmp_path / "out", source=["HSPC", "MEP"], target=["Monocyte"], **options)
    assert changes.minimal == {}
    assert not changes.targets["searched"].any()
    assert not (tmp_path / "out" / "changed_cells.h5ad").exists()
    assert (
        "No step up to 0.01 of the distance between the types reaches any type, from any source."
        in (changes.summary["verdict"])
    )


def test_the_plasticity_table_is_the_method(every):
    changes, folder = every
    table = pd.read_csv(folder / "perturbation" / "tables" / "plasticity.csv")
    pd.testing.assert_frame_equal(table, changes.perturbation.plasticity())
    moved = changes.perturbation.table.query("method == 'mean' and step > 0")
    assert table["change"].unique().tolist() == [pytest.approx((moved["step"] * moved["distance"]).median())]
    for row in table.iloc[[0, 20, 41]].itertuples():
        own = changes.perturbation.rows(row.target, row.source)
        moved = np.median(changes.perturbation.trajectory(row.target, row.source).moved, axis=1)
        expected = np.interp(row.change, moved * own["distance"], own["excess_agreed"])
        assert row.excess_agreed == pytest.approx(expected)


def test_the_page_has_all_pairs_and_the_map(every):
    changes, folder = every
    found, sources = data_of(folder), list(changes.perturbation.sources)
    by_pair = changes.targets.set_index(["source", "target"])
    assert [(p["source"], p["target"]) for p in found["pairs"]] == by_pair.index.tolist()
    for pair in found["pairs"]:
        row = by_pair.loc[(pair["source"], pair["target"])]
        assert pair["n_cells"] == row["n_cells"]
        assert found["steps"][pair["start"]] == row["step"]
        assert len(pair["n_genes"]) == (0 if np.isnan(row["n_flipped"]) else row["n_flipped"])
        assert ("No genes are searched from" in pair["empty"]) == (not row["searched"])
    minimal = changes.minimal[next(iter(changes.minimal))].genes["gene"].head(3).tolist()
    first = next(p for p in found["pairs"] if (p["source"], p["target"]) == next(iter(changes.minimal)))
    assert [gene for gene, *_ in first["minimal"][:3]] == minimal
    map_ = found["plasticity"]
    assert map_["sources"] == map_["targets"] == sources
    table = changes.perturbation.plasticity().set_index(["source", "target"])
    for i, a in enumerate(sources):
        assert map_["share"][i][i] is None
        for j, b in enumerate(sources):
            if i != j:
                assert map_["share"][i][j] == pytest.approx(table.loc[(a, b), "excess_agreed"], abs=1e-4)
                assert map_["reached"][i][j] == table.loc[(a, b), "reached"]


def test_without_the_table_of_the_map_the_page_still_opens(every, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(every[1], copy)
    (copy / "perturbation" / "tables" / "plasticity.csv").unlink()
    report.write(copy)
    assert data_of(copy)["plasticity"] is None
    assert 'id="change-plasticity"' not in (copy / "report.html").read_text(encoding="utf-8")


def test_a_result_of_one_source_without_the_new_columns_still_opens(run_folder, two, tmp_path):
    """Version 0.1 wrote one source, and the tables of genes had the target only."""
    copy = tmp_path / "copy"
    shutil.copytree(run_folder, copy)
    part = copy / "perturbation"
    shutil.copytree(two.path, part)
    (part / "tables" / "plasticity.csv").unlink()
    for table in (part / "tables").iterdir():
        if "source" in (rows := pd.read_csv(table, keep_default_na=False)):
            rows = rows[rows["source"] == "MEP"]
            if table.stem not in ("conversions", "resistance", "targets"):
                rows = rows.drop(columns="source")
            rows.drop(columns="searched", errors="ignore").to_csv(table, index=False)
    report.write(copy)
    (pair,) = data_of(copy)["pairs"]
    assert (pair["source"], pair["target"]) == ("MEP", "Erythrocyte")
    assert len(pair["n_genes"]) == len(two.minimal["MEP", "Erythrocyte"].cells) > 0
    genes = two.minimal["MEP", "Erythrocyte"].genes["gene"].head(15).tolist()
    assert [gene for gene, *_ in pair["minimal"]] == genes
    assert len(pair["effects"]) == 15


def test_the_terminal_shows_a_line_per_source(every, capsys):
    show(every[0])
    said = capsys.readouterr()
    lines = (said.out + said.err).splitlines()
    assert max(map(len, lines)) <= WIDTH
    targets = every[0].targets
    for source, own in targets.groupby("source"):
        (line,) = [line for line in said.out.splitlines() if line.split()[:1] == [source]]
        assert f"{own['reached'].sum()} of {len(own)}" in line
    assert "Minimal gene sets were searched for" in said.err


def test_types_in_one_line_of_the_terminal():
    assert as_many([], 20) == ""
    assert as_many(["a 10%", "b 5%"], 20) == "a 10%, b 5%"
    assert as_many(["a 10%", "b 5%", "c 1%"], 14) == "a 10%, +2"
    assert as_many(["a" * 30, "b"], 20) == "a" * 14 + "…, +1"
    assert len(as_many(["a" * 30, "b"], 20)) <= 20


def test_one_source_is_a_name():
    assert one_or_several("MEP") == one_or_several(["MEP"]) == one_or_several(("MEP", "MEP")) == "MEP"
    assert one_or_several(["MEP", "GMP"]) == ["MEP", "GMP"]
    with pytest.raises(ValueError, match="The list is empty"):
        one_or_several([])


def test_a_run_takes_several_sources(fork_cells, no_figures):
    told = []
    with pytest.raises(DataError, match="'blue' is not a type"):
        pipeline.run(fork_cells, label_key="cell_type", source=["stem", "blue"], on_step=told.append)
    assert told == ["read"]
    result = pipeline.run(
        fork_cells, label_key="cell_type", n_top_genes=None, n_latent=4, max_epochs=2, n_clusters=3,
        cluster_method="kmeans", source=["stem", "red"], target=["red", "white"], links=False, progress=False,
    )  # fmt: skip
    pairs = [("stem", "red"), ("stem", "white"), ("red", "white")]
    assert list(zip(result.changes.targets["source"], result.changes.targets["target"], strict=True)) == pairs
    assert result.summary["parameters"]["source"] == ["stem", "red"]


@pytest.mark.parametrize(("source", "called"), [(["stem", "red"], "red"), ("all", None)])
def test_links_call_the_progenitors_of_the_last_source(fork_cells, source, called, monkeypatch):
    monkeypatch.setattr(_links, "run_links", lambda adata, **options: options)
    log = StepLog(lambda step: None)
    parameters = {
        "source": source,
        "target": None,
        "label_key": "cell_type",
        "k": 5,
        "device": "cpu",
        "seed": 0,
        "earlier": None,
        "min_core": 0.6,
    }
    options = _links.links_of_run(fork_cells, parameters, log=log, progress=False)
    assert (options["source"], options["target"]) == (called, None)
    assert options["earlier"] == (["stem"] if called else None)
    assert [w.split(":")[0] for w in log.warnings] == ([] if called else ["No progenitors were called"])


def test_the_last_source_is_no_fate_of_itself_and_not_earlier(fork_cells, monkeypatch):
    monkeypatch.setattr(_links, "run_links", lambda adata, **options: options)
    parameters = {"source": ["stem", "red"], "target": ["red", "white"], "label_key": "cell_type", "earlier": None}
    parameters |= {"k": 5, "device": "cpu", "seed": 0, "min_core": None}
    options = _links.links_of_run(fork_cells, parameters, log=StepLog(lambda step: None), progress=False)
    assert (options["source"], options["target"], options["earlier"]) == ("red", ["white"], ["stem"])
    with pytest.raises(DataError, match="'red' is the last source and earlier"):
        _checks.require_types(fork_cells, "cell_type", ["stem", "red"], None, ["red"])


def test_the_command_takes_several_sources(diffvae, run_folder, tmp_path, no_figures):
    options = ("--target", "Erythrocyte", "--step", "1", "--n-random", "5", "--out", tmp_path / "out")
    code, said, _ = diffvae("perturb", run_folder, "--source", "HSPC", "--source", "MEP", *options)
    assert code == 0
    first = [line.split()[0] for line in said.splitlines() if line.split()[:1] in (["HSPC"], ["MEP"])]
    assert first[:2] == ["HSPC", "MEP"]
    assert len(first) in (2, 4)  # the second table has the genes of pairs that are reached
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["parameters"]["source"] == ["HSPC", "MEP"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_a_field_of_the_map_chooses_the_pair(every, width):
    sync_api = pytest.importorskip("playwright.sync_api")
    program = os.environ.get("DIFFVAE_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here; name one in DIFFVAE_BROWSER")
    said = []
    with sync_api.sync_playwright() as playwright:
        options = ("--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-background-networking")
        browser = playwright.chromium.launch(executable_path=program, args=options)
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((every[1] / "report.html").as_uri())
        page.wait_for_function("document.querySelectorAll('#change-plasticity .main-svg').length > 0")
        page.locator("#change-plasticity").scroll_into_view_if_needed()
        box = page.locator("#change-plasticity .nsewdrag").first.bounding_box()
        sources = list(every[0].perturbation.sources)
        row, column = 5, 1  # a field in its middle; from the top and from the left
        x, y = ((i + 0.5) / len(sources) for i in (column, row))
        page.mouse.click(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
        chosen = "() => document.querySelector('#change-source option:checked').textContent"
        page.wait_for_function(f"(name) => ({chosen})() === name", arg=sources[row])
        assert page.locator("#change-target option:checked").inner_text() == sources[column]
        assert page.locator("#change-target option").count() == len(sources) - 1
        assert f"{sources[row]} cells on the map" in page.inner_text("#change-map-caption")
        page.select_option("#change-source", label=sources[0])
        assert f"{sources[0]} cells on the map" in page.inner_text("#change-map-caption")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
    assert said == []


def test_files_of_types_with_like_names_are_distinct():
    from diffvae.pipeline._perturb import file_names

    assert list(file_names([("A", "T cell"), ("A", "T/cell")]).values()) == ["T_cell", "T_cell_2"]
    long = ["λ" * 90, "λ" * 90 + "x"]
    names = list(file_names([(a, b) for a in long for b in long if a != b]).values())
    assert len(set(names)) == 2
    assert max(len(f"minimal_genes_{name}.png".encode()) for name in names) <= 255


def test_all_stands_alone(run_folder, tmp_path):
    with pytest.raises(DataError, match=r"'all' is not a type of .* 'all' stands alone"):
        pipeline.perturb(run_folder, tmp_path / "out", source=["all", "HSPC"], **OPTIONS)
    assert not (tmp_path / "out").exists()
