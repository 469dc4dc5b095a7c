"""The page in a real browser: it loads in silence, and what is pressed does what it says."""

import base64
import json
import os
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from diffvae import report

sync_api = pytest.importorskip("playwright.sync_api")
BROWSER = os.environ.get("DIFFVAE_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here; name one in DIFFVAE_BROWSER"),
]
OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Open a page; what it logs as an error or asks of the network fails the test."""
    said = []

    def open_page(folder, **options):
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}} | options)
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else said.append(r.url))
        page.goto((folder / "report.html").as_uri())
        page.wait_for_function("document.querySelectorAll('#made .main-svg').length > 0")
        return page

    yield open_page
    for context in browser.contexts:
        context.close()
    assert said == []


def n_clusters(folder):
    return len(json.loads((folder / "summary.json").read_text())["clusters"])


def marker(page, plot, trace=0):
    return page.evaluate(f"document.getElementById('{plot}').data[{trace}].marker.color")


def drawn(page, plot):
    return page.evaluate(f"document.getElementById('{plot}').data.map((t) => t.x.length)")


def test_the_page_loads_in_silence_and_draws_everything(opened, report_folder):
    page = opened(report_folder)
    plots = page.locator("figure.plot > div[role=group]")
    assert plots.count() == 13
    assert all(plot.locator(".main-svg").count() for plot in plots.all())
    assert all(plot.get_attribute("aria-label") for plot in plots.all())
    assert page.locator("#clusters tbody tr").count() == n_clusters(report_folder)


def test_integration_shows_both_sides_and_the_cells_by_batch_and_type(opened, integrated):
    page = opened(integrated / "out")
    table = pd.read_csv(integrated / "out" / "tables" / "integration.csv")
    latent = [x for k in (3, 7) for x in page.evaluate(f"document.getElementById('integration-scores').data[{k}].x")]
    assert latent == pytest.approx(table["latent"].tolist(), abs=1e-6)
    assert page.locator("#integration-batches-legend bdi").all_inner_texts() == ["batch_1", "batch_2", "batch_3"]
    assert page.locator("#integration-types-legend bdi").count() == 3
    assert len(set(marker(page, "integration-batches"))) == 3
    places = [
        page.evaluate(f"document.getElementById('integration-{which}').data[0].x") for which in ("batches", "types")
    ]
    assert places[0] == places[1]
    assert "Batches explain" in page.inner_text("#dimension-batches")
    page.select_option("#colour-group", "batch")
    assert page.locator("#legend button").count() == 3


def test_searching_a_gene_colours_the_map(opened, report_folder):
    page = opened(report_folder)
    before = marker(page, "map-plot")
    page.fill("#colour-gene", "Gcg")
    page.press("#colour-gene", "Enter")
    page.wait_for_function("document.getElementById('map-plot-caption').textContent.includes('Gcg')")
    after = marker(page, "map-plot")
    assert all(isinstance(c, str) for c in before)
    assert min(after) == 0 < max(after)
    page.fill("#colour-gene", "no such gene")
    page.press("#colour-gene", "Enter")
    assert "No gene called no such gene" in page.inner_text("#map-note")
    page.fill("#colour-gene", "gcg")  # as a newcomer types it
    page.press("#colour-gene", "Enter")
    page.wait_for_function("document.getElementById('colour-gene').value === 'Gcg'")


def test_gene_names_in_tables_colour_the_map_too(opened, report_folder):
    page = opened(report_folder)
    button = page.locator("#clusters button.gene:enabled").first
    name = button.inner_text()
    button.click()
    page.wait_for_function("(n) => document.getElementById('map-plot-caption').textContent.endsWith(n)", arg=name)


def test_a_group_can_be_shown_alone(opened, report_folder):
    page = opened(report_folder)
    page.select_option("#colour-group", "diffvae_cluster")
    page.locator("#legend button").first.click()
    grey = page.evaluate("GREY")
    colours = marker(page, "map-plot")
    size = page.evaluate("cells.groups.find((g) => g.key === 'diffvae_cluster').sizes[0]")
    assert sum(c != grey for c in colours) == size
    assert page.inner_text("#selection h3") == f"{size} cells selected"


def test_a_lasso_tells_what_it_holds(opened, report_folder):
    page = opened(report_folder)
    page.evaluate("showSelection([...Array(50).keys()])")
    assert page.inner_text("#selection h3") == "50 cells selected"
    assert "%" in page.inner_text("#selection")


def test_pressing_the_heat_map_shows_the_genes_of_that_dimension(opened, report_folder):
    page = opened(report_folder)
    page.locator("#types-plot").scroll_into_view_if_needed()
    box = page.locator("#types-plot .nsewdrag").bounding_box()
    before = page.inner_text("#dimension-title")
    page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.9)
    page.wait_for_function("(t) => document.getElementById('dimension-title').textContent !== t", arg=before)
    assert page.locator("#dimension-up li").count() > 0
    dimension = page.locator("#type-dimension option:checked").inner_text()
    assert page.inner_text("#dimension-title").startswith(f"Dimension {dimension} and cluster")
    expected = page.evaluate(
        "(d) => { const g = data.types.of_dimension[d]; return [g.up[0][0], g.down[0][0]] }", int(dimension)
    )
    assert {page.inner_text("#dimension-up li >> nth=0"), page.inner_text("#dimension-down li >> nth=0")} == set(
        expected
    )


def test_the_slider_lights_converted_cells(opened, report_folder):
    page = opened(report_folder)
    pair = "data.changes.pairs[Number(document.getElementById('change-target').value)]"
    converted = page.evaluate(f"{pair}.converted.map((c) => c.length)")
    start = page.evaluate(f"{pair}.start")
    assert page.input_value("#change-step") == str(start)
    assert converted[0] != converted[start]  # else the test would see nothing
    assert drawn(page, "change-map")[2:] == [converted[start]] * 2  # where they were, and where they moved
    assert page.evaluate("document.getElementById('change-map').data[3].marker.symbol") == "triangle-up"
    for step in {0, len(converted) - 1} - {start}:
        page.locator("#change-step").focus()
        page.keyboard.press("Home" if step == 0 else "End")
        assert drawn(page, "change-map")[2:] == [converted[step]]
    page.locator("#change-step").focus()
    page.keyboard.press("End")
    assert page.inner_text("#change-value") == "1.5"
    page.select_option("#change-target", label="Pre-endocrine")
    assert "Pre-endocrine" in page.inner_text("#change-map-caption")


def test_an_empty_result_is_a_sentence_not_an_empty_figure(opened, report_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(report_folder, copy)
    sets = copy / "perturbation" / "tables" / "minimal_sets.csv"
    table = pd.read_csv(sets)
    table[table["target"] != "Epsilon"].to_csv(sets, index=False)
    report.write(copy)
    page = opened(copy)
    for target, is_empty in (("Epsilon", True), ("Pre-endocrine", len(table[table["target"] == "Pre-endocrine"]) == 0)):
        page.select_option("#change-target", label=target)
        assert page.is_visible("#change-empty") == is_empty
        assert page.is_visible("#change-counts") == page.is_visible("#change-minimal") == (not is_empty)
    page.select_option("#change-target", label="Epsilon")
    assert "What to do: " in page.inner_text("#change-empty")


def test_links_of_a_chosen_cell_are_drawn(opened, report_folder):
    page = opened(report_folder)
    last = page.locator("#link-cell option").last.get_attribute("value")
    page.select_option("#link-cell", last)
    told = page.inner_text("#link-note")
    ends = "[typed(data.links.a, Uint32Array), typed(data.links.b, Uint32Array)]"
    first, second = page.evaluate(f"{ends}.map((list) => [...list])")
    n = sum(int(last) in pair for pair in zip(first, second, strict=True))
    assert f": {n} links" in told


def test_links_and_fates_have_legends(opened, report_folder):
    page = opened(report_folder)
    types = page.evaluate("(data.cells.groups.find((g) => g.key === data.links.groupby)).names")
    named = page.locator("#link-legend bdi").all_inner_texts()
    assert named == [*types, "chosen cell", "new link", "edge of the input graph"]
    named = page.locator("#fate-legend bdi").all_inner_texts()
    assert named[-3:] == ["uncommitted: no fate above the mean", "other cells", "called"]
    assert all(name.startswith("towards ") for name in named[:-3])


def test_the_fate_map_draws_every_progenitor_and_the_bars_the_means(opened, report_folder):
    page = opened(report_folder)
    table = pd.read_csv(report_folder / "links" / "tables" / "fates.csv")
    calls = pd.read_csv(report_folder / "links" / "tables" / "commitment.csv")
    assert drawn(page, "fate-map")[:2] == [len(marker(page, "map-plot")) - len(calls), len(calls)]
    rings = page.evaluate("document.getElementById('fate-map').data[1].marker.line.width")
    assert sum(rings) == (calls["call"] != "uncommitted").sum()
    means = page.evaluate("document.getElementById('fate-bars').data[0].x")
    first = table[table["group"] == "all"].sort_values("probability", ascending=False)["probability"].to_numpy()
    shown = [p for i, p in enumerate(first) if i == 0 or p >= 0.01]
    assert means[: len(shown)] == pytest.approx(shown)
    assert page.locator("#fate-calls tbody tr").count() == len(calls)
    lead = page.locator("#fates .lead").inner_text()
    n_called = (calls["call"] != "uncommitted").sum()
    assert lead.startswith(f"{n_called} of {len(calls)} progenitors are committed")


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_figures_are_saved(opened, report_folder, kind):
    page = opened(report_folder)
    with page.expect_download() as download:
        page.click(f"[data-save=change-curve][data-format={kind}]")
    content = download.value.path().read_bytes()
    assert content.startswith(b"\x89PNG" if kind == "png" else b"<svg")
    assert len(content) > 5_000


def test_tables_are_saved(opened, report_folder):
    page = opened(report_folder)
    with page.expect_download() as download:
        page.click("[data-csv=clusters]")
    lines = download.value.path().read_text(encoding="utf-8-sig").splitlines()
    assert lines[0].startswith("cluster,cells,cell type")
    assert len(lines) == 1 + n_clusters(report_folder)


def test_dark_and_light(opened, report_folder):
    page = opened(report_folder, color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.click("#theme")
    assert page.evaluate(paper) == "rgb(255, 255, 255)" != dark


def test_figures_have_keys_and_no_way_out_of_the_page(opened, report_folder):
    page = opened(report_folder)
    # four methods, the judge, the random directions, and stars if a step is beyond chance
    pair = "data.changes.pairs[Number(document.getElementById('change-target').value)]"
    stars = page.evaluate(f"{pair}.q_value.some((q) => q !== null && q <= data.changes.max_q)")
    assert page.locator("#change-curve .legendtext").count() == 6 + stars
    assert page.locator("#curves-1 .legendtext").count() == 10  # five terms
    titles = page.locator(".modebar-btn").evaluate_all("(all) => all.map((b) => b.dataset.title)")
    assert titles
    assert not [t for t in titles if "hare" in t or "loud" in t or "dit in" in t]


def test_spreadsheets_run_nothing(opened, report_folder):
    page = opened(report_folder)
    page.evaluate("rows('link-pairs', [['=1+1', \"-2+3+cmd|' /C calc'!A0\", -1.5, '+1+HYPERLINK(1)', 'a,b', '1e-5']])")
    with page.expect_download() as download:
        page.click("[data-csv=link-pairs]")
    text = download.value.path().read_text(encoding="utf-8-sig")
    assert text.splitlines()[1] == "'=1+1,'-2+3+cmd|' /C calc'!A0,-1.5,'+1+HYPERLINK(1),\"a,b\",1e-5"


def test_no_table_is_cut_at_the_right_edge(opened, report_folder):
    page = opened(report_folder)
    beyond = "(t) => [t.querySelector('table').id, t.scrollWidth - t.clientWidth]"
    tables = dict(page.evaluate(f"[...document.querySelectorAll('.table')].map({beyond})"))
    assert {"fate-table", "fate-calls", "change-minimal", "change-effects"} <= set(tables)
    assert {name: cut for name, cut in tables.items() if cut > 0} == {}


def test_a_fate_that_no_cell_leans_to_visibly_is_not_in_the_legend(opened, report_folder, tmp_path):
    text = (report_folder / "report.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    fates = data["fates"]["map"]
    codes, strength = (np.frombuffer(base64.b64decode(fates[k]), np.uint8).copy() for k in ("fate", "strength"))
    own = np.flatnonzero(codes < 254)
    codes[own], strength[own] = 0, 200
    codes[own[:5]], strength[own[:5]] = 1, 2
    new = {"fate": codes, "strength": strength}
    for key, values in new.items():
        text = text.replace(fates[key], base64.b64encode(values.tobytes()).decode())
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    said = opened(tmp_path).locator("#fate-legend bdi").all_inner_texts()
    assert [name for name in said if name.startswith("towards")] == [f"towards {fates['names'][0]}"]


def test_the_page_says_which_genes_are_left_out(opened, report_folder, tmp_path):
    text = (report_folder / "report.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])["genes"]
    n, silent = len(data["stored"]), data["n_silent"]
    assert f'"n_all": {n}, "n_silent": {silent}' in text
    text = text.replace(f'"n_all": {n}, "n_silent": {silent}', f'"n_all": {n + 1500}, "n_silent": 7')
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    said = opened(tmp_path).locator("#map-stored").inner_text()
    assert f"{n:,} of {n + 1500:,} expressed genes" in said
    assert "1,500 less variable ones are left out" in said
    assert "7 genes are left out because no drawn cell expresses them" in said


def test_a_phone_needs_no_sideways_scrolling(opened, report_folder):
    page = opened(report_folder, viewport={"width": 390, "height": 800})
    wide = "[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > 391)"
    wide += ".filter((e) => !e.closest('.table, nav, svg')).map((e) => e.outerHTML.slice(0, 80))"
    assert page.evaluate(wide) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_hostile_names_do_nothing(opened, hostile_report):
    page = opened(hostile_report)
    assert "owned" not in page.title()
    assert page.locator("img, main script, main b:not(strong)").count() == 0
    page.select_option("#colour-group", "diffvae_cell_type")
    page.locator("#legend button").first.click()
    page.evaluate("colourByGene(data.genes.stored[0].name)")
    page.wait_for_function(
        "document.getElementById('map-plot-caption').textContent.endsWith(data.genes.stored[0].name)"
    )
    page.locator("#map-plot").hover()
    assert "owned" not in page.title()
