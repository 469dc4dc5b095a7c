"""Links: what run(links=True) and links write, print and refuse."""

import json
from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import diffvae as dv
from diffvae import pipeline
from diffvae._errors import OutputError
from diffvae.pipeline import _folder, _links

QUICK = {"max_epochs": 10, "progress": False}
RUN = {"n_top_genes": None, "n_latent": 4, "max_epochs": 3, "n_clusters": 3, "cluster_method": "kmeans"}
RUN |= {"progress": False}
FIGURES = {"adjacency", "commitment", "fates", "history", "link_table", "links"}


@pytest.fixture(scope="module")
def cells():
    return dv.datasets.simulate_differentiation(160, 60, tree={"stem": ["red", "white"]}, n_drivers=16, rng=0)


@pytest.fixture(scope="module")
def found(fork_folder):
    """Links with all that is written of them, and the steps that were told."""
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:  # what pl.save writes is tested elsewhere
        patch.setattr(dv.pl, "save", lambda ax, path: ax.figure.savefig(path.with_suffix(".png"), dpi=40))
        return pipeline.links(fork_folder, source="stem", on_step=told.append, **QUICK), told


@pytest.fixture
def quick_figures(monkeypatch):
    """Figures are drawn, but only their names are saved."""
    monkeypatch.setattr(dv.pl, "save", lambda ax, path: path.with_suffix(".png").touch())


@pytest.fixture
def quick_steps(monkeypatch):
    """Without t-SNE, though there is a place for each cell, and with few graphs of the null."""

    def tsne(adata, *, key_added="X_diffvae_tsne", **options):
        adata.obsm[key_added] = np.zeros((adata.n_obs, 2))

    monkeypatch.setattr(dv.tl, "tsne", tsne)
    monkeypatch.setattr(dv.tl, "link_table", partial(dv.tl.link_table, n_null=20))


@pytest.fixture
def quick_training(monkeypatch, quick_steps):
    """Graph-DiffVAE as a run trains it, with few epochs."""
    monkeypatch.setattr(_links, "run_links", partial(_links.run_links, max_epochs=3))


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def tables(folder):
    return {file.stem: pd.read_csv(file) for file in (folder / "tables").iterdir() if file.suffix == ".csv"}


# What is written


def test_the_folder_holds_everything(found, fork_folder):
    links, told = found
    part = fork_folder / "links"
    assert links.path == part
    assert names(part) == ["cells.h5ad", "figures", "model", "summary.json", "tables"]
    assert names(part / "figures") == sorted(f"{name}.png" for name in FIGURES)
    assert all(file.stat().st_size > 1000 for file in (part / "figures").iterdir())
    written = tables(part)
    assert set(written) == {"called_links", "commitment", "commitment_types", "fates", "history", "link_table"}
    assert len(written["called_links"]) == len(links.called)
    assert written["called_links"].columns.tolist() == ["cell_1", "cell_2", "probability", "new"]
    assert set(written["link_table"]["graph"]) == {"cell_graph", "diffvae_called_links"}
    assert written["commitment"]["call"].tolist() == links.commitment["call"].tolist()
    assert len(written["commitment"]) == (links.adata.obs["cell_type"] == "stem").sum()
    assert len(written["commitment_types"]) == 2 * 2 * len(written["commitment"])
    assert len(written["history"]) == 10
    pd.testing.assert_frame_equal(written["fates"], links.fates, check_dtype=False)
    assert links.fates["group"].iloc[0] == "all"
    assert set(links.fates["type"]) == {"red", "white"}
    assert (told[0], told[-1]) == ("read", "write")
    assert names(fork_folder.parent) == ["out"]  # nothing half written beside it


