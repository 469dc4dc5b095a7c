import pytest

import diffvae as dv


def test_on_any_cells(diffvae, tmp_path, monkeypatch):
    monkeypatch.setattr("diffvae.benchmark.reproduction._reproduce.figures", lambda *_: {})  # they take longest
    monkeypatch.setattr("diffvae.benchmark._tasks.N_ITER", 20)
    cells = dv.datasets.simulate_differentiation(90, 60, tree={"stem": ["red", "white"]}, effect=2)
    del cells.uns["diffvae_dataset"]  # which knows its progenitors
    cells.write_h5ad(tmp_path / "mine.h5ad")
    out = tmp_path / "out"
    asked = ["--trainings", 1, "--clusterings", 1, "--n-latent", 4, "--max-epochs", 2, "--label-key", "cell_type"]
    code, said, told = diffvae("reproduce", "--on", tmp_path / "mine.h5ad", "--out", out, *asked)
    assert code == 0, told
    assert said.startswith("Claims of the paper, under its presets")
    assert "DiffVAE clusters better than VAE, AE and PCA" in said
    assert said.endswith(f"Written to {out}: tables, figures, summary.json\nReport: {out / 'report.html'}\n")
    assert "· compare with VAE, AE and PCA (Table 2)" in told
    page = (out / "report.html").read_text()
    assert "<h1>Reproduction of the paper on <bdi>mine</bdi></h1>" in page
    assert "published" not in page.lower()
    assert "<dt>Progenitors</dt><dd>none is named (--source, source=), so nothing is perturbed</dd>" in page
    assert f"diffvae reproduce --on {tmp_path / 'mine.h5ad'}" in page


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Name a data set of the paper (zebrafish, pancreas, human-hsc), or other cells with --on FILE."),
        (["zebrafish", "--on", "x.h5ad"], "Name a data set of the paper"),
        (["goldfish"], "'goldfish' is no data set of the paper; they are zebrafish, pancreas, human-hsc."),
        (["--on", "x.h5ad"], "--on needs --label-key"),
        (["--on", "x.h5ad", "--label-key", "t"], "There is no file or folder 'x.h5ad'."),
        (["pancreas", "--path", "nowhere"], "pancreas can't be reproduced without its cells. nowhere is not a folder"),
    ],
)
def test_bad_usage_is_a_sentence(diffvae, arguments, sentence, tmp_path):
    code, said, told = diffvae("reproduce", *arguments, "--out", tmp_path / "out")
    assert (code, said) == (2, "")
    assert sentence in told
    assert not (tmp_path / "out").exists()
