"""The reproduction: the paper's numbers, what is measured beside them, and which claims then hold."""

import base64
import gzip
import html
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from _fish import SIZES, write_fish

import diffvae as dv
from diffvae.benchmark import _run, _tasks
from diffvae.benchmark._methods import as_methods
from diffvae.benchmark._tasks import as_cells
from diffvae.benchmark.reproduction import _training
from diffvae.benchmark.reproduction._claims import CLAIMS, evaluate, holds
from diffvae.benchmark.reproduction._page import Context, Section, _verdict, gene_lists, gene_recovery, page, summarised
from diffvae.benchmark.reproduction._reproduce import plan
from diffvae.benchmark.reproduction._subject import published, read_subject
from diffvae.datasets import _human_hsc

QUICK = {"n_latent": [4], "n_clusterings": 1, "progress": False}
PRESETS = ["paper", "code", "default"]


@pytest.fixture(scope="module")
def fish(tmp_path_factory):
    """Made-up cells in the published form, gone the whole road with two trainings and all figures."""
    folder = tmp_path_factory.mktemp("fish")
    write_fish(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_training, "N_RANDOM", 5)
        patch.setattr(_training, "PER_TARGET", 1)
        patch.setattr(_tasks, "N_ITER", 20)
        patch.setattr("diffvae.benchmark.reproduction._figures.MOST_TARGETS", 1)
        save = dv.pl.save
        patch.setattr(dv.pl, "save", lambda ax, path: save(ax, path, formats=["png"], dpi=40))
        asked = {"path": folder / "data", "n_trainings": 2, "max_epochs": 40, **QUICK}
        yield dv.benchmark.reproduce("zebrafish", folder / "out", command="the command", **asked), asked


def words(page, what="main"):
    """Return the text of the elements of a kind, or of the whole page."""
    return [
        " ".join(html.unescape(re.sub(r"<[^>]+>", " ", part)).split())
        for part in re.findall(rf"<{what}\b[^>]*>(.*?)</{what}>", page, re.S)
    ]


def lines(page):
    """Return the entries of each line of the tables."""
    return [
        [
            " ".join(html.unescape(re.sub(r"<[^>]+>", " ", entry)).split())
            for entry in re.findall(r"<t[hd]\b[^>]*>(.*?)</t[hd]>", line, re.S)
        ]
        for line in re.findall(r"<tr>(.*?)</tr>", page, re.S)
    ]


def test_published_numbers():
    sets = published()
    about = sets["zebrafish"]
    assert (about.n_cells, sum(about.types.values())) == (1422, 1422)
    assert sum(about.converted.values()) == 318
    assert len(about.ari) == 2 * 3 * 2 * 4
    entry = about.ari.set_index(["clusterer", "n_latent", "space", "method"])["ari"]
    assert entry["kmeans", 100, "latent", "DiffVAE"] == 0.844
    assert entry["dbscan", 20, "latent", "PCA"] == 0.0002
    assert entry["dbscan", 100, "tsne", "PCA"] == 0.570
    markers = dv.tl.load_markers("blood-zebrafish")  # the bundled table has those of Table 1, too
    for kind, genes in about.genes.items():
        known = markers[markers["cell_type"].str.startswith(kind.rstrip("s"))]
        assert set(genes) <= set(known["gene"])
    assert sets["pancreas"].overlap == 0.962
    assert not sets["human-hsc"].separable


def test_page_says_where_the_cells_are_not_the_papers(fish):
    page = fish[0].page
    (said,) = words(page)
    assert "116 cells x 42 genes were read; the paper has 1,422 x 1,845." in said
    assert "HSPC 30 instead of 245" in said
    assert "not byte for byte the published ones" in said
    listed = {line[1] for line in lines(page)}
    for genes in published()["zebrafish"].genes.values():  # the last gene of each type was left out
        assert [gene in listed for gene in genes] == [*[True] * (len(genes) - 1), False]
    assert "only as the image of Figure 3" in said
    assert "the command" in said
    assert "nan" not in said.lower().replace("published gene", "")


