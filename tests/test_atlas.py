"""A run on cells that stay on disk: when it happens, its sample, and what all cells get."""

import itertools
import json
import subprocess
import sys
import warnings
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import diffvae as dv
from diffvae import _keys
from diffvae._core.io import memory
from diffvae.pipeline import _cells
from diffvae.pp import DataError
from diffvae.report import _made
from diffvae.report._folder import Folder

OPTIONS = {"max_epochs": 3, "n_latent": 8, "n_top_genes": 100, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    adata = dv.datasets.simulate_differentiation(500, 150, rng=0)
    adata.X = sp.csr_matrix(adata.X)
    order = np.argsort(adata.obs["cell_type"].to_numpy(), kind="stable")  # sorted by type, as atlases are by sample
    paths = [folder / "a.h5ad", folder / "b.h5ad"]
    for path, rows in zip(paths, (order[:200], order[200:]), strict=True):
        adata[rows].copy().write_h5ad(path)
    return paths


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "results"
    markers = pd.DataFrame({"cell_type": ["A", "A", "B", "B"], "gene": ["gene_0", "gene_1", "gene_2", "gene_3"]})
    told = []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in dv.pl.__all__:
            patch.setattr(dv.pl, name, lambda *args, **options: None)
        patch.setattr(_cells, "BLOCK", 70)
        markers["gene"] = ad.read_h5ad(shards[0]).var_names[:4]
        found = dv.pipeline.run(
            shards, out, subsample=200, label_key="cell_type", markers=markers, n_clusters=3, cluster_method="kmeans",
            k=3, on_step=told.append, **OPTIONS,
        )  # fmt: skip
    return found, out, told


def test_the_folder_has_a_sample_and_all_cells(run):
    found, out, _ = run
    sample, every = ad.read_h5ad(out / "results.h5ad"), ad.read_h5ad(out / "all_cells.h5ad")
    assert (sample.n_obs, every.n_obs) == (200, 500)
    drawn = every[every.obs[_keys.DRAWN].to_numpy()]
    assert drawn.obs_names.tolist() == sample.obs_names.tolist()
    for key in (_keys.CLUSTER, _keys.CELL_TYPE):
        assert drawn.obs[key].astype(str).tolist() == sample.obs[key].astype(str).tolist()
    for key in (_keys.LATENT, _keys.TSNE):
        np.testing.assert_array_equal(drawn.obsm[key], sample.obsm[key])
    _, sd = dv.model.load(out / "model").get_posterior(sample)
    np.testing.assert_allclose(sample.obsm[_keys.LATENT + _keys.SD], sd, rtol=1e-4)
    assert [p.name for p in out.parent.iterdir()] == ["results"]  # nothing is left of the work
    assert found.path == out


def test_the_report_prints_the_command_that_makes_it_again(run):
    _, out, _ = run
    (line,) = _made.commands(Folder.open(out))
    assert line.startswith("diffvae run a.h5ad b.h5ad --backed --out results ")
    assert {"--subsample 200", "--label-key cell_type", "--max-epochs 3"} <= {
        f"{name} {value}" for name, value in itertools.pairwise(line.split())
    }


def test_the_latent_representation_is_that_of_the_model(run, shards):
    _, out, _ = run
    every = ad.read_h5ad(out / "all_cells.h5ad")
    z = dv.model.load(out / "model").get_latent_representation(shards)
    np.testing.assert_allclose(every.obsm[_keys.LATENT], z, atol=1e-5)


def test_other_cells_follow_the_nearest_centroid_and_lie_among_their_like(run):
    _, out, _ = run
    every = ad.read_h5ad(out / "all_cells.h5ad")
    drawn, cluster = every.obs[_keys.DRAWN].to_numpy(), every.obs[_keys.CLUSTER].to_numpy()
    z, places = every.obsm[_keys.LATENT], every.obsm[_keys.TSNE]
    names = np.unique(cluster)
    centroids = np.stack([z[drawn & (cluster == name)].mean(axis=0) for name in names])
    nearest = names[np.linalg.norm(z[:, None] - centroids, axis=2).argmin(axis=1)]
    assert (nearest[~drawn] == cluster[~drawn]).all()
    assert np.isfinite(places).all()
    # the nearest drawn cell on the map is mostly of the same cluster, far beyond chance
    gaps = np.linalg.norm(places[~drawn, None] - places[None, drawn], axis=2)
    same = cluster[drawn][gaps.argmin(axis=1)] == cluster[~drawn]
    shuffled = np.random.default_rng(0).permutation(same.size)
    assert same.mean() > 0.8 > (cluster[drawn][gaps.argmin(axis=1)][shuffled] == cluster[~drawn]).mean()


def test_the_summary_says_it(run):
    found, out, told = run
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["n_cells"], summary["sample"]["n_drawn"]) == (500, 200)
    assert 0 < summary["sample"]["centroids_give_back"] <= 1
    assert any("a random sample of 200 of 500 cells" in w for w in summary["warnings"])
    assert any("stay on disk" in sentence for sentence in told)
    assert found.clusters["n_all_cells"].sum() == 500
    assert found.clusters["n_cells"].sum() == 200
    assert found.links is not None


