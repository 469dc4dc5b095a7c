import base64
import json
import re
import shutil
import zlib

import anndata as ad
import markupsafe
import numpy as np
import pandas as pd
import pytest
from _report_data import HOSTILE
from matplotlib.colors import to_hex
from scipy import sparse

import diffvae as dv
from diffvae import report
from diffvae._core.io import read
from diffvae.pp import DataError
from diffvae.report import _changes, _encode, _fates, _links, _made, _map, _page, _types
from diffvae.report._folder import Folder


def data_of(text):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found.group(1))


def test_a_run_writes_its_page(report_folder):
    text = (report_folder / "report.html").read_text(encoding="utf-8")
    found = data_of(text)
    assert set(found) == {"cells", "genes", "types", "changes", "fates", "links", "made"}
    assert [
        text.count(f'<section id="{s}">') for s in ("found", "map", "types", "changes", "fates", "links", "made")
    ] == [1] * 7
    assert len(text) < 6.5e6  # 4.8 million of them are the drawing library


def test_the_page_asks_nothing_of_the_network(report_folder):
    text = (report_folder / "report.html").read_text(encoding="utf-8")
    addresses = set(re.findall(r"https?://[^\s\"'`<>\\)]+", text))
    assert {a.split("/")[2] for a in addresses} == {"www.w3.org"}  # names of XML dialects; nobody asks for them
    assert "default-src 'none'" in text
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=\"(?!data:,)", text)


def test_what_the_page_says_is_what_the_tables_say(report_folder):
    text = (report_folder / "report.html").read_text(encoding="utf-8")
    summary = json.loads((report_folder / "summary.json").read_text())
    assert f"of the {len(summary['clusters'])} clusters" in text
    for sentence in [*summary["warnings"], *summary["verdict"], *summary["diagnosis"]["messages"]]:
        assert _encode.Markup.escape(sentence) in text
    found = data_of(text)
    clusters = pd.read_csv(report_folder / "tables" / "clusters.csv", dtype={"cluster": str})
    by_key = {g["key"]: g for g in found["cells"]["groups"]}
    assert by_key["diffvae_cluster"]["sizes"] == clusters["n_cells"].tolist()
    table = pd.read_csv(report_folder / "tables" / "latent_dimensions.csv")
    first = table[(table["group"] == 0) & (table["dimension"] == found["types"]["dimensions"][0])]
    assert found["types"]["share"][0][0] == pytest.approx(first["share"].item(), abs=1e-4)


def test_each_step_lights_as_many_cells_as_the_curve_says(report_folder):
    found = data_of((report_folder / "report.html").read_text(encoding="utf-8"))["changes"]
    assert [p["target"] for p in found["pairs"]] == ["Pre-endocrine", "Epsilon"]
    for pair in found["pairs"]:
        lit = [len(rows) / pair["n_cells"] for rows in pair["converted"]]
        assert lit == pytest.approx(pair["curves"]["mean"], abs=1e-4)
        assert len(pair["cells"]) == pair["n_cells"]
        moved = [pair["cells"][i] for i in pair["converted"][pair["start"]]]  # converted cells move, others stay
        assert [cell for cell, _, _ in pair["placed"]] == moved
    assert max(len(rows) for p in found["pairs"] for rows in p["converted"]) > 0


def test_the_slider_starts_where_the_table_of_targets_says(report_folder):
    found = data_of((report_folder / "report.html").read_text(encoding="utf-8"))["changes"]
    table = pd.read_csv(report_folder / "perturbation" / "tables" / "targets.csv").set_index("target")
    assert (found["unit"], found["default"]) == ("step", "mean")
    for pair in found["pairs"]:
        row = table.loc[pair["target"]]
        assert found["steps"][pair["start"]] == row["step"]
        assert pair["reached"] == row["reached"]
        for name in ("judged", "nearest"):
            assert pair[name][pair["start"]] == pytest.approx(row[name], abs=1e-4)
        assert f"{row['route']:.1f} times the straight line" in pair["way"]
        assert bool(pair["empty"]) == (row["n_flipped"] == 0)