def test_published_stands_beside_ours(fish):
    found, _ = fish
    beside = [line[1] for line in lines(found.page) if line[0].endswith("Identifying high weight genes")]
    assert "89.9%" in beside
    sizes = {line[2] for line in lines(found.page) if line[1:2] == ["kmeans"]}
    assert sizes == {"4"}  # only what was asked for
    claims = found.claims.set_index("claim")
    assert claims.loc["Overlap of the clusters with the reference types", "published"] == "89.9%"
    assert claims.loc["The easiest target", "published"] == "Erythrocytes"
    assert claims.loc["DiffVAE's entries", "holds_here"] == "not testable"  # none has the paper's dimensions
    assert set(claims["holds_here"]) <= {"yes", "no", "not testable", "–"} | {
        v for v in claims["holds_here"] if v.startswith("only ")
    }


def test_tables_fit_together(fish):
    tables = fish[0].tables
    overlap = tables["overlap"]
    assert overlap[["preset", "training"]].values.tolist() == [[p, t] for t in (0, 1) for p in PRESETS]
    types = tables["types"]
    counted = (types["recall"] * types["n_cells"]).groupby([types["preset"], types["training"]]).sum() / sum(
        SIZES.values()
    )
    for row in overlap.itertuples():
        assert row.overlap == pytest.approx(counted[row.preset, row.training])
        assert row.expected > 0
        if row.preset != "default":  # whose 50 dimensions are more than the 42 genes, so that most are noise
            assert row.expected < row.overlap  # the planted types are found beyond chance
    conversions = tables["conversions"]
    assert set(conversions["n_sd"]) == {0.0, 0.5, 1.0}
    assert set(conversions["target"]) == set(SIZES) - {"HSPC"}
    assert set(conversions["preset"]) == set(PRESETS)
    keys = ["preset", "training", "target"]
    shifted = conversions[(conversions["method"] == "shift") & (conversions["n_sd"] == 1)].set_index(keys)[
        "n_converted"
    ]
    minimal = tables["minimal_genes"].set_index(keys)
    assert len(minimal) == len(shifted)
    assert (minimal["flipped"] <= minimal["converted"]).all()
    assert (minimal["converted"] <= shifted[minimal.index]).all()  # the genes belong to the same shift
    assert set(tables["links"]["preset"]) == {"paper", "default"}
    assert tables["link_figures"].set_index("preset").loc["default", "within_input"].min() > 0.5
    assert set(tables["table2_runs"]["method"]) >= {"DiffVAE", "DiffVAE (code)", "VAE", "AE", "PCA (unit)"}
    assert len(tables["table2_paired"]) == 3 * 3


def test_classifier_of_the_mature_types_stands_beside_ours(fish):
    found, _ = fish
    table = found.tables["classifier"].set_index(["types", "preset", "training"]).sort_index()
    assert len(table) == 2 * 3 * 2
    sizes = table.groupby("types")["n_test"].unique()
    assert sizes["with progenitors"].tolist() == [6 + 5 + 4 + 4 + 4]  # a fifth of each type
    assert sizes["mature types alone"].tolist() == [5 + 4 + 4 + 4]  # without the progenitors
    assert table.loc["mature types alone", "baseline"].tolist() == pytest.approx([5 / 17] * 6)
    # a classifier sees expression, so that the presets share the paper's and the page has it once
    numbers = ["n_test", "accuracy", "balanced_accuracy", "baseline"]
    assert (table.loc["mature types alone"].groupby("training")[numbers].nunique() == 1).all(axis=None)
    mean = table.loc["mature types alone", "accuracy"].mean()
    assert mean > 0.8
    rows = [line for line in lines(found.page) if line[0] in ("mature types alone", "with progenitors")]
    assert [row[:3] for row in rows] == [
        ["mature types alone", "all", "17.0 ± 0.0"],
        *(["with progenitors", preset, "23.0 ± 0.0"] for preset in PRESETS),
    ]
    assert rows[0][3].startswith(f"{mean:.3f} ± ")
    assert "the paper's task (Neutrophils, Monocytes, Erythrocytes, Thrombocytes)" in words(found.page)[0]


