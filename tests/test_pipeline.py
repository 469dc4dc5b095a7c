import html
import inspect
import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from matplotlib import pyplot

import diffvae as dv
from diffvae import pipeline
from diffvae._core.io import read
from diffvae._errors import OutputError
from diffvae.pipeline import _result
from diffvae.pp import DataError
from diffvae.tl._names import compose

TINY = {"n_latent": 4, "max_epochs": 3, "batch_size": 32, "lr": 3e-3, "links": False, "progress": False}
GIVEN = {"n_clusters": 2, "cluster_method": "kmeans"}
TABLES = [
    "annotation",
    "annotation_mixtures",
    "annotation_parts",
    "cells",
    "cluster_candidates",
    "cluster_separation",
    "clusters",
    "gene_weight_agreement",
    "high_weight_genes",
    "history",
    "latent_dimensions",
    "overlap",
    "scores",
]


@pytest.fixture(scope="module")
def small():
    return dv.datasets.simulate_differentiation(90, 60, tree={"stem": ["red", "white"]}, effect=2, rng=0)


@pytest.fixture
def quick_figures(monkeypatch):
    """Figures are drawn, but only their names are saved."""
    monkeypatch.setattr(dv.pl, "save", lambda ax, path: path.with_suffix(".png").touch())


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_the_folder_holds_everything(demo):
    result, out, told = demo
    assert result.path == out
    whole = ["figures", "links", "model", "perturbation", "report.html", "results.h5ad", "summary.json", "tables"]
    assert names(out) == whole
    assert names(out.parent) == ["demo"]  # nothing half written beside it
    assert names(out / "tables") == [f"{name}.csv" for name in TABLES]
    assert names(out / "model") == ["config.json", "history.csv", "weights.safetensors"]
    figures = {file.stem for file in (out / "figures").iterdir()}
    assert {"tsne_clusters", "tsne_cell_types", "tsne_labels", "history", "overlap", "latent_dimensions"} <= figures
    assert names(out / "figures") == sorted(f"{f}.{form}" for f in figures for form in ("png", "svg"))
    assert all(file.stat().st_size > 1000 for file in (out / "figures").iterdir())
    assert (told[0], told[-1]) == ("read", "write")
    assert pyplot.get_fignums() == []


def test_scanpy_reads_the_keys_of_the_architecture(demo):
    result, out, _ = demo
    adata = sc.read_h5ad(out / "results.h5ad")
    assert adata.shape == (500, 1005)
    assert "unit" in adata.layers
    assert adata.obsm["X_diffvae"].shape == (500, 10)
    assert adata.obsm["X_diffvae_tsne"].shape == (500, 2)
    assert adata.varm["diffvae_gene_weights"].shape == (1005, 10)
    assert adata.varm["diffvae_gene_jacobian"].shape == (1005, 10)
    assert isinstance(adata.obs["diffvae_cluster"].dtype, pd.CategoricalDtype)
    assert isinstance(adata.obs["diffvae_cell_type"].dtype, pd.CategoricalDtype)
    steps = {"prepare", "embed", "tsne", "cluster", "latent_dimensions", "gene_weights", "high_weight_genes"}
    assert steps | {"annotation"} <= set(adata.uns["diffvae"])
    assert (adata.obsm["X_diffvae"] == result.adata.obsm["X_diffvae"]).all()
    assert sc.get.obs_df(adata, ["diffvae_cluster", "Ins2"]).shape == (500, 2)