def test_the_cells_have_their_graphs_and_no_expression(found, fork_folder):
    links, _ = found
    again = ad.read_h5ad(fork_folder / "links" / "cells.h5ad")
    assert again.n_vars == 0
    assert again.obs_names.equals(links.adata.obs_names)
    assert {"cell_graph", "diffvae_links", "diffvae_called_links"} <= set(again.obsp)
    assert {"X_diffvae_graph", "X_diffvae_link", "X_diffvae_graph_tsne", "X_diffvae_tsne"} <= set(again.obsm)
    own = (again.obs["cell_type"] == "stem").to_numpy()
    stored = again.obsm["diffvae_fates"]
    assert np.isfinite(stored).all(axis=1).tolist() == own.tolist()
    first = links.fates[links.fates["group"] == "all"].set_index("type")
    named = list(again.uns["diffvae"]["fates"]["names"])
    assert stored[own].mean(axis=0) == pytest.approx(first.loc[named, "probability"].to_numpy())
    assert (first["se"] > 0).all()
    assert (again.obsp["diffvae_links"] != links.adata.obsp["diffvae_links"]).nnz == 0
    assert again.uns["diffvae_links"]["connectivities_key"] == "diffvae_links"
    assert {"links", "link_table", "commitment", "commitment_types", "fates", "fate_table"} <= set(again.uns["diffvae"])
    assert again.obs["diffvae_commitment"].notna().sum() == (again.obs["cell_type"] == "stem").sum()


def test_the_model_comes_back(found, fork_folder):
    links, _ = found
    model = dv.model.load(fork_folder / "links" / "model")
    assert isinstance(model, dv.model.GraphDiffVAE)
    assert model.get_link_representation(links.adata) == pytest.approx(links.adata.obsm["X_diffvae_link"], abs=1e-4)


def test_summary_is_json_without_nan(found, fork_folder):
    links, told = found

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    summary = json.loads((fork_folder / "links" / "summary.json").read_text(), parse_constant=refuse)
    expected = {"groupby": "cell_type", "source": "stem", "target": None, "k": 15, "top_k": 15, "max_epochs": 10}
    assert (expected | {"seed": 0, "preset": "default"}).items() <= summary["parameters"].items()
    assert summary["source"] == "AnnData in memory"
    assert list(summary["seconds"]) == told[:-1]
    assert {"diffvae", "torch", "scanpy"} <= set(summary["versions"])
    assert summary["graph"]["n_edges"] == summary["links"]["n_input"]
    assert summary["links"]["n_called"] == len(links.called)
    assert summary["links"]["n_new"] == links.called["new"].sum()
    assert 0 <= summary["links"]["validation_auc"] <= 1
    assert summary["graph"]["metric"] == "cosine"
    assert summary["links"]["baseline_auc"] > 0.8  # the graph was made of it
    for rule, column in (("paths", "call"), ("pca", "call_pca"), ("predicted", "call_links")):
        assert summary["calls"][rule] == links.commitment[column].value_counts().to_dict()
    assert len(summary["types"]) == 12  # pairs of three types, in two graphs
    assert summary["verdict"] == links.summary["verdict"]


def test_verdict_says_what_a_trivial_way_gives(found):
    links, _ = found
    said = links.summary["verdict"]
    stored = links.summary["links"]
    assert said[0] == f"Trained on {stored['scheme']}."
    assert f"AUC {stored['validation_auc']:.3f}. The cosine of principal components" in said[1]
    assert f"reaches {stored['baseline_auc']:.3f};" in said[1]
    assert said[2].startswith(f"At the threshold {stored['threshold']:.2g}, {stored['recall']:.0%} of the edges")
    assert f"{stored['precision']:.0%} of the called pairs are edges" in said[2]
    assert all(len(one) <= 200 for one in said)  # two lines of 100 columns
    assert stored["precision_unknown"] < stored["precision"]
    pieces = f"{stored['n_components']} connected components (input graph: {stored['n_components_input']})"
    assert any(pieces in one for one in said) == (stored["n_components"] > stored["n_components_input"])
    assert any("the most linked 1 % of the cells" in one for one in said) == (stored["hub_share"] > 0.3)
    assert any(one.startswith("Types linked more often than in random graphs of the same degrees") for one in said)
    called = (links.commitment["call"] != "uncommitted").sum()
    n_pca = (links.commitment["call_pca"] != "uncommitted").sum()
    parameters = links.adata.uns["diffvae"]["commitment_params"]
    first = links.summary["fates_verdict"][0]
    assert first in said
    assert first.startswith(f"{called} of {len(links.commitment)} progenitors are committed to a later type (expected")
    assert f"{parameters['expected_false']:.0%}). PCA neighbours call {n_pca};" in first
    assert first.endswith(f"of simulated uncommitted cells {parameters['null_called']:.1%} are called.")
    assert sum(one.startswith("Name the types upstream of the progenitors (earlier)") for one in said) == 1
    assert any("is at its lower limit" in one for one in said) == parameters["at_limit"]
    assert any("(variance" in one for one in said) == (parameters["variance"] > _links.WIDE_CORE)


