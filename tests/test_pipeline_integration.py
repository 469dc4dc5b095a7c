"""A run with batches shows both sides of integration, and its command repeats it."""

import json
import shlex
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from test_report import data_of

import diffvae as dv
from diffvae._core.runtime import StepLog
from diffvae.pipeline import _integration


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def test_table_summary_and_cells_say_the_same(integrated):
    out = integrated / "out"
    written = summary_of(out)["integration"]
    assert (written["batch_key"], written["n_cells"], written["n_batches"]) == ("batch", 240, 3)
    table = pd.read_csv(out / "tables" / "integration.csv")
    pd.testing.assert_frame_equal(pd.DataFrame(written["scores"]), table, rtol=1e-6)
    assert set(table["side"]) == {"batches mixed", "types kept"}
    assert "isolated types" in set(table["score"])  # red is missing in a batch
    adata = dv.pipeline._folder.read_result(out)[0]
    again = dv.tl.integration(adata, "batch", label_key="cell_type", copy=True)
    pd.testing.assert_frame_equal(again, table, rtol=1e-6)
    pd.testing.assert_frame_equal(pd.DataFrame(adata.uns["diffvae"]["integration"]["table"]), table, rtol=1e-6)
    assert {"integration.png", "tsne_batches.png"} <= {file.name for file in (out / "figures").iterdir()}
    assert written["verdict"] == _integration.verdict(table)


def test_the_page_has_a_section_and_the_batches_as_a_colour(integrated):
    text = (integrated / "out" / "report.html").read_text(encoding="utf-8")
    found = data_of(text)
    assert text.count('<section id="integration">') == 1
    assert [side["title"] for side in found["integration"]["sides"]] == ["batches mixed", "types kept"]
    assert found["integration"]["colours"] == ["batch", "cell_type"]
    group = next(g for g in found["cells"]["groups"] if g["key"] == "batch")
    assert group["names"] == ["batch_1", "batch_2", "batch_3"]
    explained = np.array(found["types"]["batches"])
    assert explained.shape == (6, 2)
    assert explained[:, 1] == pytest.approx(2 / (240 - 3), abs=1e-5)  # by chance: (batches - 1) / (cells - clusters)


def test_a_run_without_batches_has_none_of_it(report_folder):
    assert summary_of(report_folder)["integration"] is None
    assert not (report_folder / "tables" / "integration.csv").exists()
    assert "integration" not in data_of((report_folder / "report.html").read_text(encoding="utf-8"))


def test_the_command_repeats_the_run(integrated, diffvae, tmp_path, monkeypatch, no_figures):
    written = summary_of(integrated / "out")
    words = shlex.split(written["command"])
    assert words[:4] == ["diffvae", "run", "cells.h5ad", "--out"]
    assert written["command"].count("--batch-key batch --covariate depth") == 1
    assert written["parameters"]["covariates"] == ["depth"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells.h5ad").symlink_to(integrated / "cells.h5ad")
    code, said, _ = diffvae(*words[1:])
    assert code == 0
    for name in ("cells", "integration", "history"):
        file = f"tables/{name}.csv"
        assert (tmp_path / "out" / file).read_bytes() == (integrated / "out" / file).read_bytes()
    lines = said.splitlines()
    start = lines.index(next(line for line in lines if line.startswith("Integration over obs['batch']")))
    shown = lines[start : start + 4 + len(written["integration"]["scores"])]
    assert max(len(line.rstrip()) for line in shown) <= 100
    assert [line.strip().split("  ")[0] for line in shown[4:]] == [
        row["side"] for row in written["integration"]["scores"]
    ]


def test_identify_measures_it_again(integrated, tmp_path, no_figures):
    again = dv.pipeline.identify_again(integrated / "out", tmp_path / "out", n_clusters=4, cluster_method="kmeans")
    assert again.summary["integration"] == summary_of(integrated / "out")["integration"]
    assert (tmp_path / "out" / "tables" / "integration.csv").is_file()


def test_generated_cells_are_of_the_named_batch(integrated, diffvae, tmp_path):
    model = integrated / "out" / "model"
    made = {}
    for batch in ("batch_1", "batch_2"):
        assert diffvae("generate", "--model", model, "-o", tmp_path / f"{batch}.h5ad", "--batch", batch)[0] == 0
        made[batch] = dv.pipeline._folder.read.read(tmp_path / f"{batch}.h5ad")
    (a, b) = made.values()
    assert (a.obsm["X_diffvae"] == b.obsm["X_diffvae"]).all()
    assert np.abs(a.X - b.X).max() > 0.01
    code, _, said = diffvae("generate", "--model", model, "-o", tmp_path / "x.h5ad", "--batch", "batch_9")
    assert code == 2
    assert "'batch_9' is not a batch of this model; its batches are 'batch_1', 'batch_2', 'batch_3'." in said


def table_of(mixed, purity=None):
    """Return a table with one score of mixing, and perhaps the purity, each for PCA and the latent space."""
    rows = [("batches mixed", "iLISI", *mixed, 0.9)]
    rows += [] if purity is None else [("types kept", "kNN purity", *purity, 0.2)]
    return pd.DataFrame(rows, columns=["side", "score", "pca", "latent", "permuted"])


def test_the_verdict_says_what_integration_failed_to_do():
    assert _integration.verdict(table_of((0.1, 0.6), (0.9, 0.89))) == []
    assert _integration.verdict(table_of((0.5, 0.4), (0.9, 0.9))) == [
        "The batches are not mixed better than without integration: the mean score is 0.40, and 0.50 for PCA."
    ]
    (lost,) = _integration.verdict(table_of((0.1, 0.6), (0.9, 0.87)))
    assert lost.startswith("Types are kept less well than by PCA without integration: kNN purity is 0.87, and 0.90")
    (unknown,) = _integration.verdict(table_of((0.1, 0.6)))
    assert unknown.startswith("Without label_key nobody knows whether the types were kept")


def test_batches_that_are_too_small_are_a_warning():
    adata = AnnData(np.zeros((30, 3), np.float32), obs={"donor": ["a"] * 25 + ["b"] * 5})
    adata.obsm["X_diffvae"] = np.zeros((30, 2), np.float32)
    log = StepLog(lambda step: None)
    model = SimpleNamespace(columns={"batch_key": "donor"})
    assert _integration.measure(adata, model, None, 0, log) is None
    assert log.warnings == [
        "Integration was not measured: adata.obs['donor'] has only one batch with at least 10 of 30 cells; there is "
        "nothing to mix."
    ]
