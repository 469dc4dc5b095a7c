"""Where a run takes values, gene names and types from, and what it refuses before it computes."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import diffvae as dv
from diffvae import pipeline
from diffvae._core.io import read
from diffvae._core.io.backed import open_store
from diffvae.pipeline import _checks, _settings
from diffvae.pp import DataError

QUICK = {"n_latent": 4, "max_epochs": 3, "n_clusters": 2, "cluster_method": "kmeans", "links": False, "progress": False}


@pytest.fixture(scope="module")
def small():
    """Counts with identifiers as names, symbols in a column, and types in a column of an unusual name."""
    cells = dv.datasets.simulate_differentiation(120, 60, tree={"stem": ["red", "white"]}, effect=2, rng=0)
    cells.obs = pd.DataFrame({"stage": cells.obs["cell_type"], "depth": np.ravel(cells.X.sum(axis=1))})
    cells.var = pd.DataFrame(
        {"symbol": cells.var_names.str.upper(), "number": range(60)}, index=[f"ENS{i}" for i in range(60)]
    )
    cells.var.iloc[0, 0] = ""
    cells.uns.clear()
    return cells


@pytest.fixture
def untrained(monkeypatch):
    monkeypatch.setattr(dv.model.DiffVAE, "train", lambda *args, **options: pytest.fail("trained"))


# Types


def test_the_column_of_the_source_is_found_used_and_said(small, tmp_path, no_figures):
    told = []
    file = tmp_path / "cells.h5ad"
    small.write_h5ad(file)
    result = pipeline.run(file, tmp_path / "out", source="stem", target=["red"], on_step=told.append, **QUICK)
    assert "types are those of obs['stage'], which has 'stem'" in told
    assert result.summary["parameters"]["label_key"] == "stage"
    assert "--label-key stage" in json.loads((tmp_path / "out" / "summary.json").read_text())["command"]
    assert result.changes.targets["target"].tolist() == ["red"]
    assert result.scores is not None


@pytest.mark.usefixtures("untrained")
def test_a_source_in_two_columns_is_refused_with_their_names(small):
    cells = small.copy()
    cells.obs["lineage"] = cells.obs["stage"].astype(str).replace({"red": "blood", "white": "blood"})
    with pytest.raises(DataError, match=r"'stem' stands in 2 columns: obs\['stage'\], obs\['lineage'\]; name the one"):
        pipeline.run(cells, source="stem", **QUICK)
    assert _checks.find_label_key(cells, ["stem", "red"]) == "stage"  # only one has both


def test_what_is_no_column_of_types(small):
    cells = small.copy()
    assert _checks.find_label_key(cells, "blue") is None
    assert _checks.find_label_key(cells, "all") is None
    cells.obs = cells.obs[[]].copy()
    cells.obs["diffvae_cell_type"] = ["stem", "red"] * 60  # of an earlier run
    cells.obs["name"] = ["stem", *map(str, range(119))]  # groups nothing
    cells.obs["one"] = "stem"
    cells.obs["cluster"] = [0, 1] * 60
    assert _checks.find_label_key(cells, "stem") is None
    assert _checks.find_label_key(cells, "1") == "cluster"


def test_the_option_is_named_in_the_words_of_the_command(small, diffvae, tmp_path):
    cells = small.copy()
    cells.obs["lineage"] = cells.obs["stage"]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    code, _, told = diffvae("run", tmp_path / "cells.h5ad", "--out", tmp_path / "out", "--source", "stem")
    assert code == 2
    assert "name the one to use (--label-key)" in told
    assert not (tmp_path / "out").exists()


# Genes and values


def test_genes_are_named_by_a_column(small, tmp_path):
    cells = small.copy()
    cells.raw = cells.copy()
    named = read.choose(cells.copy(), gene_symbols="symbol")
    assert named.var_names[:2].tolist() == ["ENS0", small.var["symbol"].iloc[1]]
    assert named.raw.var_names.equals(named.var_names)
    assert (named.X != small.X).nnz == 0
    cells.raw = ad.AnnData(cells.X, var=cells.var[[]])  # raw knows no symbols: they are those of var
    cells.write_h5ad(tmp_path / "cells.h5ad")
    store = open_store(tmp_path / "cells.h5ad", "symbol")
    for found in (read.choose(cells, gene_symbols="symbol"), store, store.take(np.arange(3))):
        assert found.var_names.tolist() == named.var_names.tolist()
        assert found.raw.var_names.tolist() == named.var_names.tolist()
    with pytest.raises(
        DataError, match=r"gene_symbols is 'name', which is no column of adata\.var; the columns are: symb"
    ):
        open_store(tmp_path / "cells.h5ad", "name")
    with pytest.raises(DataError, match="holds numbers"):
        read.choose(small.copy(), gene_symbols="number")


@pytest.mark.parametrize("backed", [False, True])
def test_a_run_names_genes_and_finds_markers_by_symbol(small, tmp_path, backed, no_figures):
    cells, file = small.copy(), tmp_path / "cells.h5ad"
    cells.write_h5ad(file)
    symbols = small.var["symbol"].iloc[1:9].tolist()
    markers = {"Red": symbols[:4], "White": symbols[4:]}
    with pytest.raises(DataError, match="None of the 2 marker genes"):
        pipeline.run(file, tmp_path / "a", markers={"Red": ["Nowhere1", "Nowhere2"]}, backed=backed, **QUICK)
    found = pipeline.run(file, tmp_path / "a", markers=markers, backed=backed, **QUICK)
    assert found.adata.var_names.tolist() == small.var_names[small.var_names.isin(found.adata.var_names)].tolist()
    assert any("by var['symbol']" in said for said in found.summary["warnings"])
    result = pipeline.run(file, tmp_path / "b", markers=markers, gene_symbols="symbol", backed=backed, **QUICK)
    assert set(symbols) <= set(result.adata.var_names)
    assert "--gene-symbols symbol" in json.loads((tmp_path / "b" / "summary.json").read_text())["command"]


def test_raw_is_taken_if_asked_for(small):
    cells = small[:, :10].copy()
    cells.raw = small.copy()
    cells.X = cells.X.toarray() - 5.0  # scaled
    by_itself = pipeline.run(cells, n_top_genes=None, **QUICK)
    assert "adata.raw, which holds counts of 60 genes, is taken instead." in by_itself.summary["warnings"][0]
    result = pipeline.run(cells, n_top_genes=None, use_raw=True, **QUICK)
    assert result.summary["n_genes"] == 60 == by_itself.summary["n_genes"]
    assert result.summary["kind"] == "counts" == by_itself.summary["kind"]
    cells.raw = cells.copy()
    with pytest.raises(DataError, match=r"negative values.* and so was adata\.raw, and that can't be undone"):
        pipeline.run(cells, n_top_genes=None, **QUICK)
    with pytest.raises(DataError, match=r"use_raw is True, but the cells have no adata.raw"):
        pipeline.run(small, use_raw=True, **QUICK)


def test_values_say_what_the_numbers_are(small):
    result = pipeline.run(small, values="normalised", n_top_genes=None, **QUICK)
    assert result.summary["kind"] == "normalised"
    assert "counts" not in result.adata.layers
    halves = small.copy()
    halves.X = halves.X * 0.5
    with pytest.raises(DataError, match=r"values is 'counts', but only .*; values='normalised'"):
        pipeline.run(halves, values="counts", **QUICK)
    prepared = dv.pp.prepare(small, n_top_genes=None, copy=True)
    with pytest.raises(
        DataError, match="values is 'log', but the cells have been prepared, and their values were 'counts'"
    ):
        pipeline.run(prepared, values="log", **QUICK)
    assert pipeline.run(prepared, values="counts", **QUICK).summary["kind"] == "counts"


# Patience


def test_patience_stops_the_training(small):
    options = QUICK | {"max_epochs": 200, "lr": 0.05}
    result = pipeline.run(small, n_top_genes=None, patience=2, **options)
    assert len(result.model.history) < 200
    assert result.summary["parameters"]["patience"] == 2
    by_config = pipeline.run(small, n_top_genes=None, config={"patience": 2}, **options)
    assert len(by_config.model.history) == len(result.model.history)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"use_raw": True, "layer": "counts"}, "use_raw is True, but layer is 'counts'"),
        ({"use_raw": 1}, "use_raw is 1; it must be True or False"),
        ({"values": "tpm"}, "values is 'tpm'; it must be None or 'counts', 'normalised' or 'log'"),
        ({"patience": 3}, "patience is 3, but max_epochs is 3, so no training would stop early"),
        ({"patience": 0}, "patience is 0; it must be None or a whole number of 1 or more"),
        ({"patience": 2, "config": {"early_stopping": False}}, "patience is 2, but early_stopping is False"),
        ({"label_key": "stage", "batch_key": "stage"}, "label_key is 'stage', and batch_key as well"),
        ({"label_key": "stage", "covariates": ["stage"]}, "label_key is 'stage', and a covariate as well"),
        ({"target": ["red"]}, "target is given without source"),
    ],
)  # fmt: skip
def test_contradictions_are_refused_before_anything_is_read(small, monkeypatch, options, said):
    if "target" not in options:
        monkeypatch.setattr(read, "load", lambda *args, **options: pytest.fail("read"))
    with pytest.raises(ValueError, match=said):
        pipeline.run(small, **QUICK | options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"use_raw": True}, "use_raw is True, but the bundled data have no adata.raw"),
        ({"layer": "counts"}, "layer is 'counts', but the bundled data have no layers"),
        ({"gene_symbols": "symbol"}, "but the bundled data are named by symbol"),
        ({"values": "log"}, "values is 'log', but the bundled data are counts"),
    ],
)
def test_bundled_cells_are_what_they_are(options, said):
    with pytest.raises(ValueError, match=said):
        pipeline.run(**options)


def test_raw_can_not_be_read_in_blocks(small, tmp_path):
    small.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ValueError, match="use_raw is True, but the cells stay on disk"):
        pipeline.run(tmp_path / "cells.h5ad", tmp_path / "out", use_raw=True, backed=True, **QUICK)
    assert [file.name for file in tmp_path.iterdir()] == ["cells.h5ad"]


def test_a_patience_alone_is_no_contradiction():
    _settings.refuse_idle_patience(5, None)
    _settings.refuse_idle_patience(None, 3, False)
    assert _settings.training_of({"n_latent": 5}) == {}


def test_train_takes_and_refuses_the_same(small, diffvae, tmp_path):
    cells = small.copy()
    cells.raw = small.copy()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    words = ["train", tmp_path / "cells.h5ad", "--out", tmp_path / "model", "--n-latent", "4", "--n-top-genes", "60"]
    for more, said in (
        (["--patience", "5", "--no-early-stopping"], "--patience is 5, but --early-stopping is False"),
        (["--patience", "5", "--max-epochs", "4"], "--patience is 5, but --max-epochs is 4"),
        (["--patience", "5", "--kind", "pca"], "leave out --patience"),
        (["--use-raw", "--layer", "x"], "--use-raw takes raw, but --layer is 'x'"),
        (["--use-raw", "--backed"], "--use-raw needs the cells in memory"),
        (["--values", "tpm"], "--values is 'tpm'; it must be"),
    ):
        code, _, told = diffvae(*words, *more)
        assert (code, said in told) == (2, True), told
    assert not (tmp_path / "model").exists()
    assert diffvae(*words, "--gene-symbols", "symbol", "--use-raw", "--patience", "2", "--lr", "0.05")[0] == 0
    model = dv.model.load(tmp_path / "model")
    assert small.var["symbol"].iloc[1] in model.gene_names
    out = tmp_path / "embedded.h5ad"
    code, _, told = diffvae("embed", tmp_path / "cells.h5ad", "--model", tmp_path / "model", "--out", out)
    assert (code, "matched to those of the model by var['symbol']" in told) == (0, True), told
    out.unlink()
    embed = ("embed", tmp_path / "cells.h5ad", "--model", tmp_path / "model", "--out", out, "--gene-symbols", "symbol")
    assert diffvae(*embed)[0] == 0
    assert ad.read_h5ad(out).obsm["X_diffvae"].shape == (120, 4)


def test_the_classifier_of_a_perturbation_takes_epochs_and_patience(small, tmp_path, monkeypatch, no_figures):
    pipeline.run(small, tmp_path / "out", label_key="stage", n_top_genes=None, **QUICK)
    with pytest.raises(ValueError, match="patience is 4, but max_epochs is 2"):
        pipeline.perturb(tmp_path / "out", source="stem", patience=4, max_epochs=2)
    changes = pipeline.perturb(
        tmp_path / "out", source="stem", target=["red"], n_random=2, patience=1, max_epochs=2, progress=False
    )
    assert len(changes.classifier.history) <= 2
    assert "--max-epochs 2 --patience 1" in changes.summary["command"]


# The demo of the command line


def test_without_a_file_the_command_asks_for_the_tree_of_the_bundled_cells(diffvae, monkeypatch, tmp_path):
    asked = {}

    def run(*args, **options):
        asked.update(options)
        raise ValueError("enough")

    monkeypatch.setattr(pipeline, "run", run)
    assert "enough" in diffvae("run", "--out", tmp_path / "out")[2]
    assert asked["source"] == ["Ngn3 high EP", "Pre-endocrine"]  # the last one is that whose fates are ranked
    assert asked["target"] == ["Alpha", "Beta", "Delta", "Epsilon"]
    assert asked["min_core"] == 0.1
    assert asked["earlier"] == ["Ductal", "Ngn3 low EP"]
    diffvae("run", "--out", tmp_path / "out", "--min-core", "0.3")
    assert asked["min_core"] == 0.3
    types = set(dv.datasets.pancreas_endocrinogenesis().obs["cell_type"])
    assert types == {*asked["source"], *asked["target"], *asked["earlier"]}
    asked.clear()
    _, _, told = diffvae("run", "--out", tmp_path / "out", "--source", "Ductal")
    assert (asked["source"], asked["target"], asked["earlier"]) == (["Ductal"], None, None)
    assert "No file is given" not in told


def test_a_column_that_is_found_may_not_be_a_batch():
    cells = dv.datasets.simulate_differentiation(100, 40)
    cells.obs = cells.obs[["cell_type"]].rename(columns={"cell_type": "stage"})
    for options in ({"batch_key": "stage"}, {"covariates": ["stage"]}):
        with pytest.raises(ValueError, match=r"label_key is 'stage', and .* as well"):
            pipeline.run(cells, source="HSPC", progress=False, **options)