def test_tables_and_cells_say_the_same(demo):
    result, out, _ = demo
    cells = pd.read_csv(out / "tables" / "cells.csv", index_col="cell", dtype={"cluster": str})
    assert cells.index.tolist() == result.adata.obs_names.tolist()
    assert cells["cluster"].tolist() == result.adata.obs["diffvae_cluster"].tolist()
    assert np.allclose(cells[["tsne_1", "tsne_2"]], result.adata.obsm["X_diffvae_tsne"], rtol=1e-5)
    clusters = pd.read_csv(out / "tables" / "clusters.csv", dtype={"cluster": str}).set_index("cluster")
    assert clusters["n_cells"].to_dict() == cells["cluster"].value_counts().to_dict()
    assert len(clusters) == result.adata.uns["diffvae"]["cluster"]["n_clusters"] >= 2
    named = cells.groupby("cluster")["cell_type"].agg(lambda t: compose(t.to_numpy(object)))
    assert named.to_dict() == clusters["cell_type"].to_dict()
    assert cells["cell_type"].tolist() == result.adata.obs["diffvae_cell_type"].tolist()
    overlap = pd.read_csv(out / "tables" / "overlap.csv")
    assert overlap["n_cells"].sum() == 500
    assert overlap.columns[0] == "type"


def test_cluster_table_collects_the_evidence(demo):
    result, *_ = demo
    stored = result.adata.uns["diffvae"]
    annotation = stored["annotation"].set_index("group")
    dimensions = stored["latent_dimensions"].query("chosen")
    for row in result.clusters.itertuples():
        of_cluster = annotation.loc[row.cluster]
        assert row.marker_genes == (of_cluster["genes"] or of_cluster["top_genes"]) != ""
        assert row.q_value == annotation.loc[row.cluster, "q_value"] or np.isnan(row.q_value)
        own = dimensions[dimensions["group"] == row.cluster]
        expected = [f"{d}{s}" for d, s in zip(own["dimension"], own["side"], strict=True)][:5]
        assert row.dimensions == ", ".join(expected)
    assert result.clusters["dimensions"].str.len().max() > 0


def test_summary(demo):
    result, out, told = demo

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    summary = json.loads((out / "summary.json").read_text(), parse_constant=refuse)
    assert summary["source"] == "diffvae.datasets.pancreas_endocrinogenesis()"
    assert (summary["n_cells"], summary["n_genes"], summary["n_genes_kept"]) == (500, 1007, 1005)
    assert summary["kind"] == "counts"
    expected = {"label_key": "cell_type", "seed": 0, "n_latent": 10, "max_epochs": 20, "lr": None, "markers": "auto"}
    assert expected.items() <= summary["parameters"].items()
    assert {"diffvae", "torch", "scanpy", "anndata", "openTSNE"} <= set(summary["versions"])
    assert list(summary["seconds"]) == told[:-1]
    assert [c["cluster"] for c in summary["clusters"]] == result.clusters["cluster"].tolist()
    assert {s["method"] for s in summary["scores"]} == {"DiffVAE", "PCA", "null"}
    assert summary["clustering"]["method"] == "leiden"
    assert summary["diagnosis"]["n_active"] <= 10
    assert result.summary["verdict"] == summary["verdict"]


def test_the_cells_are_told_apart(demo):
    scores = demo[0].scores
    own = scores[scores["method"] == "DiffVAE"].set_index("score")["mean"]
    null = scores[scores["method"] == "null"].set_index("score")["mean"]
    assert own["clusters: adjusted Rand index"] > null["clusters: adjusted Rand index"] + 0.15
    assert own["kNN purity (15)"] > 0.5


def test_saved_model_maps_cells_as_before(demo):
    result, out, _ = demo
    model = dv.model.load(out / "model")
    again = model.get_latent_representation(result.adata)
    assert np.allclose(again, result.adata.obsm["X_diffvae"], atol=1e-5)


def tables(result):
    stored = result.adata.uns["diffvae"]
    kept = ("latent_dimensions", "gene_weights", "high_weight_genes", "annotation")
    return [result.clusters, result.scores, result.model.history, *(stored[k] for k in kept)]


