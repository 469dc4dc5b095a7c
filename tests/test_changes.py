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
from diffvae.pipeline import _result, _targets
from diffvae.pipeline._folder import sentences
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
    judge = f"The judge (logistic regression on principal components) is right for {summary['judge']['accuracy']:.1%}"
    assert summary["verdict"][1].startswith(judge)
    assert summary["parameters"]["step"] == [0, 0.25, 0.5, 0.75, 1, 1.5]
    assert summary["parameters"]["n_sd"] is None
    assert targets["judged_expression_mean"].between(0, 1).all()
    assert (targets["route"] >= 1).all()
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
    assert a.summary["parameters"]["n_sd"] == [0, 1, 3]
    assert a.summary["parameters"]["step"] is None
    reached = a.perturbation.reaching_step("red")
    assert a.targets["n_sd"].tolist() == [3 if reached is None else reached]
    assert a.targets["reached"].tolist() == [reached is not None]
    assert a.path == tmp_path / "a"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "blue"}, "'blue' is not a type"),
        ({"source": "stem", "target": ["stem"]}, "source and target"),
        ({"source": "stem", "restrict": ["nope"]}, "None of the 1 genes of restrict"),
        ({"source": "stem", "groupby": "nothing"}, "is missing"),
        (
            {"source": "stem", "earlier": ["blue"]},
            r"earlier names 'blue', which is not a type of adata.obs\['cell_type'\]",
        ),
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
    unlabelled = fork_cells.copy()
    unlabelled.obs = unlabelled.obs.drop(columns=["cell_type", "branch"])  # both have it
    result = pipeline.run(
        unlabelled, n_top_genes=None, n_latent=4, max_epochs=2, n_clusters=3, cluster_method="kmeans", source="stem",
        links=False, progress=False,
    )  # fmt: skip
    assert result.changes is None
    assert any(w.startswith("Nothing was perturbed: ") for w in result.summary["warnings"])


def test_the_command(fork_folder, tmp_path, monkeypatch, capsys):
    arguments = ["perturb", fork_folder, "--source", "stem", "--target", "white", "--n-sd", "1, 3", "--n-random", "10"]
    arguments += ["--earlier", "white"]
    monkeypatch.setattr(sys, "argv", ["diffvae", *map(str, arguments), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr()
    assert left.value.code == 0
    assert "white" in said.out
    assert "moved by the smallest step (sd)" in said.out
    assert "< is earlier than the source" in " ".join(said.out.split())
    assert "white is earlier than the source: a conversion goes backwards." in " ".join(said.err.split())
    assert (tmp_path / "out" / "summary.json").is_file()


def test_steps_are_read_however_they_come():
    assert steps("--step", ["0.5", "1"]) == steps("--step", ["0.5 1"]) == steps("--step", ["0.5,1"]) == [0.5, 1.0]
    assert steps("--step", None) is None
    with pytest.raises(ValueError, match="--n-sd is 'one'; give numbers"):
        steps("--n-sd", ["one"])


def test_one_unit_at_a_time(fork_folder, tmp_path):
    with pytest.raises(ValueError, match="step and n_sd are both given"):
        pipeline.perturb(fork_folder, tmp_path / "out", source="stem", step=[1], n_sd=[1], progress=False)


def test_the_step_between_means_can_be_the_method(fork_folder, tmp_path):
    options = {"source": "stem", "target": ["red"], "n_random": 5, "progress": False}
    found = pipeline.perturb(fork_folder, tmp_path / "out", method="expression_mean", step=[1], **options).targets
    assert found["judged"].tolist() == found["judged_expression_mean"].tolist()
    assert {"judged_mean", "judged_shift", "judged_none"} <= set(found)


def test_verdict_names_targets_that_random_directions_reach_as_often():
    targets = pd.DataFrame({"reached": [True, True, False], "q_value": [0.72, 0.02, 0.9]})
    assert _targets._by_chance(targets, 200).tolist() == [True, False, False]
    assert not _targets._by_chance(targets, 10).any()  # so few directions say nothing
    said = dict.fromkeys(("reached", "missed", "far", "upstream", "by_de_genes"), "")
    said |= {"n_targets": 3, "n_random": 200, "n_better": 0}
    assert sentences(_targets.VERDICT, said | {"by_chance": ""}) == []
    assert sentences(_targets.VERDICT, said | {"by_chance": "Ery"}) == [
        "Random directions often lead to Ery as well (q > 0.1), so a conversion to it proves little."
    ]


def test_what_a_killed_process_left_is_written_anew(fork_folder, tmp_path, no_figures):
    options = {"source": "stem", "target": ["red"], "n_random": 10, "progress": False}
    changes = pipeline.perturb(fork_folder, tmp_path / "a", **options)
    (tmp_path / "b" / "classifier").mkdir(parents=True)
    (tmp_path / "b" / "figures").mkdir()
    _result._write_changes(changes, tmp_path / "b")
    for table in (tmp_path / "a" / "tables").iterdir():
        assert (tmp_path / "b" / "tables" / table.name).read_bytes() == table.read_bytes()
