"""The comparison of representations: what is computed, once, resumed, and the same whoever computes it."""

import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile

import numpy as np
import pandas as pd
import pytest

import diffvae as dv
from diffvae._errors import OutputError
from diffvae.benchmark import _work
from diffvae.benchmark._clusterers import partitions
from diffvae.benchmark._run import METRICS
from diffvae.benchmark._store import Store

TIMES = ["training_seconds", "clustering_seconds"]
CHEAP = {"metrics": ["ari", "nmi", "overlap", "knn_purity"], "progress": False}


class Fixed:
    """A method that knows, or guesses, without looking at expression."""

    def __init__(self, n_latent=8, kind="noise", trained=None):
        self.n_latent, self.kind, self.trained = n_latent, kind, trained

    def get_params(self):
        return {"n_latent": self.n_latent, "kind": self.kind}

    def train(self, adata, *, rng, progress):
        chance = np.random.default_rng(rng)
        z = chance.normal(size=(adata.n_obs, self.n_latent))
        if self.kind == "truth":
            codes = adata.obs["cell_type"].cat.codes.to_numpy()
            z = 0.01 * z + np.eye(self.n_latent)[codes]
        return Fixed(self.n_latent, self.kind, z)

    def get_latent_representation(self):
        return self.trained


class Picky(Fixed):
    """A method that can't be trained on these cells."""

    def train(self, adata, *, rng, progress):
        raise ValueError("it wants counts; give some.")


@pytest.fixture(scope="module")
def cells():
    cells = dv.datasets.simulate_differentiation(400, 200, rng=3)
    assert cells.obs["cell_type"].value_counts().min() > 15  # so that 15 neighbours can be of one type
    return cells


@pytest.fixture(scope="module")
def few():
    """Cells for what does not depend on how well they are told apart: a map of them takes a quarter of a second."""
    return dv.datasets.simulate_differentiation(120, 100, rng=3)


def compare(cells, methods, **options):
    return dv.benchmark.run({"tree": cells}, methods, label_key="cell_type", **(CHEAP | options))


def same(a, b):
    pd.testing.assert_frame_equal(a.table.drop(columns=TIMES), b.table.drop(columns=TIMES))
    pd.testing.assert_frame_equal(a.types, b.types)


def test_truth_scores_one_and_noise_about_zero(cells):
    found = compare(
        cells,
        {"truth": Fixed(kind="truth"), "noise": Fixed()},
        n_latent=8,
        n_trainings=2,
        n_clusterings=2,
        metrics=METRICS,
    ).table
    truth, noise = (found[found["method"] == name] for name in ("truth", "noise"))
    told = truth[truth["k_given"] & (truth["space"] == "latent")]
    assert (told[["ari", "nmi", "overlap", "knn_purity"]] > 0.999).all(axis=None)
    # a random start can tear a type in two on the map, where k-means then stays
    assert truth.loc[truth["space"] == "tsne", "ari"].mean() > 0.8
    assert truth["type_alignment"].min() > 0.999
    assert noise["ari"].abs().max() < 0.06
    assert noise["type_alignment"].max() < 0.35
    assert truth["dci_informativeness"].min() > 0.95
    assert noise["dci_informativeness"].max() < 0.2
    # one dimension per type is what the scores of disentanglement ask for
    assert truth[["mig", "dci_disentanglement", "dci_completeness"]].min(axis=None) > 0.8
    assert noise["mig"].max() < 0.1
    assert found["reconstruction_r2"].isna().all()  # neither can decode