def test_same_seed_same_tables_and_nothing_is_written(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = small.copy()
    runs = [pipeline.run(small, label_key="cell_type", seed=seed, **TINY, **GIVEN) for seed in (0, 0, 1)]
    for first, same in zip(tables(runs[0]), tables(runs[1]), strict=True):
        pd.testing.assert_frame_equal(first, same)
    for key in ("X_diffvae", "X_diffvae_tsne"):
        assert (runs[0].adata.obsm[key] == runs[1].adata.obsm[key]).all()
    assert not tables(runs[0])[2].equals(tables(runs[2])[2])
    assert not np.allclose(runs[0].adata.obsm["X_diffvae"], runs[2].adata.obsm["X_diffvae"])
    assert runs[0].path is None
    assert names(tmp_path) == []
    assert (small.X != before.X).nnz == 0  # what was given stays as it was
    assert small.obs.equals(before.obs)
    assert set(small.uns) == set(before.uns)
    assert runs[0].summary["source"] == "AnnData in memory"


@pytest.mark.usefixtures("quick_figures")
def test_without_labels_there_are_no_scores(small, tmp_path):
    markers = {"Red": small.var_names[:4].tolist(), "White": small.var_names[4:8].tolist()}
    result = pipeline.run(small, tmp_path / "out", markers=markers, **TINY, **GIVEN)
    assert result.scores is None
    assert result.summary["scores"] is None
    assert result.summary["verdict"] == []
    assert result.summary["parameters"]["markers"] == "given in memory"
    assert "scores.csv" not in names(tmp_path / "out" / "tables")
    assert "tsne_labels.png" not in names(tmp_path / "out" / "figures")
    json.loads((tmp_path / "out" / "summary.json").read_text())


@pytest.mark.usefixtures("quick_figures")
def test_cells_without_a_label_take_part_in_all_but_the_scores(small, tmp_path):
    adata = small.copy()
    adata.obs["known"] = adata.obs["cell_type"].astype(object)
    adata.obs.loc[adata.obs_names[:30], "known"] = None
    result = pipeline.run(adata, tmp_path / "out", label_key="known", **TINY, **GIVEN)
    assert len(pd.read_csv(tmp_path / "out" / "tables" / "cells.csv")) == 90
    assert pd.read_csv(tmp_path / "out" / "tables" / "overlap.csv")["n_cells"].sum() == 60
    assert len(result.scores)


def test_nothing_named_means_the_overlap_of_clusters_is_drawn(demo, monkeypatch):
    drawn = {}
    monkeypatch.setattr(dv.pl, "overlap", lambda adata, **options: drawn.update(options))
    result = demo[0]
    _result._figures(result, "cell_type")["overlap"]()
    assert drawn == {"reference": "cell_type", "groupby": "diffvae_cell_type"}
    unnamed = result.adata.copy()
    unnamed.obs["diffvae_cell_type"] = pd.Categorical(["unassigned"] * 500)
    _result._figures(pipeline.Result(unnamed, result.model, result.clusters, None, {}), "cell_type")["overlap"]()
    assert drawn == {"reference": "cell_type", "groupby": "diffvae_cluster"}


def test_what_can_not_work_is_refused_before_anything_is_read(small, tmp_path, monkeypatch):
    monkeypatch.setattr(read, "load", lambda *args, **options: pytest.fail("read"))
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("")
    with pytest.raises(OutputError, match="is not empty; name another folder"):
        pipeline.run(small, full)
    with pytest.raises(OutputError, match="did not write"):
        pipeline.run(small, full, overwrite=True)
    for options, sentence in (
        ({"preset": "best"}, "preset is 'best'"),
        ({"n_latent": 0}, "n_latent is 0"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"cluster_method": "foo"}, "cluster_method is 'foo'; it must be 'leiden', "),
        ({"cluster_on": "umap"}, "cluster_on is 'umap'"),
        ({"n_clusters": "few"}, "n_clusters is 'few'"),
        ({"n_clusters": 1}, "n_clusters is 1; it must be 'auto' or a whole number of 2 or more"),
        ({"cluster_method": "dbscan", "n_clusters": 3}, "dbscan determines the number itself"),
        ({"n_dims": 0}, "n_dims is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"markers": "no_such_file.csv"}, "neither a bundled marker table"),
        ({"markers": {"T": []}}, "holds no marker genes"),
    ):
        with pytest.raises(ValueError, match=sentence):
            pipeline.run(small, tmp_path / "out", **options)
    with pytest.raises(ValueError, match="the bundled data have cells in rows"):
        pipeline.run(transpose=True)
    assert names(tmp_path) == ["full"]


def test_labels_and_cells_are_looked_at_before_the_training(small, monkeypatch):
    monkeypatch.setattr(dv.model.DiffVAE, "train", lambda *args, **options: pytest.fail("trained"))
    adata = small.copy()
    adata.obs["depth"] = np.arange(90) + 0.5
    adata.obs["one"], adata.obs["none"] = "x", None
    for options, sentence in (
        ({"label_key": "type"}, r"adata.obs\['type'\] is missing; the columns are: cell_type"),
        ({"label_key": "depth"}, "has 90 different values in 90 cells, so it does not group them"),
        ({"label_key": "one"}, "has 1 different labels"),
        ({"label_key": "none"}, "has 0 different labels"),
        ({"n_clusters": 91}, "n_clusters is 91, but there are 90 cells"),
        ({"batch_key": "donor"}, "donor"),
        ({"layer": "spliced"}, "spliced"),
        ({"markers": {"T": ["CD3D"]}}, "None of the 1 marker genes"),
    ):
        with pytest.raises(ValueError, match=sentence):
            pipeline.run(adata, **options, **TINY)


def test_a_single_cluster_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setattr("diffvae.tl._cluster.kmeans", lambda x, *args: np.zeros(len(x), int))
    with pytest.raises(DataError, match="kmeans finds only one cluster in the latent representation"):
        pipeline.run(small, tmp_path / "out", n_clusters=3, cluster_method="kmeans", **TINY)
    assert names(tmp_path) == []


def test_a_failure_leaves_nothing_and_an_earlier_result_as_it_was(demo, tmp_path, monkeypatch):
    result = demo[0]
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "summary.json").write_text('{"versions": {"diffvae": "0.1.0"}}')

    def fail(*args):
        raise RuntimeError("The disk is full.")

    monkeypatch.setattr(dv.pl, "save", fail)  # after the cells, the model and the tables were written
    for out, overwrite in ((tmp_path / "new", False), (earlier, True)):
        with pytest.raises(RuntimeError, match="disk is full"):
            _result._write(result, out, overwrite=overwrite, cells=None, after_writing=lambda: None)
        assert names(tmp_path) == ["earlier"]
        assert names(earlier) == ["summary.json"]