def in_sd(folder):
    """Make a perturbation one of an earlier version: in standard deviations, without a judge and without ways."""
    tables = folder / "tables"
    for name in ("conversions", "targets"):
        table = pd.read_csv(tables / f"{name}.csv")
        table["n_sd"] = 2 * table["step"]
        new = ("step", "judged", "nearest", "reached", "route", "passes", "earlier")
        table.drop(columns=[c for c in new if c in table]).to_csv(tables / f"{name}.csv", index=False)
    cells = pd.read_csv(tables / "resistance.csv", keep_default_na=False, dtype=str)
    doubled = [", ".join(f"{2 * float(s):g}" for s in text.split(", ") if s) for text in cells["converted_at"]]
    cells.assign(converted_at=doubled).to_csv(tables / "resistance.csv", index=False)
    for name, column in (("effects", "log_effect"), ("minimal_genes", "mean_log_change")):
        pd.read_csv(tables / f"{name}.csv").drop(columns=column).to_csv(tables / f"{name}.csv", index=False)
    summary = json.loads((folder / "summary.json").read_text())
    summary["parameters"]["n_sd"] = [2 * s for s in summary["parameters"].pop("step")]
    (folder / "summary.json").write_text(json.dumps(summary))


def test_a_perturbation_of_an_earlier_version_is_shown(report_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(report_folder, copy)
    in_sd(copy / "perturbation")
    report.write(copy)
    old, new = (data_of((f / "report.html").read_text(encoding="utf-8"))["changes"] for f in (copy, report_folder))
    assert (old["unit"], old["steps"]) == ("n_sd", [2 * s for s in new["steps"]])
    for before, now in zip(old["pairs"], new["pairs"], strict=True):
        assert before["converted"] == now["converted"]
        assert before["start"] == now["start"]
        assert (before["judged"], before["nearest"], before["reached"], before["way"]) == (None, None, None, "")
        assert [row[0] for row in before["minimal"]] == [row[0] for row in now["minimal"]]


def conversions(*converted):
    steps = pd.Index([0.0, 0.5, 1.0, 1.5][: len(converted)])
    return pd.DataFrame({"converted": converted, "n_cells": 20}, index=steps)


@pytest.mark.parametrize(
    ("converted", "options", "said"),
    [
        ((0, 0, 0), {}, 'The classifier calls no cell of A B at any step up to 1 of the distance between the types, so '
         'no genes are searched. What to do: try larger steps (step=[1.5, 2]), or a source nearer to B.'),
        ((0, 0.25, 0.5, 0), {}, "10 cells become B, but no set of genes alone does it."),
        ((0.5, 0.5), {}, "10 cells of A are called B before any step, and no more after it"),
        ((0, 0.5), {"restrict": "3 genes"}, "10 cells become B, but no set of genes alone does it. What to do: let "
         "other genes change as well, by a longer list or without restrict."),
        ((0, 0.5), {"direction": "up"}, "What to do: let genes change in both directions, without direction."),
        ((0, 0.5), {}, 'What to do: try larger steps (step=[0.75, 1]), or a source nearer to B.'),
    ],
)  # fmt: skip
def test_an_empty_result_says_why_and_what_to_do(converted, options, said):
    assert said in _changes._why_empty(conversions(*converted), "step", options, "A", "B")


def test_an_empty_result_in_the_unit_of_the_paper():
    said = _changes._why_empty(conversions(0, 0), "n_sd", {}, "A", "B")
    assert "any step up to 0.5 sd, so no genes are searched. What to do: try larger steps (n_sd=[0.75, 1])" in said


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, ""),
        ({"route": np.nan, "passes": ""}, ""),
        ({"route": 3.04, "passes": "Pre"}, "The shortest way through cells that exist is 3.0 times the straight line, "
         "through Pre."),
        ({"route": 1.2, "passes": "", "earlier": False}, "The shortest way through cells that exist is 1.2 times the "
         "straight line."),
        ({"route": np.inf, "passes": "", "earlier": np.True_}, "No way leads there through cells that exist. B is "
         "earlier than the source: this means going back."),
    ],
)  # fmt: skip
def test_ways_in_words(row, said):
    assert _changes._way(row, "B") == said