def test_a_single_mature_type_has_no_classifier(subject):
    one = replace(subject, published=None)
    one.adata.obs["two"] = np.where(one.adata.obs["cell_type"] == "HSPC", "HSPC", "other")
    jobs, keys = plan(replace(one, label_key="two"), 1, None, 0)
    del one.adata.obs["two"]
    assert not [key for key in keys if key[0] == "mature-types"]
    assert jobs


def test_folder(fish):
    found, _ = fish
    out = found.path
    summary = json.loads((out / "summary.json").read_text())
    assert summary["state"] == "complete"
    assert summary["dataset"] == "zebrafish"
    assert len(summary["claims"]) == len(found.claims)
    assert (out / "report.html").read_text() == found.page
    assert {file.stem for file in (out / "tables").iterdir()} == {*found.tables, "claims"}
    images = re.findall(r'width="\d{2,}" src="data:image/png;base64,([^"]+)"', found.page)
    assert [base64.b64decode(image) for image in images] == [(out / name).read_bytes() for name in summary["figures"]]
    assert all((out / figure).stat().st_size > 500 for figure in summary["figures"])
    drawn = {file.removeprefix("figures/").removesuffix(".png") for file in summary["figures"]}
    assert {
        "overlap",
        "conversions",
        "table2",
        "links",
        "figure4_paper",
        "figure4_default",
        "figure4b_default",
    } <= drawn
    assert {f"{kind}_{p}" for kind in ("map", "figure3") for p in PRESETS} <= drawn


def test_page_needs_no_other_file(fish):
    page = fish[0].page
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert set(re.findall(r'(?:src|href)="([^"#]{5})', page)) == {"data:"}  # and anchors
    anchors = re.findall(r'href="#([^"]+)"', page)
    assert {"claims", "setting", "tables", "figures", "made", "table-1"} <= set(anchors)
    assert all(page.count(f'id="{name}"') == 1 for name in anchors)
    assert "--accent" in page  # the style of the other pages


def test_names_on_the_page_are_text(fish, subject):
    found, _ = fish
    hostile = "<script>alert(1)</script>\u202e & co"
    cells = replace(subject, published=None, name=hostile, source=hostile)
    claims = found.claims.assign(paper=hostile)
    asked = {"n_trainings": 1, "max_epochs": 1}
    shown = page(Context(cells, found.tables, claims, [hostile], asked, {"diffvae": "1"}, command=hostile))
    assert "<script" not in shown
    assert "\u202e" not in shown
    assert shown.count("&lt;script&gt;alert(1)&lt;/script&gt; &amp; co") > len(claims)
    assert words(shown, "ul")[0].startswith("Trial run: at most 1 epoch per network")
    assert "<h2>Figures</h2>" not in shown


def test_page_counts_the_claims_that_hold():
    held = pd.DataFrame({"holds_here": ["yes", "yes", "only code", "no", "–", "not testable"]})
    said = "Of 5 claims with a rule, 2 hold with all presets, 1 with some, 1 with none"
    assert _verdict(held) == f"{said}; 1 could not be tested here."
    assert _verdict(held[:5]) == said.replace("5", "4", 1) + "."


def test_finished_parts_are_not_done_again(fish, monkeypatch):
    found, asked = fish

    def never(*_):
        raise AssertionError("done again")

    for name in ("train", "identify", "classify_mature", "run_perturbation", "run_links"):
        monkeypatch.setattr(_training, name, never)
    monkeypatch.setattr(_tasks, "train", never)
    monkeypatch.setattr("diffvae.benchmark.reproduction._reproduce.figures", lambda *_: {})
    again = dv.benchmark.reproduce("zebrafish", found.path, **asked)
    pd.testing.assert_frame_equal(again.claims, found.claims)
    for name, table in found.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], table)
    with pytest.raises(AssertionError, match="done again"):
        dv.benchmark.reproduce("zebrafish", found.path, **(asked | {"rng": 1}))


