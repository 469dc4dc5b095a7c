"""Artificial cells of a result, and the table beside them."""

import json
import shutil

import anndata as ad
import pandas as pd
import pytest

import diffvae as dv
from diffvae.pipeline._generate import generate, sentence


def test_cells_of_a_result_are_compared_with_its_cells(report_folder, diffvae, tmp_path):
    out, table = tmp_path / "cells.h5ad", tmp_path / "cells_realism.csv"
    code, said, _ = diffvae("generate", "--model", report_folder / "model", "-n", 60, "-o", out)
    assert code == 0
    written = pd.read_csv(table, index_col="measure")
    assert list(written) == ["artificial", "real"]
    assert {"auc", "sd_ratio", "zeros_correlation", "type_error"} <= set(written.index)
    assert written.loc["n_cells"].eq(60).all()
    cells = ad.read_h5ad(out)
    assert cells.uns["diffvae"]["realism"] == said.splitlines()[0] == sentence(written)
    assert said.splitlines()[1].startswith(f"Written to {out}: 60 artificial cells")
    assert (cells.X == 0).mean() > 0.02
    assert written.loc["sd_ratio", "artificial"] > 0.8

    code, said, _ = diffvae(
        "generate", "--model", report_folder / "model", "-n", 60, "-o", out, "--expected", "--overwrite"
    )
    assert code == 0
    assert said.startswith("The artificial cells differ from real ones: ")
    expected = pd.read_csv(table, index_col="measure")["artificial"]
    assert expected["auc"] > written.loc["auc", "artificial"]
    assert expected["sd_ratio"] < written.loc["sd_ratio", "artificial"]


def test_a_model_alone_has_no_table_and_an_old_one_goes(report_folder, tmp_path):
    generate(report_folder / "model", tmp_path / "cells.h5ad", 30)
    assert (tmp_path / "cells_realism.csv").is_file()
    cells, table = generate(report_folder / "model", tmp_path / "cells.h5ad", 5, overwrite=True)  # too few to compare
    assert table is None
    assert "diffvae" not in cells.uns
    assert not (tmp_path / "cells_realism.csv").exists()


@pytest.mark.parametrize("n_cells", [5, 30])  # without and with a table
def test_a_table_of_the_user_stays(report_folder, diffvae, tmp_path, n_cells):
    mine = tmp_path / "cells_realism.csv"
    mine.write_text("mine")
    code, _, said = diffvae(
        "generate", "--model", report_folder / "model", "-n", n_cells, "-o", tmp_path / "cells.h5ad"
    )
    assert code != 0
    assert f"'{mine}' exists already; name another file" in " ".join(said.split())
    assert "--overwrite" in said
    assert mine.read_text() == "mine"
    assert not (tmp_path / "cells.h5ad").exists()


@pytest.fixture
def compared(fork_folder, tmp_path, monkeypatch):
    """Return a function that changes the cells of a result and says what artificial cells are compared by."""
    seen = {}

    def realism(expression, artificial, labels=None, artificial_labels=None, **options):
        seen.update(labels=labels, made=artificial_labels, n=expression.shape[0])
        return measure(expression, artificial, labels, artificial_labels, **options)

    measure = dv.metrics.realism
    monkeypatch.setattr(dv.metrics, "realism", realism)
    for name in ("model", "summary.json"):
        copy = shutil.copytree if (fork_folder / name).is_dir() else shutil.copy
        copy(fork_folder / name, tmp_path / name)

    def compare(**columns):
        cells = ad.read_h5ad(fork_folder / "results.h5ad")
        for name, column in columns.items():
            cells.obs[name] = column(cells.obs["cell_type"].astype(str))
        cells.write_h5ad(tmp_path / "results.h5ad")
        _, table = generate(tmp_path / "model", tmp_path / "cells.h5ad", 200, overwrite=True)
        return table, seen, cells

    return compare


def test_types_are_those_of_the_run(compared):
    """The run was told the types by label_key; the names of its clusters say nothing here."""
    table, seen, cells = compared(diffvae_cell_type=lambda types: "unassigned")
    assert seen["labels"].tolist() == cells.obs["cell_type"].tolist()
    assert set(seen["made"]) == {"red", "stem", "white"}
    assert table.loc["type_error", "artificial"] < 0.2


def test_cells_without_a_type_count_in_no_share(compared):
    table, seen, cells = compared(cell_type=lambda types: types.where(types != "stem"))
    assert seen["n"] == len(seen["labels"]) == cells.n_obs
    for found in (seen["labels"], seen["made"]):
        assert set(found) == {"red", None, "white"}
    assert "type_error" in table.index
    table, seen, _ = compared(cell_type=lambda types: types.where(types == "stem", "unassigned"))
    assert seen["labels"] is seen["made"] is None
    assert "type_error" not in table.index
    assert "Types" not in sentence(table)


@pytest.mark.parametrize("where", ["perturbation", "demo"])
def test_a_folder_without_a_model_of_cells_is_refused(report_folder, diffvae, tmp_path, where):
    folder = report_folder / where / "classifier" if where == "perturbation" else report_folder
    code, _, said = diffvae("generate", "--model", folder, "-o", tmp_path / "cells.h5ad")
    assert code != 0
    said = " ".join(said.split())
    assert ("holds a CellStateClassifier, which makes no cells; give the folder" if where == "perturbation" else
            "is not a saved model") in said  # fmt: skip
    assert "attribute" not in said
    assert not any(tmp_path.iterdir())


def test_the_model_of_a_run_with_batches(integrated, tmp_path, recwarn):
    cells, table = generate(integrated / "out" / "model", tmp_path / "cells.h5ad", 50, batch="batch_2")
    assert table is not None
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]
    assert json.dumps(cells.uns["diffvae"]["realism"])


def test_the_sentence_says_how_alike_they_are():
    table = pd.DataFrame({"artificial": {"auc": 0.55, "sd_ratio": 1.02, "zeros_error": 0.02}}).assign(
        real=lambda t: t["artificial"]
    )
    assert sentence(table).startswith("The artificial cells look like real ones: ")
    table.loc["auc", "artificial"] = 0.7
    assert sentence(table).startswith("The artificial cells resemble real ones: ")
    assert "Types" not in sentence(table)
    table.loc["type_error"] = [0.1, 0.05]
    assert sentence(table).endswith("Types have other shares for 10% of the cells (among real cells 5%).")