def test_links_of_the_page_are_the_called_links(report_folder):
    found = data_of((report_folder / "report.html").read_text(encoding="utf-8"))
    called = pd.read_csv(report_folder / "links" / "tables" / "called_links.csv")
    links, names = found["links"], found["cells"]["names"]
    assert links["n_edges"] == links["n_called"] == len(called)
    a = np.frombuffer(base64.b64decode(links["a"]), "<u4")
    b = np.frombuffer(base64.b64decode(links["b"]), "<u4")
    drawn = {frozenset((names[i], names[j])) for i, j in zip(a, b, strict=True)}
    assert drawn == {frozenset(pair) for pair in zip(called["cell_1"], called["cell_2"], strict=True)}
    assert links["types"][0]["from"] == 0
    assert links["types"][-1]["to"] == links["input"]["bins"]


def test_fates_of_the_page_are_those_of_the_table(report_folder):
    text = (report_folder / "report.html").read_text(encoding="utf-8")
    fates = data_of(text)["fates"]
    table = pd.read_csv(report_folder / "links" / "tables" / "fates.csv")
    assert [group["name"] for group in fates["groups"]] == list(dict.fromkeys(table["group"]))
    drawn = {(g["name"], f[0]): f[2:] for g in fates["groups"] for f in g["fates"]}
    for row in table.itertuples():
        assert drawn[row.group, row.type] == pytest.approx([row.probability, row.se, row.pca, row.null, row.null_sd])
    for group in fates["groups"]:
        means = [fate[2] for fate in group["fates"]]
        assert means == sorted(means, reverse=True)
    cells = ad.read_h5ad(report_folder / "links" / "cells.h5ad")
    stored, source = cells.obsm["diffvae_fates"], json.loads((report_folder / "links" / "summary.json").read_text())
    fate = np.frombuffer(base64.b64decode(fates["map"]["fate"]), "u1")
    assert (fate == _fates.OTHER).tolist() == np.isnan(stored).any(axis=1).tolist()
    above = stored - np.nanmean(stored, axis=0)
    for i in np.flatnonzero(fate < _fates.NONE):
        assert above[i, fate[i]] > 0
    assert (above[fate == _fates.NONE] <= 1e-9).all()
    first = source["fates_verdict"][0]
    section = text[text.index('<section id="fates">') : text.index('<section id="links">')]
    assert section.index(markupsafe.escape(first)) < section.index("<p>A call says")
    assert first not in text[text.index('<section id="links">') :].split("</section>")[0]


def test_calls_of_an_earlier_version_without_fates_are_shown(report_folder, tmp_path):
    shutil.copytree(report_folder, tmp_path / "out")
    (tmp_path / "out" / "links" / "tables" / "fates.csv").unlink()
    summary = json.loads((tmp_path / "out" / "links" / "summary.json").read_text())
    said = summary.pop("fates_verdict")
    (tmp_path / "out" / "links" / "summary.json").write_text(json.dumps(summary))
    text = dv.report.page(tmp_path / "out")
    fates = data_of(text)["fates"]
    assert fates["map"] is None
    assert len(fates["progenitors"]) == 67
    assert text.count(str(markupsafe.escape(said[0]))) == 1  # with the sentences on links


def test_fates_that_do_not_fit_the_cells_leave_the_section_out_with_a_warning(report_folder, tmp_path):
    shutil.copytree(report_folder, tmp_path / "out")
    file = tmp_path / "out" / "links" / "cells.h5ad"
    cells = ad.read_h5ad(file)
    cells.obsm["diffvae_fates"] = np.zeros((cells.n_obs, 7))
    cells.write_h5ad(file)
    text = dv.report.page(tmp_path / "out")
    assert {"links", "fates"}.isdisjoint(data_of(text))
    assert "links is not shown: it is damaged" in text