def clusters_of(genes, labelled=True):
    return {
        "clusters": ["0", "0", "1", "1"],
        "overlap": {} if labelled else None,
        "n_genes": 100,
        "genes": [
            {"cluster": c, "type": t, "reading": "weights", "per_dimension": each, "genes": names}
            for (c, t), names in genes.items()
            for each in (3, 20)
        ],
    }


def test_gene_recovery_by_hand(tmp_path):
    subject = read_subject("zebrafish", write_fish(tmp_path), None, None, None)
    results = {
        ("clusters", "paper", 0): clusters_of({("0", "HSPC"): ["cad", "lyz"], ("1", "Monocytes"): ["c1qc", "cad"]}),
        ("clusters", "paper", 1): clusters_of({("0", "HSPC"): ["other1", "other2"], ("1", ""): ["npsn"]}),
    }
    table = gene_recovery(gene_lists(results), results, subject).set_index(["type", "gene"])
    assert len(table) == 27
    cad = table.loc["HSPC", "cad"]
    assert (cad["found"], cad["n_trainings"], cad["found_wider"]) == (1, 2, 1)
    assert cad["expected"] == pytest.approx(4 / 100)  # lists of two genes in either training, out of a hundred
    assert cad["elsewhere"] == pytest.approx(1)  # one of the two lists of other clusters, in one other cluster each
    assert not table.loc["HSPC", "pcna"]["in_data"]
    assert table.loc["Neutrophils", "lyz"]["found"] == 0  # it was in the cluster of another type
    assert table.loc["Neutrophils", "lyz"]["expected"] == 0  # which has no cluster


def test_clusters_without_labels_are_known_by_their_cells(tmp_path):
    subject = read_subject("zebrafish", write_fish(tmp_path), None, None, None)
    results = {
        ("clusters", "paper", 0): clusters_of({("0", ""): ["a"], ("1", ""): ["b"]}, labelled=False),
        ("clusters", "paper", 1): clusters_of({("0", ""): ["b"], ("1", ""): ["c"]}, labelled=False)
        | {"clusters": ["1", "1", "0", "0"]},
    }
    listed = gene_lists(results)
    second = listed[(listed["training"] == 1) & (listed["per_dimension"] == 3)]
    assert dict(zip(second["gene"], second["type"], strict=True)) == {"b": "cluster 1", "c": "cluster 0"}
    assert subject.published is not None


def test_holds():
    assert holds([True, True, None]) == "yes"
    assert holds([False, None, False]) == "no"
    assert holds([True, False, True]) == "only paper and default"
    assert holds([True, None, False]) == "only paper"
    assert holds([None, None, None]) == "not testable"


def test_summarised_by_hand():
    table = pd.DataFrame(
        {"type": "a|b", "preset": ["paper", "paper", "code"], "recall": [0.5, 0.7, None], "n": [10, 30, 7]}
    )
    across = summarised(Section("", "Shares.", table, ["type"], ["recall", "n"], ["preset"]))
    assert across.text == "Shares. Entries: recall / n."
    assert across.header == ["type", "paper", "code"]
    assert across.lines == [["a|b", "0.600 ± 0.141 / 20.0 ± 14.1", "– / 7.0"]]
    rows = summarised(Section("", "Shares.", table, ["type", "preset"], ["n"]))
    assert (rows.text, rows.n_keys) == ("Shares.", 2)
    assert rows.lines == [["a|b", "paper", "20.0 ± 14.1"], ["a|b", "code", "7.0"]]


def of(tables, subject):
    """Return the claims by name."""
    return evaluate(tables, subject).set_index("claim")


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return read_subject("zebrafish", write_fish(tmp_path_factory.mktemp("subject")), None, None, None)


