"""Perturbation: what run(source=...) and perturb write, print and refuse."""

import json
import sys

import anndata as ad
import pandas as pd
import pytest

import diffvae as dv
from diffvae import pipeline
from diffvae.cli import main
from diffvae.cli._perturb import steps
from diffvae.pp import DataError


def test_run_with_a_source_writes_the_second_part_too(fork_folder):
    part = fork_folder / "perturbation"
    tables = {path.stem for path in (part / "tables").iterdir()}
    assert {"targets", "conversions", "resistance", "effects", "minimal_genes", "minimal_sets"} <= tables
    for name in ("conversions", "conversion_curves", "plasticity", "gene_counts"):
        assert (part / "figures" / f"{name}.png").stat().st_size > 3000
    targets = pd.read_csv(part / "tables" / "targets.csv")
    assert sorted(targets["target"]) == ["red", "white"]
    assert targets["converted"].between(0, 1).all()
    changed = ad.read_h5ad(part / "changed_cells.h5ad")
    assert changed.n_obs == 2 * targets["n_cells"].iloc[0]
    assert "X_diffvae_tsne" in changed.obsm
    summary = json.loads((part / "summary.json").read_text())
    assert summary["parameters"]["source"] == "stem"
    assert summary["verdict"][0].startswith("Accuracy ")
    classifier = dv.model.load(part / "classifier")
    assert classifier.classes == ("red", "stem", "white")
    assert "perturbation" in ad.read_h5ad(fork_folder / "results.h5ad").uns["diffvae"]


def test_perturb_goes_on_from_a_result(fork_folder, tmp_path):
    options = {"source": "stem", "target": ["red"], "n_sd": [1, 3], "n_random": 10, "progress": False}
    a = pipeline.perturb(fork_folder, tmp_path / "a", **options)
    b = pipeline.perturb(fork_folder, tmp_path / "b", **options)
    assert (tmp_path / "a" / "tables" / "minimal_sets.csv").read_text() == (
        tmp_path / "b" / "tables" / "minimal_sets.csv"
    ).read_text()
    pd.testing.assert_frame_equal(a.targets, b.targets)
    assert a.targets["n_sd"].tolist() == [3]
    assert a.path == tmp_path / "a"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "blue"}, "'blue' is not a type"),
        ({"source": "stem", "target": ["stem"]}, "source and target"),
        ({"source": "stem", "restrict": ["nope"]}, "None of the 1 genes of restrict"),
        ({"source": "stem", "groupby": "nothing"}, "is missing"),
    ],
)
def test_what_is_refused_writes_nothing(fork_folder, tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        pipeline.perturb(fork_folder, tmp_path / "out", n_random=2, progress=False, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "blue"}, "'blue' is not a type of adata.obs"),
        ({"source": "stem", "target": ["stem"]}, "source and target"),
        ({"target": ["red"]}, "target is given without source"),
    ],
)
def test_a_run_refuses_types_before_it_trains(fork_cells, options, message):
    told = []
    with pytest.raises(ValueError, match=message):
        pipeline.run(fork_cells, label_key="cell_type", on_step=told.append, **options)
    assert told == ["read"]


def test_a_source_that_no_cluster_was_named_does_not_lose_the_run(fork_cells):
    result = pipeline.run(
        fork_cells, n_top_genes=None, n_latent=4, max_epochs=2, n_clusters=3, cluster_method="kmeans", source="stem",
        links=False, progress=False,
    )  # fmt: skip
    assert result.changes is None
    assert any(w.startswith("Nothing was perturbed: ") for w in result.summary["warnings"])


def test_the_command(fork_folder, tmp_path, monkeypatch, capsys):
    arguments = ["perturb", fork_folder, "--source", "stem", "--target", "white", "--n-sd", "1, 3", "--n-random", "10"]
    monkeypatch.setattr(sys, "argv", ["diffvae", *map(str, arguments), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr()
    assert left.value.code == 0
    assert "white" in said.out
    assert "shifted by 3 sd" in said.out
    assert "Targets with more conversions than by chance" in said.err
    assert (tmp_path / "out" / "summary.json").is_file()


def test_steps_are_read_however_they_come():
    assert steps(["0.5", "1"]) == steps(["0.5 1"]) == steps(["0.5,1"]) == [0.5, 1.0]
    with pytest.raises(ValueError, match="--n-sd is 'one'; give numbers"):
        steps(["one"])