def test_rows_are_what_was_asked_for(few):
    found = compare(few, ["PCA", "PCA (unit)"], n_latent=[5, 10], n_trainings=2, n_clusterings=3)
    table = found.table
    # 2 methods x 2 sizes x 2 trainings x (3 algorithms x 3 seeds + DBSCAN once on the latent, and 3 times on maps)
    assert len(table) == 2 * 2 * 2 * (3 * 3 + 1 + 4 * 3)
    dbscan = table[(table["clusterer"] == "dbscan") & (table["space"] == "latent")]
    assert (dbscan["clustering_seed"] == 0).all()
    assert not dbscan["k_given"].any()
    assert table.loc[table["clusterer"].isin(["kmeans", "gmm"]), "n_clusters"].eq(8).all()
    assert len(found.types) == 8 * len(table)
    one = found.types.merge(table.head(1)[["method", "n_latent", "seed", "clustering_seed", "space", "clusterer"]])
    assert np.isclose((one["n_cells"] * one["recall"]).sum() / one["n_cells"].sum(), table["overlap"].iloc[0])


def test_trainings_differ_and_the_seed_decides(few):
    options = {"n_latent": 5, "n_trainings": 2, "n_clusterings": 1, "spaces": ["latent"], "clusterers": ["kmeans"]}
    first, again = (compare(few, ["PCA"], **options) for _ in range(2))
    same(first, again)
    other = compare(few, ["PCA"], **options, rng=1)
    assert not np.array_equal(first.table["knn_purity"], other.table["knn_purity"])
    assert first.table["knn_purity"].nunique() == 2


def test_choosing_the_number(few):
    asked = {"n_latent": 5, "n_trainings": 1, "n_clusterings": 1, "spaces": ["latent"]}
    table = compare(few, ["PCA"], clusterers=["leiden", "scanpy"], k_given=[True, False], **asked).table
    assert table[["clusterer", "k_given"]].values.tolist() == [["leiden", True], ["leiden", False], ["scanpy", False]]


def test_cells_without_a_label_are_not_scored(cells):
    some = cells.copy()
    some.obs.loc[some.obs_names[::3], "cell_type"] = np.nan
    asked = {"n_latent": 8, "n_trainings": 1, "n_clusterings": 1, "spaces": ["latent"], "clusterers": ["kmeans"]}
    found = compare(some, ["PCA"], **asked)
    assert found.types["n_cells"].sum() == some.obs["cell_type"].notna().sum()


def test_a_failing_method_is_reported_and_the_others_stay(few):
    asked = {"n_latent": 8, "n_trainings": 1, "n_clusterings": 1}
    with pytest.warns(UserWarning, match="picky on tree, n_latent=8: it wants counts; give some"):
        found = compare(few, {"picky": Picky(), "noise": Fixed()}, **asked)
    assert set(found.table["method"]) == {"noise"}


def test_reconstruction_is_on_one_scale(cells):
    asked = {"n_latent": 20, "n_trainings": 1, "n_clusterings": 1, "spaces": ["latent"], "clusterers": ["kmeans"]}
    table = compare(cells, ["PCA", "PCA (unit)"], **asked, metrics=["ari", "reconstruction_r2"]).table
    by = table.set_index("method")["reconstruction_r2"]
    assert 0.01 < by["PCA"] < by["PCA (unit)"] < 1  # the one that minimises it on that scale has the most of it


def test_what_is_there_is_not_computed_again(few, tmp_path, monkeypatch):
    asked = {"n_latent": 5, "n_trainings": 2, "n_clusterings": 2, "out": tmp_path / "out"}
    whole = compare(few, ["PCA"], **{**asked, "out": None})
    first = compare(few, ["PCA"], **asked)
    same(first, whole)
    kept = {f: f.stat().st_mtime_ns for f in (tmp_path / "out" / "tasks").rglob("*") if f.is_file()}
    assert kept
    calls = []
    train = _work.train
    monkeypatch.setattr(_work, "train", lambda *args: calls.append(args[2].name) or train(*args))
    same(compare(few, ["PCA"], **asked), first)
    assert calls == []
    renamed = compare(few, {"components": dv.benchmark.methods()["PCA"]}, **asked)
    assert calls == []
    assert renamed.table["method"].eq("components").all()
    more = compare(few, ["PCA", "PCA (unit)"], **(asked | {"n_clusterings": 3}))
    assert calls == ["PCA (unit)"] * 2
    assert all(f.stat().st_mtime_ns == t for f, t in kept.items())
    same(more, compare(few, ["PCA", "PCA (unit)"], **(asked | {"n_clusterings": 3, "out": None})))