def test_the_map_of_the_run_stays_the_one_for_new_cells(found):
    adata = found[0].adata
    assert adata.uns["diffvae"]["tsne"]["key_added"] == "X_diffvae_tsne"
    placed = dv.tl.tsne_transform(adata, adata.obsm["X_diffvae"][:2])
    assert np.isfinite(placed).all()
    assert "X_diffvae_graph_tsne" in adata.obsm


@pytest.mark.usefixtures("no_figures", "quick_steps")
def test_same_seed_same_tables(fork_folder, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pipeline.links(
            fork_folder, tmp_path / name, source="stem", target=["red"], seed=seed, max_epochs=3, progress=False
        )
    first, again, other = (tables(tmp_path / name) for name in "abc")
    for name, table in first.items():
        pd.testing.assert_frame_equal(table, again[name])
    assert not first["called_links"].equals(other["called_links"])
    assert set(first["commitment_types"]["type"]) == {"red"}


@pytest.mark.usefixtures("quick_figures", "quick_steps")
def test_without_a_source_nobody_is_called_and_other_types_can_be_chosen(fork_folder, tmp_path):
    options = {"k": 1, "top_k": 5, "conv": "sage", "joint_weight": 0.1, "groupby": "diffvae_cluster"}
    links = pipeline.links(fork_folder, tmp_path / "out", **options, **QUICK)
    assert set(links.types["type_1"]) <= set(links.adata.obs["diffvae_cluster"])
    assert links.summary["parameters"]["groupby"] == "diffvae_cluster"
    assert links.commitment is None
    assert links.summary["calls"] is None
    assert len(links.summary["verdict"]) == 4
    assert {file.stem for file in (tmp_path / "out" / "figures").iterdir()} == FIGURES - {"commitment", "fates"}
    assert links.fates is None
    assert links.summary["fates_verdict"] == []
    assert set(tables(tmp_path / "out")) == {"called_links", "history", "link_table"}
    assert links.model.config.conv == "sage"
    assert links.model.config.joint_weight == 0.1
    assert links.adata.uns["diffvae"]["links"]["top_k"] == 5
    assert links.adata.uns["diffvae"]["cell_graph"]["k"] == 1


@pytest.mark.usefixtures("quick_figures", "quick_steps")
def test_when_no_link_is_called(fork_folder, tmp_path, monkeypatch, capsys):
    from diffvae.cli._links import show

    monkeypatch.setattr(dv.tl, "links", partial(dv.tl.links, threshold=0.9999999))
    links = pipeline.links(fork_folder, tmp_path / "out", source="stem", **QUICK)
    assert len(links.called) == 0
    assert set(links.types["graph"]) == {"cell_graph"}
    # the links of the graph that went in are not taken for predicted ones
    assert not any("Different types linked" in said for said in links.summary["verdict"])
    assert tables(tmp_path / "out")["called_links"].empty
    assert {file.stem for file in (tmp_path / "out" / "figures").iterdir()} == FIGURES
    show(links)
    assert "links called" not in capsys.readouterr().out


# What is refused


def test_nothing_is_replaced_without_being_asked(found, fork_folder, tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="has results already; name another folder, or pass overwrite"):
        pipeline.links(fork_folder, **QUICK)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    monkeypatch.setattr(_folder, "read_result", lambda *args: pytest.fail("read"))
    with pytest.raises(OutputError, match="is not empty; name another folder"):
        pipeline.links(fork_folder, foreign, **QUICK)
    with pytest.raises(OutputError, match="holds files that diffvae did not write"):
        pipeline.links(fork_folder, foreign, overwrite=True, **QUICK)
    assert names(foreign) == ["mine.txt"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"source": "blue"}, r"'blue' is not a type of adata.obs\['cell_type'\]; the types are: stem, red, white"),
        ({"source": "stem", "target": ["blue"]}, "'blue' is not a type"),
        ({"source": "stem", "target": ["stem"]}, "'stem' has no other type to commit to; name another target"),
        ({"source": "stem", "target": "red"}, r"target is 'red'; give a list of types, \['red'\]"),
        ({"source": "stem", "target": []}, "target is an empty list; name one or more types, or None for all"),
        ({"target": ["red"]}, "target is given without source; name the progenitor type as well"),
        ({"groupby": "nothing"}, r"obs\['nothing'\] is missing"),
        ({"conv": "gin"}, "conv is 'gin'"),
        ({"preset": "best"}, "preset is 'best'"),
        ({"max_epochs": 0}, "max_epochs is 0"),
    ],
)
def test_what_can_not_work_is_refused_before_the_training(fork_folder, tmp_path, monkeypatch, options, sentence):
    monkeypatch.setattr(dv.pp, "cell_graph", lambda *args, **others: pytest.fail("joined"))
    told = []
    with pytest.raises(ValueError, match=sentence):
        pipeline.links(fork_folder, tmp_path / "out", on_step=told.append, progress=False, **options)
    assert told == ["read"]
    assert names(tmp_path) == []