def test_identify_again(demo, tmp_path, monkeypatch, no_figures):
    first, path, _ = demo
    monkeypatch.setattr(dv.model.DiffVAE, "train", lambda *args, **options: pytest.fail("trained"))
    before = (path / "summary.json").read_bytes()
    again = pipeline.identify_again(path, tmp_path / "out", n_clusters=4, cluster_method="kmeans", seed=3)
    assert len(again.clusters) == 4
    assert (again.adata.obsm["X_diffvae_tsne"] == first.adata.obsm["X_diffvae_tsne"]).all()
    assert again.summary["parameters"]["label_key"] == "cell_type"  # of the first run
    assert again.summary["parameters"]["max_epochs"] == 20
    assert again.summary["parameters"]["cluster_method"] == "kmeans"
    assert again.summary["source"] == first.summary["source"]
    assert again.summary["clustering"]["n_clusters"] == 4
    assert "candidates" not in again.adata.uns["diffvae"]["cluster"]
    written = ad.read_h5ad(tmp_path / "out" / "results.h5ad")
    assert written.obs["diffvae_cluster"].nunique() == 4
    assert "cluster_candidates.csv" not in names(tmp_path / "out" / "tables")
    assert (path / "summary.json").read_bytes() == before
    with pytest.raises(OutputError, match="has results already"):
        pipeline.identify_again(path, path)
    with pytest.raises(ValueError, match="cluster_on is 'umap'"):
        pipeline.identify_again(path, cluster_on="umap")