def test_rule_of_the_overlap(subject):
    table = pd.DataFrame(
        {"preset": PRESETS, "overlap": [0.88, 0.878, 0.95], "expected": 0.3, "p_value": [0.01, 0.01, 0.2]}
    )
    held = of({"overlap": table}, subject)["holds_here"]
    assert held["Overlap of the clusters with the reference types"] == "only paper and default"  # 0.899 less 0.02
    assert held["Clusters of the map are the reference types beyond chance"] == "only paper and code"
    assert held["High-weight genes of the clusters"] == "not testable"


def test_claims_that_apply(subject):
    known = [one.claim for one in CLAIMS if one.when(subject)]
    assert len(known) == 18
    other = replace(subject, published=None)
    assert "The easiest target" not in of({}, other).index
    assert set(of({}, other)["published"]) == {""}
    most = of({}, other).loc["The type with the most predicted links of the progenitors (HSPC)"]
    assert (most["holds_here"], most["rule"].partition(":")[0]) == ("–", "no rule")
    # of other progenitors than the paper's there are no published conversions and links
    assert "The easiest target" not in of({}, replace(subject, source="Monocytes")).index


def test_rule_of_the_genes(subject):
    rows = [("default", "weights", 2, True), ("default", "weights", 2, True), ("default", "weights", 0, True),
            ("default", "weights", 0, False), ("paper", "weights", 1, True)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["preset", "reading", "found", "in_data"]).assign(n_trainings=2, expected=0.1)
    claim = of({"gene_recovery": table}, subject).loc["High-weight genes of the clusters"]
    assert claim["default"] == "2 of 3 (each is found in 67% of the trainings, by chance 5%)"
    assert claim["paper"].startswith("0 of 1")  # one of two trainings is not more than half
    assert claim["code"] == "–"
    assert claim["holds_here"] == "only default"


