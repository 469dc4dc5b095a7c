"""The pieces of a comparison: kept, resumed, refused when damaged, and the same on workers."""

import os
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pandas as pd
import pytest

import diffvae as dv
from diffvae._errors import OutputError
from diffvae.benchmark import _tasks
from diffvae.benchmark._jobs import Store

TIMES = ["training_seconds", "clustering_seconds"]
ONE = {"n_latent": 5, "n_trainings": 1, "n_clusterings": 1, "spaces": ["latent"], "clusterers": ["kmeans"]}


@pytest.fixture(scope="module")
def few():
    return dv.datasets.simulate_differentiation(120, 100, rng=3)


def compare(cells, methods, **options):
    about = {"label_key": "cell_type", "metrics": ["ari", "nmi", "overlap", "knn_purity"], "progress": False}
    return dv.benchmark.run({"tree": cells}, methods, **about | ONE | options)


def same(a, b):
    pd.testing.assert_frame_equal(a.table.drop(columns=TIMES), b.table.drop(columns=TIMES))
    pd.testing.assert_frame_equal(a.types, b.types)


def test_finished_pieces_are_not_computed_again(few, tmp_path, monkeypatch):
    monkeypatch.setattr(_tasks, "N_ITER", 20)
    asked = {"n_trainings": 2, "spaces": ["latent", "tsne"]}
    whole = compare(few, ["PCA"], **asked)
    first = compare(few, ["PCA"], **asked, out=tmp_path)
    same(first, whole)
    kept = {f: f.stat().st_mtime_ns for f in (tmp_path / "tasks").rglob("*") if f.is_file()}
    assert kept
    calls = []
    train = _tasks.train
    monkeypatch.setattr(_tasks, "train", lambda *args: calls.append(args[2].name) or train(*args))
    same(compare(few, ["PCA"], **asked, out=tmp_path), first)
    renamed = compare(few, {"components": dv.benchmark.methods()["PCA"]}, **asked, out=tmp_path)
    assert renamed.table["method"].eq("components").all()
    assert calls == []
    more = compare(few, ["PCA", "PCA (unit)"], **asked | {"n_clusterings": 2}, out=tmp_path)
    assert calls == ["PCA (unit)"] * 2
    assert all(f.stat().st_mtime_ns == t for f, t in kept.items())
    same(more, compare(few, ["PCA", "PCA (unit)"], **asked | {"n_clusterings": 2}))


def test_other_cells_or_parameters_are_other_pieces(few, tmp_path):
    first = compare(few, ["PCA"], out=tmp_path)
    fewer = compare(few[:100].copy(), ["PCA"], out=tmp_path)
    assert fewer.types["n_cells"].sum() == 100
    scaled = compare(few, ["PCA"], out=tmp_path, n_top_genes=50)
    assert scaled.table["knn_purity"].iloc[0] != first.table["knn_purity"].iloc[0]


def huge(file):
    with zipfile.ZipFile(file, "w") as packed, packed.open("about.npy", "w") as member:
        header = {"shape": (10**13,), "fortran_order": False, "descr": "<f4"}
        np.lib.format.write_array_header_1_0(member, header)


def unknown_compression(file):
    np.savez(file, about=np.array("{}"))
    content = bytearray(file.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[(at := content.index(mark) + offset) : at + 2] = (99).to_bytes(2, "little")
    file.write_bytes(content)


def packed_badly(file):
    np.savez_compressed(file, about=np.zeros(1000))
    content = bytearray(file.read_bytes())
    content[60:70] = b"\xff" * 10
    file.write_bytes(content)


DAMAGES = {
    "more numbers than fit": ("a.npz", huge),
    "unknown compression": ("a.npz", unknown_compression),
    "damaged compression": ("a.npz", packed_badly),
    "empty": ("a.npz", lambda file: file.write_bytes(b"")),
    "empty archive": ("a.npz", lambda file: zipfile.ZipFile(file, "w").close()),
    "no JSON": ("a.npz", lambda file: np.savez(file, about=np.array("{"))),
    "nested too deeply": ("a.json", lambda file: file.write_text("[" * 200_000)),
    "not UTF-8": ("a.json", lambda file: file.write_bytes(b"\xff\xfe")),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_every_kind_of_damage_is_named(tmp_path, case):
    name, damage = DAMAGES[case]
    (tmp_path / "tasks").mkdir()
    damage(tmp_path / "tasks" / name)
    with pytest.raises(OutputError, match=rf"{name}' is damaged \(.+\); delete it and start again"):
        Store(tmp_path).load(name)


SLOW = """
import time
import diffvae as dv
from diffvae.benchmark import _tasks
if __name__ == "__main__":
    train = _tasks.train
    def slow(*args):
        time.sleep(0.5)
        return train(*args)
    _tasks.train = slow
    cells = dv.datasets.simulate_differentiation(120, 100, rng=3)
    dv.benchmark.run({{"tree": cells}}, ["PCA"], label_key="cell_type", n_latent=5, n_trainings=4, n_clusterings=1,
        spaces=["latent"], clusterers=["kmeans"], metrics=["ari", "nmi", "overlap", "knn_purity"], out={out!r},
        progress=False)
"""


@pytest.mark.large
def test_killed_half_way_and_started_again(few, tmp_path):
    out, script = tmp_path / "out", tmp_path / "script.py"
    script.write_text(SLOW.format(out=str(out)))
    process = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if len(list(out.rglob("training-*.npz"))) >= 2:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.01)
    assert process.wait() == -signal.SIGKILL
    before = {f: f.stat().st_mtime_ns for f in out.rglob("*.npz")}
    assert 2 <= len(before) < 4
    same(compare(few, ["PCA"], n_trainings=4, out=out), compare(few, ["PCA"], n_trainings=4))
    assert all(f.stat().st_mtime_ns == t for f, t in before.items())


WORKERS = """
import diffvae as dv

def small(n_latent):
    return dv.model.VAE(n_latent=n_latent, hidden=(16, 8), min_steps=0)

if __name__ == "__main__":
    cells = dv.datasets.simulate_differentiation(120, 100, rng=3)
    methods = {{"VAE": dv.benchmark.Method("VAE", small, {{"max_epochs": 3}}), "PCA": dv.model.PCA()}}
    for n in (None, {n}):
        found = dv.benchmark.run({{"tree": cells}}, methods, label_key="cell_type", n_latent=5,
            n_trainings=1, n_clusterings=2, clusterers=["kmeans", "leiden"], progress=False, n_workers=n,
            spaces=["latent"], metrics=["ari", "nmi", "overlap", "knn_purity"])
        found.table.drop(columns={times!r}).to_csv(f"{{n}}.csv")
"""


def test_workers_give_the_same_table(tmp_path):
    pytest.importorskip("distributed")
    script = tmp_path / "script.py"
    script.write_text(WORKERS.format(n=2, times=TIMES))
    subprocess.run([sys.executable, str(script)], check=True, capture_output=True, timeout=300, cwd=tmp_path)
    here, there = ((tmp_path / f"{name}.csv").read_bytes() for name in ("None", "2"))
    assert here == there
    assert here.count(b"\n") == 1 + 2 * 2 * 2