def test_the_command_makes_it_again(report_folder):
    (text,) = _made.commands(Folder.open(report_folder))
    assert text.startswith("diffvae run --out demo --n-latent 10 ")
    assert "--source 'Ngn3 high EP' --target Pre-endocrine --target Epsilon" in text
    assert "batch-size" not in text  # the usual


def test_a_part_made_later_has_a_command_of_its_own(report_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(report_folder, copy)
    dv.pipeline.perturb(copy, source="Ngn3 high EP", target=["Epsilon"], n_random=5, overwrite=True, progress=False)
    run, perturb = _made.commands(Folder.open(copy))
    assert run == _made.commands(Folder.open(report_folder))[0]
    assert perturb == "diffvae perturb copy --overwrite --source 'Ngn3 high EP' --target Epsilon --n-random 5"


def test_cells_in_memory_have_no_command(hostile_report):
    assert _made.commands(Folder.open(hostile_report)) == []
    assert "given in memory" in (hostile_report / "report.html").read_text(encoding="utf-8")


def test_what_an_older_version_wrote_is_refused_or_told(report_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(report_folder, copy)
    table = pd.read_csv(copy / "perturbation" / "tables" / "resistance.csv")
    table.drop(columns="converted_at").to_csv(copy / "perturbation" / "tables" / "resistance.csv", index=False)
    report.write(copy)
    page = (copy / "report.html").read_text(encoding="utf-8")
    sentence = "resistance.csv' lacks the column 'converted_at'); run 'diffvae perturb' again"
    assert str(_encode.Markup.escape(sentence)) in page
    summary = json.loads((copy / "summary.json").read_text())
    (copy / "summary.json").write_text(json.dumps({k: v for k, v in summary.items() if k != "clustering"}))
    with pytest.raises(DataError, match="summary has no clustering"):
        report.write(copy)


def test_a_later_part_renews_the_page(report_folder, tmp_path, no_figures):
    copy = tmp_path / "copy"
    shutil.copytree(report_folder, copy)
    shutil.rmtree(copy / "links")
    report.write(copy)
    assert "links" not in data_of((copy / "report.html").read_text(encoding="utf-8"))
    dv.pipeline.links(copy, max_epochs=3, progress=False)
    assert "links" in data_of((copy / "report.html").read_text(encoding="utf-8"))


def test_hostile_names_are_text(hostile_report):
    text = (hostile_report / "report.html").read_text(encoding="utf-8")
    assert "<script>document" not in text
    assert "<b>bold" not in text
    assert "<img src=x" not in text
    assert text.count("<script") == 11
    found = data_of(text)
    assert _encode.short(HOSTILE[0]) in [g["name"] for g in found["genes"]["stored"]]
    assert max(len(n) for n in found["cells"]["names"]) <= _encode.MAX_NAME
    assert not any(c in name for name in found["cells"]["names"] for c in "\u202e\u2067\n\t")


def test_a_folder_that_is_no_result_is_refused(tmp_path, diffvae):
    with pytest.raises(DataError, match=r"holds no summary\.json"):
        report.write(tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(DataError, match="can't be read"):
        report.write(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    code, _, err = diffvae("report", tmp_path)
    assert code == 2
    assert "holds no results.h5ad" in err
    (tmp_path / "summary.csv").write_text("\n")
    assert Folder.open(tmp_path).table("summary") is None
    (tmp_path / "summary.csv").unlink()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["summary.json"]


def test_the_command_line_writes_where_it_is_told(report_folder, tmp_path, diffvae):
    code, out, _ = diffvae("report", report_folder, "--out", tmp_path / "page.html")
    assert code == 0
    assert "page.html" in out
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == (report_folder / "report.html").read_text(
        encoding="utf-8"
    )


def test_thinning_keeps_what_is_sparse_and_counts_what_is_left_out():
    rng = np.random.default_rng(0)
    crowd, rare = rng.normal(size=(50_000, 2)), rng.normal(size=(40, 2)) * 0.3 + 30
    rows, weight = _map.thin(np.r_[crowd, rare], 5_000)
    assert 4_000 < len(rows) <= 5_000
    assert weight.sum() == pytest.approx(50_040)
    assert (rows >= 50_000).sum() == 40
    again = _map.thin(np.r_[crowd, rare], 5_000)[0]
    assert np.array_equal(rows, again)


def test_all_points_on_one_place_are_thinned_too():
    rows, weight = _map.thin(np.zeros((1_000, 2)), 10)
    assert len(rows) == 10
    assert weight.sum() == 1_000


def test_genes_are_stored_while_there_is_room(report_folder):
    cells = _map.Cells.of(read.read(report_folder / "results.h5ad"))
    shown = _types.shown(cells.adata)
    everything = _types.gene_data(cells, ["Gcg"], shown, 10**9)
    assert everything["stored"][0]["name"] == "Gcg"
    assert len(everything["stored"]) == everything["n_all"]
    few = _types.gene_data(cells, ["Gcg"], shown, 20_000)
    assert 0 < len(few["stored"]) < everything["n_all"] == few["n_all"]
    assert 18_000 < len(_encode.to_json(few["stored"])) <= 20_000
    assert few["stored"] == everything["stored"][: len(few["stored"])]


@pytest.mark.parametrize("form", [sparse.csr_matrix, np.asarray])
def test_every_expressed_gene_is_stored_those_of_tables_first_then_the_most_variable(form):
    x = np.zeros((6, 5), np.float32)
    x[:, 1], x[0, 2], x[:3, 3] = 3, 1, 2  # constant, rare, variable; "a" and "e" are silent
    adata = ad.AnnData(x[:, :2], var=pd.DataFrame(index=["a", "b"]), obsm={"X_diffvae_tsne": np.zeros((6, 2))})
    adata.raw = ad.AnnData(form(x), var=pd.DataFrame(index=[*"abcde"]))
    found = _types.gene_data(_map.Cells.of(adata), ["e", "missing"], _types.shown(adata), 10**6)
    assert [gene["name"] for gene in found["stored"]] == ["e", "d", "c", "b"]
    assert (found["n_all"], found["n_silent"]) == (4, 1)
    values = np.frombuffer(zlib.decompress(base64.b64decode(found["stored"][1]["values"])), np.uint8)
    assert values.tolist() == [255] * 3 + [0] * 3


def test_genes_fill_the_page_and_no_more(report_folder, monkeypatch):
    whole = dv.report.page(report_folder)
    most = len(whole.encode()) - 100_000
    monkeypatch.setattr(_page, "MAX_BYTES", most)
    text = dv.report.page(report_folder)
    assert most - 5_000 < len(text.encode()) <= most
    genes, everything = data_of(text)["genes"], data_of(whole)["genes"]
    assert len(everything["stored"]) == everything["n_all"] == genes["n_all"] > len(genes["stored"])


def figure_colours(adata, key):
    """Return the colours in the legend of a figure, which lists the largest groups first."""
    return [to_hex(handle.get_color()) for handle in dv.pl.tsne(adata, color=key).get_legend().legend_handles]


def page_colours(group):
    """Return the colours of the non-empty groups on the page in the same order."""
    of = zip(group["unassigned"], group["sizes"], group["colours"], strict=True)
    return [colour for _, size, colour in sorted(of, key=lambda g: (g[0], -g[1])) if size]


def by_name(group):
    return dict(zip(group["names"], group["colours"], strict=True))


def test_types_have_the_colours_of_the_figures(report_folder):
    adata = read.read(report_folder / "results.h5ad")
    data = data_of(dv.report.page(report_folder))
    groups = {group["key"]: group for group in data["cells"]["groups"]}
    assert set(groups) == {"cell_type", "diffvae_cell_type", "diffvae_cluster", "diffvae_commitment"}
    for key, group in groups.items():
        assert page_colours(group) == figure_colours(adata, key), key
    assert by_name(data["fates"]["map"]).items() <= by_name(groups["cell_type"]).items()


def test_a_label_and_a_name_that_are_equal_share_a_colour_on_page_and_figure():
    names = {"diffvae_cell_type": ["T", "unassigned", "B", "T"], "label": ["A", "B", "T", "A"], "place": [*"xyxy"]}
    obs = pd.DataFrame(names | {"diffvae_cluster": ["10", "9", "10", "9"]}, index=[*"abcd"])
    adata = ad.AnnData(np.ones((4, 1)), obs=obs, obsm={"X_diffvae_tsne": np.eye(4, 2), "X_diffvae": np.eye(4, 2)})
    groups = _map.data(_map.Cells.of(adata), "label", "place")["groups"]
    assert len(groups) == 4
    for group in groups:
        assert page_colours(group) == figure_colours(adata, group["key"]), group["key"]
    of = {group["key"]: by_name(group) for group in groups}
    assert of["label"]["B"] == of["diffvae_cell_type"]["B"]
    assert of["label"]["T"] == of["diffvae_cell_type"]["T"] == of["place"]["y"]  # the second of both
    assert len(set(of["label"].values())) == 3
    assert next(g["names"] for g in groups if g["key"] == "diffvae_cluster") == ["9", "10"]


def test_links_of_cells_that_are_not_drawn_are_counted(report_folder):
    adata = read.read(report_folder / "results.h5ad")
    whole, few = _map.Cells.of(adata), _map.Cells.of(adata, most=200)
    links = Folder.open(report_folder).part("links")
    found, part = _links.data(links, whole), _links.data(links, few)
    assert part["n_edges"] < part["n_called"] == found["n_edges"]
    degree = np.frombuffer(base64.b64decode(found["degree"]), "<u4")
    assert np.array_equal(np.frombuffer(base64.b64decode(part["degree"]), "<u4"), degree[few.rows])
    part, found = (_fates.data(links, which, {}) for which in (few, whole))
    assert len(part["progenitors"]) == len(found["progenitors"]) == 67


def test_steps_that_are_no_round_numbers_light_their_cells(report_folder):
    cells = _map.Cells.of(read.read(report_folder / "results.h5ad"))
    own = pd.DataFrame({"cell": cells.names[:2], "converted_at": ["0.333333, 0.3", ""]})
    found = _changes._converted(own, cells, [0.0, 0.1 * 3, 1 / 3])
    assert found["converted"] == [[], [0], [0]]


def test_shown_names_tell_apart_what_differs():
    long = ["a" * 40 + str(i) + "b" * 40 for i in range(3)]
    assert len(set(_encode.distinct(long))) == 3


def test_levels_keep_the_ends():
    found = _encode.levels(np.array([-1.0, 0.0, 3.0]))
    assert found.values.tolist() == [0, 64, 255]
    assert (found.low, found.high) == (-1.0, 3.0)
    assert _encode.levels(np.full(3, 2.0)).values.tolist() == [0, 0, 0]


def test_squares_of_a_drawn_graph_are_shares_of_their_pairs():
    graph = sparse.coo_matrix(np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]))
    found = _links._binned(graph, np.array([0, 1, 0, 1]))
    # ordered by type the cells are 0, 2, 1, 3: each is linked to one of the other type
    drawn = np.frombuffer(base64.b64decode(found["values"]), "<f4").reshape(4, 4) > 0
    assert drawn.tolist() == [[False, False, True, False], [False, False, False, True], [True, False, False, False],
                              [False, True, False, False]]  # fmt: skip
    assert found["n"] == 2


def test_a_run_without_labels_has_a_page(tmp_path, no_figures):
    cells = dv.datasets.simulate_differentiation(120, 60)
    result = dv.pipeline.run(
        cells, tmp_path / "out", markers={"red": cells.var_names[:2].tolist()}, n_clusters=3, cluster_method="kmeans",
        n_latent=2, max_epochs=2, links=False, progress=False,
    )  # fmt: skip
    assert result.scores is None
    assert (tmp_path / "out" / "report.html").is_file(), result.summary["warnings"]


def test_clusters_whose_number_was_not_chosen_have_a_page(report_folder, tmp_path, no_figures):
    options = {"cluster_method": "dbscan", "cluster_on": "tsne"}
    result = dv.pipeline.identify_again(report_folder, tmp_path / "out", **options)
    assert (tmp_path / "out" / "report.html").is_file(), result.summary["warnings"]
