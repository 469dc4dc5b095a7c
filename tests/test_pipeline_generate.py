"""Artificial cells of a result, and the table beside them."""

import json

import anndata as ad
import pandas as pd

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
    cells, table = generate(report_folder / "model", tmp_path / "cells.h5ad", 5)  # too few to compare
    assert table is None
    assert "diffvae" not in cells.uns
    assert not (tmp_path / "cells_realism.csv").exists()


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