@pytest.mark.parametrize("function", [pipeline.links, pipeline.run])
def test_k_of_nothing_is_refused_before_anything_is_read(tmp_path, function):
    told = []
    with pytest.raises(ValueError, match="k is 0; it must be None or a whole number of 1 or more"):
        function(tmp_path, k=0, on_step=told.append)
    assert told == []
    with pytest.raises(ValueError, match="top_k is 0; it must be a whole number of 1 or more"):
        pipeline.links(tmp_path, top_k=0)


# As a part of a run


@pytest.mark.usefixtures("no_figures", "quick_training")
def test_a_run_has_links_unless_they_are_not_wanted(cells, tmp_path):
    result = pipeline.run(cells, tmp_path / "with", label_key="cell_type", k=2, **RUN)
    part = tmp_path / "with" / "links"
    assert names(part) == ["cells.h5ad", "figures", "model", "summary.json", "tables"]
    summary = json.loads((part / "summary.json").read_text())
    assert summary["parameters"]["k"] == 2
    assert summary["parameters"]["groupby"] == "cell_type"
    assert result.links.commitment is None
    assert result.links.model.config.max_epochs == 3
    assert "diffvae_links" in ad.read_h5ad(tmp_path / "with" / "results.h5ad").obsp
    with pytest.raises(OutputError, match="has results already"):
        pipeline.links(tmp_path / "with")

    result = pipeline.run(cells, tmp_path / "without", label_key="cell_type", links=False, **RUN)
    assert result.links is None
    assert names(tmp_path / "without") == ["figures", "model", "report.html", "results.h5ad", "summary.json", "tables"]
    assert "diffvae_links" not in ad.read_h5ad(tmp_path / "without" / "results.h5ad").obsp


@pytest.mark.usefixtures("quick_training")
def test_cells_without_a_label_are_linked_by_the_names_they_got(cells):
    adata = cells.copy()
    adata.obs["known"] = adata.obs["cell_type"].astype(object)
    adata.obs.loc[adata.obs_names[:30], "known"] = None
    result = pipeline.run(adata, label_key="known", **RUN)
    assert result.links.summary["parameters"]["groupby"] == "diffvae_cell_type"


@pytest.mark.usefixtures("quick_training")
def test_names_that_no_cluster_got_do_not_lose_the_links(cells):
    markers = {name: cells.var_names[i * 4 : i * 4 + 4].tolist() for i, name in enumerate(("one", "two"))}
    result = pipeline.run(cells, markers=markers, source="one", target=["three"], **RUN)
    assert len(result.links.called)
    assert result.links.commitment is None
    assert any(w.startswith("Nothing was perturbed: ") for w in result.summary["warnings"])