def conversions(shares, source="HSPC"):
    rows = [
        {"preset": "default", "training": 0, "source": source, "target": t, "method": "shift", "n_sd": step,
         "converted": share * step, "converted_at_0": 0.0, "q_value": 0.01}
        for t, share in shares.items() for step in (0.0, 0.5, 1.0)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def classifiers(mature, every):
    rows = [("mature types alone", 17, mature, 0.29), ("with progenitors", 23, every, 0.26)]
    return pd.DataFrame(rows, columns=["types", "n_test", "accuracy", "baseline"]).assign(preset="default", training=0)


MATURE = "Accuracy of the classifier of the mature types"
WITH_PROGENITORS = "The same with the progenitors as a type, which the conversions need"


def test_rules_of_the_classifiers(subject):
    held = of({"classifier": classifiers(0.991, 0.97)}, subject)
    assert held.loc[MATURE, "default"] == "99.1% (17 held-out cells; always the most frequent type: 29.0%)"
    assert held.loc[WITH_PROGENITORS, "default"] == "97.0% (23 held-out cells; always the most frequent type: 26.0%)"
    assert held["holds_here"][[MATURE, WITH_PROGENITORS]].tolist() == ["yes", "no"]  # 99.5 % less 0.5 %
    assert held["published"][[MATURE, WITH_PROGENITORS]].tolist() == ["99.5%", ""]
    held = of({"classifier": classifiers(0.989, 0.991)}, subject)["holds_here"]
    assert held[[MATURE, WITH_PROGENITORS]].tolist() == ["no", "yes"]
    only_ours = classifiers(0.991, 0.97).query("types == 'with progenitors'")
    assert of({"classifier": only_ours}, subject).loc[MATURE, "holds_here"] == "not testable"
    # the paper has no accuracy for other cells, so that there is no verdict
    others = of({"classifier": classifiers(0.991, 0.97)}, replace(subject, published=None))
    found = others.loc[["Accuracy of the classifier of all types but the progenitors (HSPC)", WITH_PROGENITORS]]
    assert found["holds_here"].tolist() == ["–", "–"]
    assert found["default"].str[:5].tolist() == ["99.1%", "97.0%"]


def test_mature_types(subject):
    assert set(subject.mature) == set(SIZES) - {"HSPC"}
    # of the paper's cells they are known, whatever is perturbed
    assert set(replace(subject, source="Monocytes").mature) == set(SIZES) - {"HSPC"}
    assert set(replace(subject, source="Monocytes", published=None).mature) == set(SIZES) - {"Monocytes"}


def test_rules_of_the_changes(subject):
    # the made-up cells have 30 HSPC, the paper 245: shares are compared
    near = {"Erythrocytes": 0.65, "Monocytes": 0.3, "Thrombocytes": 0.3, "Neutrophils": 0.05}
    minimal = pd.DataFrame(
        {"preset": "default", "target": ["Erythrocytes", "Thrombocytes", "Monocytes"], "flipped": 9, "converted": 9,
         "most_n_genes": [25.0, 42.0, 30.0], "median_n_genes": [3.0, 21.0, 9.0]}
    )  # fmt: skip
    tables = {
        "conversions": conversions(near),
        "minimal_genes": minimal,
        "classifier": classifiers(0.991, 0.97),
    }
    held = of(tables, subject)["holds_here"]
    assert held["How many HSPC convert at lambda = 1, by target"] == "yes"
    assert held["The easiest target"] == "yes"
    assert held["Most genes that a cell needs to become Erythrocytes"] == "yes"
    assert held["Genes with which half of the cells become Thrombocytes"] == "no"
    assert held["Share of the genes that is needed to become Monocytes"] == "yes"  # 30 of 42
    held = of({"conversions": conversions(near | {"Monocytes": 0.9})}, subject)["holds_here"]
    assert held["How many HSPC convert at lambda = 1, by target"] == "no"
    assert held["The easiest target"] == "no"
    held = of({"conversions": conversions(dict.fromkeys(near, 0.0))}, subject)["holds_here"]
    assert held["A larger shift converts more cells"] == "no"


def test_rules_of_table_2(subject):
    told = published()["zebrafish"].ari
    runs = told.assign(dataset="zebrafish", seed=0, clustering_seed=0, k_given=True)
    runs["method"] = runs["method"].replace({"PCA": "PCA (unit)"})
    names = [
        "DiffVAE's entries",
        "DiffVAE clusters better than VAE, AE and PCA",
        "Clusters of the t-SNE map are better than those of the latent",
    ]
    found = of({"table2_runs": runs}, subject).loc[names]
    assert found["default"].iloc[0] == "12 of 12 entries"
    assert found["holds_here"].tolist() == ["yes", "yes", "yes"]  # as in the paper's own table
    assert found["paper"].iloc[1] == "–"
    worse = runs.assign(ari=runs["ari"] - 0.1 * (runs["method"] == "DiffVAE"))
    assert of({"table2_runs": worse}, subject).loc[names[:2], "holds_here"].tolist() == ["no", "no"]


def test_rules_of_the_links(subject):
    pairs = [
        ("HSPC", "HSPC", 10),
        ("HSPC", "Erythrocytes", 30),
        ("HSPC", "Monocytes", 5),
        ("Erythrocytes", "Erythrocytes", 90),
    ]
    rows = [
        {"preset": "default", "training": 0, "graph": "diffvae_called_links", "type_1": a, "type_2": b, "n_links": n,
         "log2_ratio": 0.0, "q_value": 0.5}
        for a, b, n in [*pairs, ("Erythrocytes", "Erythrocytes", 90), ("Monocytes", "Monocytes", 20)]
    ]  # fmt: skip
    figures = pd.DataFrame({"preset": ["default"], "within_predicted_by_type": [0.8], "within_pearson_by_type": [0.7]})
    names = [
        "Predicted links show better-defined clusters than co-expression",
        "Progenitors (HSPC) do not cluster together well",
        "The type with the most predicted links of the progenitors (HSPC)",
    ]
    found = of({"links": pd.DataFrame(rows), "link_figures": figures}, subject).loc[names]
    assert found["holds_here"].tolist() == ["yes", "yes", "yes"]
    # 10 of 45 links of HSPC are among themselves, of Erythrocytes 90 of 120
    assert found["default"].iloc[1].startswith("22% of")
    none = of({"links": pd.DataFrame(rows).assign(n_links=0)}, subject).loc[names[2]]
    assert (none["default"], none["holds_here"]) == ("no links", "no")


def test_cells_without_labels(tmp_path, monkeypatch):
    monkeypatch.setattr("diffvae.tl._cluster.RESOLUTIONS", (0.3, 1.0))
    counts = np.random.default_rng(0).poisson(5, (30, 60)) + 1
    lines = [",".join(['""', *(f'"X{i}"' for i in range(60))])]
    lines += [",".join([f'"G{i} (ENSG{i:011d})"', *map(str, row)]) for i, row in enumerate(counts)]
    with gzip.open(tmp_path / next(iter(_human_hsc.SOURCES)), "wt") as file:
        file.write("\n".join(lines) + "\n")
    found = dv.benchmark.reproduce("human-hsc", path=tmp_path, n_trainings=1, max_epochs=2, **QUICK)
    assert found.claims["claim"].iloc[0] == "The representation does not display separable clusters"
    assert found.tables["conversions"].empty
    assert found.tables["table2_runs"].empty
    assert "These cells have no labels" in found.page
    titles = words(found.page, "h3")
    assert "Clusters and reference types (Figure 1)" in titles
    assert not [title for title in titles if title.startswith(("Types", "Conversions", "Comparison", "Links"))]
    assert found.path is None


@pytest.mark.parametrize(
    ("dataset", "options", "sentence"),
    [
        ("zebrafish", {"path": "nowhere"}, r"can't be reproduced without its cells.*GE_mvg.csv.*--path FOLDER"),
        ("goldfish", {}, r"neither one of the paper's sets \(zebrafish, pancreas, human-hsc\) nor a file"),
        ("cells", {}, "label_key is missing"),
        ("cells", {"label_key": "kind"}, r"adata.obs\['kind'\] is missing"),
        ("cells", {"label_key": "cell_type", "source": "nobody"}, "'nobody' is not a type"),
        ("cells", {"label_key": "cell_type", "path": "x"}, "path is for the sets"),
        ("cells", {"label_key": "cell_type", "n_trainings": 0}, "n_trainings is 0"),
        ("cells", {"label_key": "cell_type", "max_epochs": 0}, "max_epochs is 0"),
    ],
)
def test_refuses_before_anything_is_written(dataset, options, sentence, tmp_path):
    if dataset == "cells":
        dataset = dv.datasets.simulate_differentiation(60, 40, tree={"stem": ["red", "white"]})
    with pytest.raises(ValueError, match=sentence):
        dv.benchmark.reproduce(dataset, tmp_path / "out", **(QUICK | options))
    assert not (tmp_path / "out").exists()


def test_foreign_folder(tmp_path):
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(ValueError, match="holds files that diffvae did not write"):
        dv.benchmark.reproduce("zebrafish", tmp_path, **QUICK)


def test_every_part_has_a_key_of_its_own(subject):
    jobs, keys = plan(subject, 2, None, 0)
    assert len(keys) == 2 * (3 + 3 + 2 + 1)
    assert all(jobs[key].keep for key in keys.values())
    assert len(set(keys.values())) == len(keys)
    other = plan(subject, 2, 5, 0)[1]
    assert not set(other.values()) & set(keys.values())


def test_trainings_are_those_of_the_comparison(subject):
    cells = as_cells({"fish": subject.adata}, "cell_type", (), None)
    asked = _run.Plan(("kmeans",), ("latent",), (True,), 1, ("ari",), None)
    jobs, _, _ = _run.plan_jobs(cells, as_methods(["PCA"]), [4], 2, asked, 7)
    seeds = [job.arguments[0] for key, job in jobs.items() if key.endswith("prepared")]
    assert seeds == [_run.training_seed(7, number) for number in range(2)]
