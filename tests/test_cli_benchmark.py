"""``diffvae benchmark`` from the command line."""

import json

import pandas as pd
import pytest

import diffvae as dv
from diffvae.cli._benchmark import k_given_of, keys_of, methods_of


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    paths = [folder / "one.h5ad", folder / "two.h5ad"]
    for seed, path in enumerate(paths):
        dv.datasets.simulate_differentiation(200, 150, rng=seed).write_h5ad(path)
    return [str(path) for path in paths]


CHEAP = ("--label-key", "cell_type", "--n-latent", "8", "--clusterer", "kmeans", "--space", "latent",
         "--trainings", "2", "--clusterings", "2")  # fmt: skip


def test_two_files_two_methods_and_a_configuration(diffvae, files, tmp_path, monkeypatch):
    config = tmp_path / "quick.json"
    config.write_text(json.dumps({"hidden": [16, 8], "max_epochs": 2}))
    out = tmp_path / "out"
    asked = (*files, *CHEAP, "--out", str(out), "--method", "PCA", "--config", str(config))
    code, printed, told = diffvae("benchmark", *asked)
    assert code == 0, told
    assert "k-means" in printed
    assert "DiffVAE (quick)" in printed
    runs = pd.read_csv(out / "runs.csv")
    assert set(runs["method"]) == {"PCA", "DiffVAE (quick)"}
    assert set(runs["dataset"]) == {"one", "two"}
    assert len(runs) == 2 * 2 * 2 * 2
    assert "diffvae benchmark " in (out / "report.md").read_text()
    assert json.loads((out / "summary.json").read_text())["state"] == "complete"
    assert (out / "figures").is_dir()
    before = {f: f.stat().st_mtime_ns for f in (out / "tasks").rglob("*") if f.is_file()}
    monkeypatch.setattr("diffvae.benchmark._comparison.figures", lambda found: {})
    assert diffvae("benchmark", *asked)[0] == 0  # nothing is computed again, only the report is written again
    assert {f: f.stat().st_mtime_ns for f in (out / "tasks").rglob("*") if f.is_file()} == before


def test_bad_input_ends_with_a_sentence_and_writes_nothing(diffvae, files, tmp_path):
    out = str(tmp_path / "out")
    for change, sentence in (
        (("--method", "tSNE"), "--method is 'tSNE'; the methods are"),
        (("--label-key", "kind"), "--label-key is"),
        (("--batch-key", "kind"), "obs has no column 'kind' (--batch-key) in any data set; one has 'cell_type'"),
        (("--config", str(tmp_path / "none.json")), "does not exist"),
        (("--choose-k-of", "leiden"), "--choose-k-of is 'leiden', which is not among the clusterers kmeans; choose"),
        (("--choose-k", "--choose-k-of", "kmeans"), "give only one of the two"),
    ):
        code, _, told = diffvae("benchmark", files[0], *CHEAP, "--out", out, *change)
        assert code == 2
        assert sentence in " ".join(told.split())
    assert not (tmp_path / "out").exists()


def test_label_keys():
    assert keys_of(["cell_type"]) == "cell_type"
    assert keys_of(["a=cell_type", "b=cluster=2"]) == {"a": "cell_type", "b": "cluster=2"}
    with pytest.raises(ValueError, match="with several keys, each must be NAME=KEY"):
        keys_of(["a=cell_type", "cluster"])


def test_whether_the_number_of_clusters_is_given():
    both = ("kmeans", "leiden")
    assert k_given_of(False, [], both, ("latent",)) == (True,)
    assert k_given_of(True, [], both, ("latent",)) == (True, False)
    assert k_given_of(False, ["leiden"], both, ("latent",)) == {"leiden": (True, False)}
    with pytest.raises(ValueError, match="give --space latent, or another --clusterer"):
        k_given_of(False, [], ("leiden_posterior",), ("tsne",))


def test_methods_are_the_usual_ones_or_those_that_were_named(tmp_path):
    assert list(methods_of(None, [])) == ["DiffVAE", "VAE", "AE", "PCA"]
    assert list(methods_of(["PCA", "DiffVAE (code)"], [])) == ["PCA", "DiffVAE (code)"]
    config = tmp_path / "best.json"
    config.write_text('{"lr": 0.002}')
    assert list(methods_of(None, [config])) == ["DiffVAE", "PCA", "DiffVAE (best)"]