@pytest.mark.usefixtures("quick_training")
def test_a_graph_that_can_not_be_learnt_from_does_not_lose_the_run(cells):
    result = pipeline.run(cells[:40].copy(), label_key="cell_type", k=60, **RUN)
    assert result.links is None
    assert len(result.clusters)
    (said,) = (w for w in result.summary["warnings"] if w.startswith("No links were predicted: "))
    assert said.endswith(" Run 'diffvae links' on this result.")


# The program


def test_the_command(fork_folder, tmp_path, diffvae, no_figures, quick_steps):
    out = tmp_path / "out"
    code, said, told = diffvae(
        "links", fork_folder, "--source", "stem", "--target", "red", "--k", 3, "--max-epochs", 10, "--out", out
    )
    assert code == 0
    said = " ".join(said.split())  # titles are folded
    assert "links called, " in said
    assert "Calls of progenitors by paths to later types, by PCA neighbours, and by predicted links" in said
    assert "uncommitted" in said
    assert said.endswith(f"Written to {out}: model, tables, figures, cells.h5ad, summary.json")
    assert told.startswith("· read\n· join similar cells\n· train Graph-DiffVAE\n")
    assert "defines these edges" in " ".join(told.split())  # remarks are folded, too
    assert "\x1b" not in said + told
    assert json.loads((out / "summary.json").read_text())["parameters"]["target"] == ["red"]

    code, said, told = diffvae("links", fork_folder, "--max-epochs", 10, "--out", out)
    assert (code, said) == (2, "")
    assert told == f"Error: '{out}' has results already; name another folder, or pass --overwrite.\n"
    code, said, _ = diffvae("links", fork_folder, "--max-epochs", 3, "--out", out, "--overwrite")
    assert code == 0
    assert "progenitors" not in said