def test_identify_again_needs_a_result(tmp_path):
    with pytest.raises(DataError, match=r"holds no summary.json; name a folder that 'diffvae run' wrote"):
        pipeline.identify_again(tmp_path)
    (tmp_path / "results.h5ad").write_text("")
    for text, sentence in (("{", "can't be read"), ("[]", "is no summary of a run"), ("{}", "is no summary of a run")):
        (tmp_path / "summary.json").write_text(text)
        with pytest.raises(DataError, match=sentence):
            pipeline.identify_again(tmp_path)


def test_the_command_says_what_a_configuration_sets(tmp_path):
    from diffvae.pipeline import _run

    class Strategy:
        origin, files, words = "cells.h5ad", ["cells.h5ad"], ()

    arguments = dict.fromkeys(inspect.signature(dv.pipeline.run).parameters)
    arguments |= {"out": "results", "n_top_genes": 2000, "config": {"n_latent": 10, "lr": 0.01}}
    assert _run._command(Strategy, arguments) == "diffvae run cells.h5ad --out results --n-latent 10 --lr 0.01"
    assert _run._command(Strategy, arguments | {"config": {"kl_weight": 1.0}}) is None
    assert _run._command(Strategy, arguments | {"n_top_genes": None}) is None


@pytest.fixture(scope="module")
def apart():
    return dv.datasets.simulate_differentiation(
        150, 80, tree={"stem": ["red", "white"]}, effect=2, n_batches=2, batch_effect=1.5, rng=0
    )


def test_a_batch_that_nobody_named_is_noticed(apart, tmp_path, quick_figures):
    result = pipeline.run(apart, tmp_path / "out", label_key="cell_type", **TINY, **GIVEN)
    said = [w for w in result.summary["warnings"] if "batch_key='batch' to remove it" in w]
    assert len(said) == 1
    assert said[0].startswith("obs['batch'] explains ")
    assert (tmp_path / "out" / "tables" / "batches.csv").is_file()
    assert result.summary["batches"][0]["key"] == "batch"
    page = html.unescape((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert "batch_key='batch' to remove it" in page
    assert "Columns that look like batches" in page
    again = pipeline.identify_again(tmp_path / "out", **GIVEN)
    assert [w for w in again.summary["warnings"] if "batch_key=" in w] == said


def test_what_is_left_of_a_named_batch_is_said_and_links_are_balanced(apart):
    options = TINY | GIVEN | {"links": True, "k": 2, "batch_key": "batch", "n_top_genes": None}
    result = pipeline.run(apart, label_key="cell_type", **options)
    assert not any("to remove it" in w for w in result.summary["warnings"])
    left = result.summary["batches"][0]
    assert any("still explains" in w for w in result.summary["warnings"]) == left["clear"]
    assert result.links.summary["graph"]["balance_by"] == "batch"


def test_batches_too_small_for_their_share_leave_links_unbalanced(apart):
    cells = apart.copy()
    cells.obs["batch"] = ["tiny"] * 3 + ["rest"] * (cells.n_obs - 3)
    pp_options = {"links": True, "k": 8, "batch_key": "batch", "n_top_genes": None}
    result = pipeline.run(cells, label_key="cell_type", **(TINY | GIVEN | pp_options))
    assert any(w.startswith("Links are not balanced over batches: Batch 'tiny'") for w in result.summary["warnings"])
    assert "balance_by" not in result.links.summary["graph"]
    assert any(w.startswith("Integration was not measured") for w in result.summary["warnings"])