def test_the_size_decides(shards, monkeypatch):
    assert memory.stays_on_disk(shards[0], None) == ""
    assert "as requested" in memory.stays_on_disk(shards[0], True)
    assert memory.stays_on_disk(shards, None)
    assert memory.free_memory() > 2**20
    monkeypatch.setattr(memory, "free_memory", lambda: 1e5)
    assert "200 cells x 150 genes would take about" in memory.stays_on_disk(shards[0], None)
    assert memory.stays_on_disk(shards[0], False) == ""
    monkeypatch.setattr(memory, "free_memory", lambda: 1e12)
    monkeypatch.setattr(memory, "MANY_CELLS", 199)
    assert "more than 199 cells" in memory.stays_on_disk(shards[0], None)
    assert memory.stays_on_disk("cells.csv", None) == ""
    assert memory.stays_on_disk(None, None) == ""


def test_what_lies_beside_the_matrix_counts_too(shards, tmp_path, monkeypatch):
    adata = ad.read_h5ad(shards[0])
    matrix = memory.COPIES * adata.X.nnz * 8
    adata.obsm["X_large"] = np.zeros((200, matrix // 800))  # twice the matrix's own need
    adata.write_h5ad(tmp_path / "cells.h5ad", compression="gzip")
    monkeypatch.setattr(memory, "free_memory", lambda: 2.2 * matrix)
    assert "stay on disk" in memory.stays_on_disk(tmp_path / "cells.h5ad", None)


def test_refused_before_anything_is_written(shards, tmp_path):
    out = tmp_path / "out"
    for data, options, sentence in (
        (shards, {"out": None}, "results need a folder"),
        (shards, {"out": out, "cluster_method": "dbscan"}, "no centroids"),
        (shards, {"out": out, "subsample": 5}, "subsample is 5"),
        (shards, {"out": out, "backed": False}, "Several files can only be read from disk"),
        (shards, {"out": out, "transpose": True}, "genes in rows"),
        (shards, {"out": out, "subsample": 100, "n_clusters": 101}, "only 100 cells are clustered"),
        (shards, {"out": out, "label_key": "type"}, r"adata.obs\['type'\] is missing"),
        (None, {"out": out, "backed": True}, "[Tt]he cells are in memory"),
        (shards[0].with_name("none.h5ad"), {"out": out, "backed": True}, "no file or folder"),
    ):
        with pytest.raises((ValueError, DataError), match=sentence):
            dv.pipeline.run(data, **options)
    assert not list(tmp_path.iterdir())


def test_the_model_of_a_run_holds_no_cells_that_are_gone(run, shards):
    model = run[0].model
    for verb in (model.diagnose, model.get_latent_representation):
        with pytest.raises(RuntimeError, match=r"trained on cells there, and holds no cells; pass them as adata="):
            verb()
    assert model.get_latent_representation(shards).shape == (500, 8)


def test_prepared_cells_whose_x_has_columns_are_refused_before_the_training(shards, tmp_path):
    cells = ad.read_h5ad(shards[0])
    dv.pp.prepare(cells, n_top_genes=60)
    cells.X = sp.csc_matrix(cells.X)
    cells.write_h5ad(tmp_path / "prepared.h5ad")
    with pytest.raises(DataError, match=r"store it by rows first: adata\.X = adata\.X\.tocsr\(\)"):
        dv.pipeline.run(tmp_path / "prepared.h5ad", tmp_path / "out", backed=True, **OPTIONS | {"n_top_genes": 60})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["prepared.h5ad"]


@pytest.mark.parametrize("backed", [True, False])
def test_a_run_takes_prepared_cells_as_they_are(shards, tmp_path, backed, no_figures):
    whole = dv.pp.prepare(shards, out=tmp_path / "whole.h5ad", n_top_genes=60)
    some, out = tmp_path / "some.h5ad", tmp_path / "out"
    ad.read_h5ad(whole)[100:].copy().write_h5ad(some)
    options = OPTIONS | {"links": False, "backed": backed, "n_clusters": 2, "cluster_method": "kmeans"}
    for other, sentence in (
        (
            {"n_top_genes": 20},
            "have been prepared with n_top_genes=60, not 20; leave it out, or give the original data",
        ),
        ({"n_top_genes": 60, "layer": "counts"}, "prepared without layer, not with 'counts'"),
        ({"n_top_genes": 60, "batch_key": "nope"}, r"obs has no column 'nope' \(batch_key\)"),
    ):
        with pytest.raises(DataError, match=sentence):
            dv.pipeline.run(some, out, **options | other)
    del options["n_top_genes"]  # the default, which nobody asked for
    found = dv.pipeline.run(some, out, subsample=200, **options)
    assert (found.summary["n_cells"], found.summary["n_genes_kept"]) == (400, 60)
    assert found.summary["parameters"]["n_top_genes"] == 60
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "some.h5ad", "whole.h5ad"]
    assert found.model.get_latent_representation().shape == (400, 8)  # their file is there still


def test_a_run_that_fails_leaves_nothing(shards, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(_cells.BackedRun, "finish", fail)
    with pytest.raises(OSError, match="disk is full"):
        dv.pipeline.run(shards, tmp_path / "out", subsample=100, n_clusters=2, cluster_method="kmeans", **OPTIONS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["run", pytest.param("train", marks=pytest.mark.large)])
def test_a_full_disk_ends_the_command_with_a_sentence(shards, tmp_path, command):
    pytest.importorskip("resource")
    limited = (
        "import resource, signal, sys; from diffvae.cli import main; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])); main()"
    )
    words = [sys.executable, "-c", limited, command, *shards, "--out", tmp_path / "out", "--max-epochs", "1"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=240)
    assert done.returncode == 1  # and not a crash of HDF5's on leaving
    # HDF5 prints tracebacks of its own before
    sentence = f"Error: '{tmp_path / 'out'}' can't be written (File too large); nothing is left of it."
    assert done.stderr.splitlines()[-1] == sentence
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_removed_by_the_next(shards, tmp_path):
    for name in (".out.0123abcd.work", ".other.0123abcd.work"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "prepared.h5ad").write_text("gigabytes")
    config = SimpleNamespace(
        data=shards,
        out=tmp_path / "out",
        cluster_method="kmeans",
        subsample=100,
        use_raw=False,
        gene_symbols=None,
        genome=None,
        min_genes=None,
    )
    backed_run = _cells.BackedRun(config)
    assert sorted(tmp_path.iterdir()) == sorted([backed_run.work, tmp_path / ".other.0123abcd.work"])


def test_train_and_embed_on_the_command_line(shards, tmp_path, diffvae):
    model, z = tmp_path / "model", tmp_path / "z.h5ad"
    options = ("--max-epochs", "2", "--n-latent", "5", "--n-top-genes", "100", "--device", "cpu")
    code, _, err = diffvae("train", *shards, "--out", model, *options)
    assert (code, "stay on disk" in err) == (0, True)
    code, out, err = diffvae("embed", *shards, "--model", model, "--out", z)
    assert (code, "500 cells" in out) == (0, True), err
    found = ad.read_h5ad(z)
    assert (found.X, found.obsm[_keys.LATENT].shape) == (None, (500, 5))
    kept = ad.concat([ad.read_h5ad(path) for path in shards])
    np.testing.assert_allclose(
        found.obsm[_keys.LATENT], dv.model.load(model).get_latent_representation(kept), atol=1e-5
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "z.h5ad"]
    code, _, err = diffvae("train", *shards, "--kind", "pca", "--out", tmp_path / "pca")
    assert (code, "needs the cells in memory" in err) == (2, True)
    code, _, err = diffvae("embed", *shards, "--in-memory", "--model", model, "--out", tmp_path / "y.h5ad")
    assert (code, "Several files can only be read from disk" in err) == (2, True)