def test_numbers_of_numpy_have_a_place_in_the_summary(found, tmp_path, no_figures):
    links, _ = found
    links.summary["links"]["odd"] = np.float32(0.5)
    (tmp_path / "tables").mkdir()
    _links.write_into(links, tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["links"].pop("odd") == 0.5
    del links.summary["links"]["odd"]


def test_verdict_doubts_a_wide_core_and_asks_for_roles():
    said = {"n_progenitors": 9, "n_called_progenitors": 3, "n_called_pca": 2, "expected_false": 0.08, "core_share": 0.6}
    said |= {"withheld": False, "null_called": 0.004, "n_unreached": 0, "earlier": ["old"], "named": True}
    plain = _folder.sentences(_links.FATES_VERDICT, said | {"variance": 0.9, "at_limit": False})
    assert plain == [
        "3 of 9 progenitors are committed to a later type (expected share of false calls: 8%). PCA neighbours call 2; "
        "of simulated uncommitted cells 0.4% are called."
    ]
    doubted = said | {"variance": 1.7, "at_limit": True, "named": False, "n_unreached": 4}
    doubted = _folder.sentences(_links.FATES_VERDICT, doubted)
    assert doubted[:1] == plain
    assert [one.split(" ")[0] for one in doubted[1:]] == ["Name", "Uncommitted", "The", "No"]
    withheld = _folder.sentences(_links.FATES_VERDICT, said | {"variance": 0.9, "at_limit": True, "withheld": True})
    assert [one.split(":")[0] for one in withheld[1:]] == ["Calls are withheld"]
    assert "variance 1.7" in doubted[2]
    assert "60%" in doubted[3]
    assert "from 4 progenitors" in doubted[4]
    assert all(len(one) <= 200 for one in doubted)


@pytest.mark.parametrize(("n", "length"), [(1, 10), (8, 6), (30, 14), (2, 90)])
def test_a_sentence_on_pairs_has_two_lines(n, length):
    types = [f"{i:02d}".ljust(length, "x") for i in range(n + 1)]
    rows = [("diffvae_called_links", types[0], other, 5, 0.001, 50.0 - i) for i, other in enumerate(types[1:])]
    rows += [
        ("diffvae_called_links", "few", "links", 0, 0.001, -9.0),
        ("cell_graph", "of the", "input", 5, 0.001, 99.0),
    ]
    table = pd.DataFrame(rows, columns=["graph", "type_1", "type_2", "n_links", "q_value", "z"])
    said = _links._pairs(table)["pairs"]
    assert said.startswith(f"{types[0]} - {types[1]}")
    assert len(said) <= max(_links.MAX_PAIRS_TEXT + 12, 2 * length + 15)
    named = said.split(" and ")[0].split(", ")
    assert (f"and {n - len(named)} more" in said) == (n > len(named))
    assert "few" not in said
    assert "input" not in said


def test_depleted_pairs_are_not_printed_under_more_links_than_by_chance(found, capsys):
    from dataclasses import replace

    from diffvae.cli._links import show

    links, _ = found
    table = links.types.copy()
    last = table["graph"] == "diffvae_called_links"
    table.loc[last, ["z", "q_value"]] = -3.0, 0.001
    red = last & (table["type_1"] == "stem") & (table["type_2"] == "red")
    table.loc[red, ["z", "n_links", "q_value"]] = 7.5, 77, 0.01
    show(replace(links, types=table))
    said = capsys.readouterr().out
    above = said.split("Calls of progenitors")[0]
    assert "77" in above
    assert "-3.0" not in above
    assert "mean probability (± standard error) that a random walk" in " ".join(said.split())
    assert "± " in said


@pytest.mark.usefixtures("quick_training")
def test_earlier_types_of_a_run_are_no_fates_and_conversions_to_them_go_back(cells, monkeypatch):
    given = {}

    def perturbation(adata, model, **options):
        given.update(options)
        raise pipeline._run.DataError("not now.")

    monkeypatch.setattr(pipeline._run._perturb, "run_perturbation", perturbation)
    result = pipeline.run(cells, label_key="cell_type", source="red", target=["stem", "white"], earlier=["stem"], **RUN)
    assert given["earlier"] == ["stem"]
    assert given["target"] == ["stem", "white"]
    assert result.links.summary["parameters"]["target"] == ["white"]
    assert result.links.adata.uns["diffvae"]["commitment_params"]["earlier"] == ["stem"]
    assert result.links.adata.uns["diffvae"]["fates"]["names"] == ["white"]
    assert set(result.links.fates["type"]) == {"white"}
    assert result.summary["parameters"]["earlier"] == ["stem"]

    result = pipeline.run(cells, label_key="cell_type", source="red", target=["stem"], earlier=["stem"], **RUN)
    assert result.links.commitment is None
    said = "No progenitors were called: all other types are earlier than 'red'."
    assert said in result.summary["warnings"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"earlier": ["stem"]}, "earlier is given without source"),
        ({"source": "red", "earlier": "stem"}, r"earlier is a list of types; write \['stem'\]"),
        ({"source": "red", "earlier": ["blue"]}, r"'blue' is not a type of adata.obs\['cell_type'\]"),
        ({"source": "red", "earlier": ["red"]}, "'red' is both source and earlier"),
        # without labels no type is known yet, but this much is
        ({"label_key": None, "source": "a name", "earlier": ["a name"]}, "'a name' is both source and earlier"),
        ({"label_key": None, "source": "a name", "target": ["b", "a name"]}, "'a name' is both source and target"),
        ({"source": "red", "target": "white"}, r"target is a list of types; write \['white'\]"),
    ],
)
def test_earlier_types_of_a_run_that_can_not_be_are_refused_before_the_training(cells, options, sentence):
    told = []
    with pytest.raises(ValueError, match=sentence):
        pipeline.run(cells, **{"label_key": "cell_type", **RUN, **options}, on_step=told.append)
    assert "train DiffVAE" not in told


def test_preset_of_the_paper_links_each_cell_to_the_most_correlated_one(fork_folder, tmp_path):
    found = pipeline.links(fork_folder, tmp_path / "paper", preset="paper", max_epochs=3, progress=False)
    graph = found.summary["graph"]
    assert (graph["k"], graph["metric"], graph["layer"]) == (1, "pearson", "unit")
    assert found.summary["parameters"]["k"] == 1
    assert found.model.config.decoder == "graphite"
    assert found.summary["links"]["similarity"] == "Pearson's correlation"