def test_other_cells_or_parameters_are_other_work(few, tmp_path):
    asked = {
        "n_latent": 5,
        "n_trainings": 1,
        "n_clusterings": 1,
        "spaces": ["latent"],
        "clusterers": ["kmeans"],
        "out": tmp_path,
    }
    first = compare(few, ["PCA"], **asked)
    fewer = compare(few[:100].copy(), ["PCA"], **asked)
    assert fewer.types["n_cells"].sum() == 100
    scaled = compare(few, ["PCA"], **asked, n_top_genes=50)
    assert scaled.table["knn_purity"].iloc[0] != first.table["knn_purity"].iloc[0]


def test_damaged_pieces_are_named(few, tmp_path):
    asked = {
        "n_latent": 5,
        "n_trainings": 1,
        "n_clusterings": 1,
        "spaces": ["latent"],
        "clusterers": ["kmeans"],
        "out": tmp_path,
    }
    compare(few, ["PCA"], **asked)
    for file in (tmp_path / "tasks").rglob("*.json"):
        file.write_text("{")
    with pytest.raises(ValueError, match=r"latent-.*is damaged.*delete it and start again"):
        compare(few, ["PCA"], **asked)


def huge(file):
    with zipfile.ZipFile(file, "w") as packed, packed.open("about.npy", "w") as member:
        header = {"shape": (10**13,), "fortran_order": False, "descr": "<f4"}
        np.lib.format.write_array_header_1_0(member, header)


def of_header(place, value):
    """Return what changes both headers of the first member of a zip: its flags, say."""

    def change(file):
        np.savez(file, about=np.array("{}"))
        content = bytearray(file.read_bytes())
        for mark, offset in ((b"PK\x03\x04", place), (b"PK\x01\x02", place + 2)):
            at = content.index(mark) + offset
            content[at : at + 2] = value.to_bytes(2, "little")
        file.write_bytes(content)

    return change


def packed_badly(file):
    np.savez_compressed(file, about=np.zeros(1000))
    content = bytearray(file.read_bytes())
    content[60:70] = b"\xff" * 10
    file.write_bytes(content)


DAMAGES = {
    "numbers without end": ("a.npz", huge),
    "said to be encrypted": ("a.npz", of_header(6, 1)),
    "packed in another way": ("a.npz", of_header(8, 99)),
    "packed badly": ("a.npz", packed_badly),
    "nothing": ("a.npz", lambda file: file.write_bytes(b"")),
    "an archive of nothing": ("a.npz", lambda file: zipfile.ZipFile(file, "w").close()),
    "words that are no JSON": ("a.npz", lambda file: np.savez(file, about=np.array("{"))),
    "brackets without end": ("a.json", lambda file: file.write_text("[" * 200_000)),
    "no text": ("a.json", lambda file: file.write_bytes(b"\xff\xfe")),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_whatever_is_wrong_with_a_piece_it_is_named(tmp_path, case):
    name, damage = DAMAGES[case]
    (tmp_path / "tasks").mkdir()
    damage(tmp_path / "tasks" / name)
    with pytest.raises(OutputError, match=rf"{name}' is damaged \(.+\); delete it and start again"):
        Store(tmp_path).load(name)


SCRIPT = """
import sys, time
import diffvae as dv
from diffvae._errors import OutputError
from diffvae.benchmark import _work
if __name__ == "__main__":
    train = _work.train
    def slow(*args):
        time.sleep(0.5)
        return train(*args)
    _work.train = slow
    cells = dv.datasets.simulate_differentiation(120, 100, rng=3)
    dv.benchmark.run({{"tree": cells}}, ["PCA", "PCA (unit)"], label_key="cell_type", n_latent=5, n_trainings=3,
        n_clusterings=2, metrics=["ari", "nmi", "overlap", "knn_purity"], out={out!r}, progress=False)
"""


def test_killed_half_way_and_started_again(few, tmp_path):
    out = tmp_path / "out"
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT.format(out=str(out))))
    process = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if len(list(out.rglob("training-*.npz"))) >= 2:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.01)
    assert process.wait() == -signal.SIGKILL
    before = {f: f.stat().st_mtime_ns for f in out.rglob("*.npz")}
    assert 2 <= len(before) < 6
    asked = {"n_latent": 5, "n_trainings": 3, "n_clusterings": 2}
    resumed = compare(few, ["PCA", "PCA (unit)"], **asked, out=out)
    same(resumed, compare(few, ["PCA", "PCA (unit)"], **asked))
    assert all(f.stat().st_mtime_ns == t for f, t in before.items())


WORKERS = """
import diffvae as dv
if __name__ == "__main__":
    cells = dv.datasets.simulate_differentiation(120, 100, rng=3)
    found = dv.benchmark.run({{"tree": cells}}, {{"VAE": dv.model.VAE(min_steps=0), "PCA": dv.model.PCA()}},
        label_key="cell_type", n_latent=5, n_trainings=1, n_clusterings=2, progress=False, n_workers={n},
        metrics=["ari", "nmi", "overlap", "knn_purity"])
    found.table.drop(columns={times!r}).to_csv({file!r})
"""


def test_workers_find_the_same(tmp_path):
    pytest.importorskip("distributed")
    tables = []
    for n in (None, 4):
        file, script = tmp_path / f"{n}.csv", tmp_path / f"{n}.py"
        script.write_text(WORKERS.format(n=n, times=TIMES, file=str(file)))
        subprocess.run([sys.executable, str(script)], check=True, capture_output=True, timeout=300)
        tables.append(file.read_bytes())
    assert tables[0] == tables[1]
    assert tables[0].count(b"\n") > 10


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"methods": ["tSNE"]}, "'tSNE' is no method; the methods are 'DiffVAE'"),
        ({"methods": []}, "No method was named"),
        ({"methods": {"odd": 3}}, "'odd' is a int; give a model"),
        ({"label_key": "type"}, r"tree: adata.obs\['type'\] is missing"),
        ({"label_key": {"other": "cell_type"}}, "names no column for 'tree'"),
        ({"clusterers": ["ward"]}, "'ward' is no clusterer"),
        ({"clusterers": []}, "No clusterer"),
        ({"spaces": ["umap"]}, "'umap' is no space"),
        ({"metrics": ["accuracy"]}, "'accuracy' is no metric"),
        ({"n_trainings": 0}, "must be positive"),
        ({"n_latent": []}, "must be positive"),
        ({"rng": np.random.default_rng(0)}, "whole number, by which the pieces are known"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(cells, tmp_path, options, sentence):
    asked = dict(methods=["PCA"], label_key="cell_type", out=tmp_path / "out", **CHEAP) | options
    with pytest.raises(ValueError, match=sentence):
        dv.benchmark.run({"tree": cells}, **asked)
    assert not (tmp_path / "out").exists()


def test_prepared_cells_and_foreign_folders_are_refused(cells, tmp_path):
    with pytest.raises(ValueError, match="prepared already"):
        compare(dv.pp.prepare(cells, copy=True), ["PCA"])
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(ValueError, match="holds files that diffvae did not write"):
        compare(cells, ["PCA"], out=tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"]


def test_partitions_share_a_graph_and_follow_the_seed():
    x = np.random.default_rng(0).normal(size=(120, 4))
    found = list(partitions(x, 3, ["kmeans", "dbscan", "leiden"], [True], [0, 1]))
    assert [(p.clusterer, p.clustering_seed) for p in found] == [
        ("kmeans", 0),
        ("kmeans", 1),
        ("dbscan", 0),
        ("leiden", 0),
        ("leiden", 1),
    ]
    assert all(len(p.labels) == 120 for p in found)
