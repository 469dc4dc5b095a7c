import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import diffvae as dv
from diffvae import pipeline
from diffvae._core.io import folders
from diffvae.cli import _console

COMMANDS = [
    *("run", "train", "embed", "identify", "perturb", "links", "report", "generate", "datasets"),
    *("benchmark", "tune", "reproduce"),
]
QUICK = ["--n-latent", "4", "--max-epochs", "2", "--batch-size", "32"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with cells in several states of disrepair, and a trained model."""
    folder = tmp_path_factory.mktemp("files")
    cells = dv.datasets.simulate_differentiation(90, 60, tree={"stem": ["red", "white"]}, effect=2, rng=0)
    cells.write_h5ad(folder / "cells.h5ad")
    cells[:5].copy().write_h5ad(folder / "five.h5ad")

    def variant(name, x=None, **options):
        other = ad.AnnData(cells.X.toarray() if x is None else x, obs=cells.obs.copy(), var=cells.var[[]].copy())
        for key, value in options.items():
            setattr(other, key, value)
        other.write_h5ad(folder / f"{name}.h5ad")

    dense = cells.X.toarray()
    variant("scaled", dense - dense.mean(0))
    variant("nan", np.where(np.arange(60) == 3, np.nan, dense).astype(np.float32))
    variant("flat", np.ones_like(dense))
    variant("twice", obs_names=["cell"] * 90)
    variant("mouse", var_names=[f"Gm{i}" for i in range(60)])
    (folder / "corrupt.h5ad").write_bytes((folder / "cells.h5ad").read_bytes()[:3000])
    (folder / "empty.h5ad").write_bytes(b"")
    (folder / "table.xlsx").write_bytes(b"PK")
    (folder / "columns.csv").write_text("type,symbol\nT,CD3D\n")
    (folder / "nothing.csv").write_text("cell_type,gene\n")
    (folder / "elsewhere.csv").write_text("cell_type,gene\nT,ENSG0001\n")
    (folder / "file.txt").write_text("mine")
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    prepared = dv.pp.prepare(cells, copy=True)
    prepared.write_h5ad(folder / "prepared.h5ad")
    model = dv.model.DiffVAE(n_latent=4).train(prepared, max_epochs=2, progress=False)
    model.save(folder / "model")
    model.save(folder / "damaged")
    (folder / "damaged" / "weights.safetensors").write_bytes(b"1234")
    return folder


def contents(folder):
    return sorted(str(file.relative_to(folder)) for file in Path(folder).rglob("*"))


# What goes well


def test_run_and_identify(diffvae, files, tmp_path, no_figures):
    out = tmp_path / "out"
    code, said, told = diffvae(
        "run", files / "cells.h5ad", "--out", out, "--label-key", "cell_type", *QUICK, "--n-clusters", 2, "--no-links"
    )
    assert code == 0
    assert said.startswith("90 cells of cells.h5ad in 2 clusters")
    assert "Agreement with obs['cell_type']" in said
    assert f"Written to {out}: results.h5ad, model, tables, figures, summary.json\n" in said
    assert said.endswith(f"Report: {out / 'report.html'}\n")
    assert told.startswith("· read\n· check and prepare\n· train DiffVAE\n")
    assert "\x1b" not in said + told
    assert sorted(os.listdir(out)) == ["figures", "model", "report.html", "results.h5ad", "summary.json", "tables"]

    code, said, told = diffvae("run", files / "cells.h5ad", "--out", out, *QUICK)
    assert code == 2
    assert told == f"Error: '{out}' has results already; name another folder, or pass --overwrite.\n"

    again = tmp_path / "again"
    code, said, told = diffvae("identify", out, "--out", again, "--cluster-method", "kmeans", "--n-clusters", 3)
    assert code == 0
    assert "in 3 clusters" in said
    assert ad.read_h5ad(again / "results.h5ad").obs["diffvae_cluster"].nunique() == 3

    code, said, told = diffvae(
        "identify", out, "--out", tmp_path / "new", "--n-clusters", 91, "--cluster-method", "gmm"
    )
    assert (code, told.splitlines()[-1]) == (2, "Error: --n-clusters is 91, but there are 90 cells.")
    assert sorted(os.listdir(tmp_path)) == ["again", "out"]


def test_train_embed_generate(diffvae, files, tmp_path):
    model = tmp_path / "model"
    code, said, _ = diffvae("train", files / "cells.h5ad", "--out", model, *QUICK, "--seed", 1)
    assert code == 0
    assert "train_loss" in said
    assert said.splitlines()[-1].startswith(f"Written to {model}: DiffVAE(n_latent=4")

    out = tmp_path / "deep" / "embedded.h5ad"
    code, said, _ = diffvae("embed", files / "cells.h5ad", "--model", model, "--out", out)
    assert (code, said) == (0, f"Written to {out}: 90 cells in 4 latent dimensions\n")
    assert ad.read_h5ad(out).obsm["X_diffvae"].shape == (90, 4)
    code, _, told = diffvae("embed", files / "cells.h5ad", "--model", model, "--out", out)
    assert (code, told) == (2, f"Error: '{out}' exists already; name another file or pass --overwrite.\n")
    assert diffvae("embed", files / "cells.h5ad", "--model", model, "--out", out, "--overwrite")[0] == 0

    drawn = []
    for seed in (0, 0, 1):
        out = tmp_path / "artificial.h5ad"
        code, said, _ = diffvae("generate", "--model", model, "-n", 7, "-o", out, "--seed", seed, "--overwrite")
        assert (code, said) == (0, f"Written to {out}: 7 artificial cells x 60 genes\n")
        drawn.append(ad.read_h5ad(out))
    assert drawn[0].obsm["X_diffvae"].shape == (7, 4)
    assert (drawn[0].X == drawn[1].X).all()
    assert not (drawn[0].X == drawn[2].X).all()
    assert sorted(os.listdir(tmp_path)) == ["artificial.h5ad", "deep", "model"]


def test_genes_in_rows(diffvae, files, tmp_path):
    file = tmp_path / "genes.csv"
    ad.read_h5ad(files / "cells.h5ad").to_df().T.rename_axis("gene").to_csv(file)
    out = tmp_path / "out"
    for command in ("run", "train"):
        refused(diffvae(command, file, "--out", out, *QUICK), "--transpose")
    code, said, _ = diffvae("train", file, "--out", tmp_path / "as it is", *QUICK, "--no-transpose")
    assert code == 0
    assert "train_loss" in said
    assert diffvae("train", file, "--out", out, *QUICK, "--transpose")[0] == 0
    embedded = tmp_path / "embedded.h5ad"
    refused(diffvae("embed", file, "--model", out, "--out", embedded), "--transpose")
    assert diffvae("embed", file, "--model", out, "--out", embedded, "--transpose")[0] == 0
    assert ad.read_h5ad(embedded).obsm["X_diffvae"].shape == (90, 4)


@pytest.mark.parametrize("kind", ["vae", "ae", "pca"])
def test_train_other_kinds(diffvae, files, tmp_path, kind):
    code, _, told = diffvae("train", files / "cells.h5ad", "--out", tmp_path / "model", "--kind", kind, *QUICK)
    assert (code, told) == (0, "")
    expected = {"vae": dv.model.VAE, "ae": dv.model.AutoEncoder, "pca": dv.model.PCA}[kind]
    assert isinstance(dv.model.load(tmp_path / "model"), expected)


def test_datasets(diffvae):
    code, said, told = diffvae("datasets")
    assert (code, told) == (0, "")
    for name in dv.datasets.list_datasets()["name"]:
        assert name in said


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_has_an_example(diffvae, command):
    code, said, _ = diffvae(*([] if command is None else [command]), "--help")
    assert code == 0
    assert f"diffvae {command or 'run'}" in " ".join(said.replace("│", " ").split()).split("Example", 1)[1]
    if command is None:
        assert all(name in said for name in COMMANDS)


def test_version_and_no_arguments(diffvae):
    assert diffvae("--version") == (0, f"diffvae {dv.__version__}\n", "")
    code, said, _ = diffvae()
    assert code == 0
    assert "Usage: diffvae" in said


def test_the_installed_program_piped():
    program = Path(sys.executable).with_name("diffvae")
    if not program.exists():
        pytest.skip("the program is not installed beside this interpreter")
    done = subprocess.run([program, "datasets"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "pbmc68k_reduced" in done.stdout


def test_a_file_that_cannot_be_opened_is_refused_before_libraries_are_imported(tmp_path):
    cells = dv.datasets.simulate_differentiation(90, 60)
    cells.write_h5ad(tmp_path / "whole.h5ad")
    contents = {
        "cut.h5ad": ((tmp_path / "whole.h5ad").read_bytes()[:20_000], "(truncated file)."),
        "text.h5": (b"cell,Gata1", "(file signature not found)."),
        "sheet.xlsx": (b"PK", "Save the sheet as .csv first."),
        "no.csv": (b"", "is empty (0 bytes)."),
    }
    heavy = ("torch", "scanpy", "anndata", "pandas")
    code = (
        "import sys; from diffvae.cli._main import main; sys.argv = ['diffvae', 'run', sys.argv[1]]\n"
        f"try: main()\nfinally: print([name for name in {heavy} if name in sys.modules])"
    )
    for name, (content, sentence) in contents.items():
        (tmp_path / name).write_bytes(content)
        run = [sys.executable, "-c", code, name]
        done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, timeout=120)
        assert (done.returncode, done.stdout.strip()) == (2, "[]")
        assert done.stderr.strip().endswith(sentence)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*contents, "whole.h5ad"])


AT_THE_END = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count() > 0))
sys.argv = ["diffvae", "--version"]
from diffvae.cli import main
main()
"""


def test_no_cycles_are_looked_for_when_the_program_ends():
    done = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == ["True"]


# What doesn't: one sentence, exit code 2, and nothing is written

INPUT = {
    "missing": ("no_such.h5ad", "There is no file or folder"),
    "corrupt": ("corrupt.h5ad", "can't be read; it may be damaged"),
    "empty": ("empty.h5ad", "is empty (0 bytes)"),
    "unknown form": ("table.xlsx", "has an unknown format"),
    "a folder that is nothing": ("full", "matrix.mtx"),
    "five cells": ("five.h5ad", "The input has 5 cells; at least 10 are needed"),
    "NaN": ("nan.h5ad", "missing or infinite values, the first in cell"),
    "scaled": ("scaled.h5ad", "negative values"),
    "constant": ("flat.h5ad", "No gene varies in X"),
    "cell names twice": ("twice.h5ad", "Cell names occur more than once: 'cell'"),
}
OPTIONS = {
    "unknown option": (["--bogus"], "No such option: --bogus"),
    "no number": (["--n-latent", "many"], "Invalid value for '--n-latent'"),
    "out of range": (["--n-latent", "0"], "Invalid value for '--n-latent'"),
    "negative seed": (["--seed", "-1"], "Invalid value for '--seed'"),
    "batch of one": (["--batch-size", "1"], "Invalid value for '--batch-size'"),
    "clusters no number": (["--n-clusters", "abc"], "--n-clusters is 'abc'; it is 'auto' or a whole number"),
    "a single cluster": (["--n-clusters", "1"], "--n-clusters is 1; it must be 'auto' or a whole number of 2 or more"),
    "labels": (["--label-key", "type"], "obs['type'] is missing; the columns are: cell_type"),
    "learning rate": (["--lr", "-1"], "--lr is -1.0"),
    "device": (["--device", "tpu9"], "--device tpu9 can't be used here"),
    "no such markers": (["--markers", "none.csv"], "'none.csv' is neither a bundled marker table"),
    "markers without columns": (["--markers", "{}/columns.csv"], "lacks the column 'cell_type'"),
    "markers without genes": (["--markers", "{}/nothing.csv"], "holds no marker genes"),
    "markers of other genes": (["--markers", "{}/elsewhere.csv"], "None of the 1 marker genes"),
    "out is a file": (["--out", "{}/file.txt"], "is a file; give the name of a folder"),
    "out is full": (["--out", "{}/full"], "is not empty; name another folder"),
    "out is a user's": (["--out", "{}/full", "--overwrite"], "did not write"),
}
OTHERS = {
    "no command": (["foo"], "No such command 'foo'"),
    "no input": (["train", "--out", "OUT"], "Missing argument"),
    "no out": (["train", "{}/cells.h5ad"], "Missing option '--out'"),
    "kind": (["train", "{}/cells.h5ad", "--out", "OUT", "--kind", "gan"], "--kind is 'gan'"),
    "preset of another kind": (
        ["train", "{}/cells.h5ad", "--out", "OUT", "--kind", "pca", "--preset", "code"],
        "only --kind diffvae has presets",
    ),
    "a batch in each cell": (  # and no remark about genes that were chosen first
        ["train", "{}/cells.h5ad", "--out", "OUT", "--batch-key", "pseudotime", "--n-top-genes", "20"],
        "obs['pseudotime'] (--batch-key) holds numbers such as",
    ),
    "unknown covariate": (
        ["train", "{}/cells.h5ad", "--out", "OUT", "--covariate", "sex"],
        "obs has no column 'sex' (--covariate)",
    ),
    "adapt without batches": (
        ["embed", "{}/cells.h5ad", "--model", "{}/model", "--out", "OUT.h5ad", "--adapt"],
        "was trained without --batch-key, so there is nothing to adapt; leave out --adapt",
    ),
    "rate zero": (["train", "{}/cells.h5ad", "--out", "OUT", "--kind", "vae", "--lr", "0"], "lr is 0.0"),
    "too many components": (
        ["train", "{}/cells.h5ad", "--out", "OUT", "--kind", "pca", "--n-latent", "500"],
        "at most 59 principal components",
    ),
    "no model": (["embed", "{}/cells.h5ad", "--model", "{}/full", "--out", "OUT.h5ad"], "so it is not a saved model"),
    "damaged model": (["embed", "{}/cells.h5ad", "--model", "{}/damaged", "--out", "OUT.h5ad"], "is a damaged model"),
    "mouse genes": (
        ["embed", "{}/mouse.h5ad", "--model", "{}/model", "--out", "OUT.h5ad"],
        "60 of the 60 genes that the model needs (100.0%) are missing",
    ),
    "no h5ad": (["embed", "{}/cells.h5ad", "--model", "{}/model", "--out", "OUT.csv"], "its name ends in .h5ad"),
    "share": (
        ["embed", "{}/cells.h5ad", "--model", "{}/model", "--out", "OUT.h5ad", "--max-missing", "2"],
        "Invalid value for '--max-missing'",
    ),
    "no cells": (["generate", "--model", "{}/model", "--out", "OUT.h5ad", "-n", "0"], "Invalid value for '--n-cells'"),
    "no result": (["identify", "{}/full", "--out", "OUT"], "holds no summary.json; name a folder that 'diffvae run'"),
}


def refused(answer, sentence):
    code, said, told = answer
    assert code == 2
    assert said == ""
    lines = told.splitlines()
    assert [line for line in lines if not line.startswith("· ")] == lines[-1:]  # steps, then the one sentence
    assert lines[-1].startswith("Error: ")
    assert sentence in lines[-1]
    assert lines[-1].endswith((".", ")"))


@pytest.mark.parametrize(
    ("command", "case"),
    [*(("run", case) for case in INPUT), ("train", "missing"), ("train", "NaN"), ("train", "scaled")],
)
def test_bad_input(diffvae, files, tmp_path, command, case):
    name, sentence = INPUT[case]
    refused(diffvae(command, files / name, "--out", tmp_path / "out", *QUICK), sentence)
    assert contents(tmp_path) == []


@pytest.mark.parametrize("command", ["run", "train"])
@pytest.mark.parametrize("where", ["--in-memory", "--backed"])
def test_prepared_cells_can_not_be_prepared_otherwise(diffvae, files, tmp_path, command, where):
    command = [command, files / "prepared.h5ad", "--out", tmp_path / "out", where, *QUICK]
    for options, kept in (
        (("--n-top-genes", "20"), "with --n-top-genes 2000, not "),
        (("--layer", "counts"), "without --layer, not "),
    ):
        code, _, told = diffvae(*command, *options)
        assert code == 2
        assert f"have been prepared {kept}" in told
        assert "leave it out, or give the original data." in told
    assert contents(tmp_path) == []


@pytest.mark.parametrize("where", ["--in-memory", "--backed"])
def test_prepared_cells_are_trained_on_as_they_are(diffvae, files, tmp_path, where):
    code, _, _ = diffvae("train", files / "prepared.h5ad", "--out", tmp_path / "out", where, *QUICK)
    assert code == 0
    assert len(dv.model.load(tmp_path / "out").gene_names) == ad.read_h5ad(files / "prepared.h5ad").n_vars


@pytest.mark.parametrize("case", OPTIONS)
def test_bad_options_of_run(diffvae, files, tmp_path, case):
    options, sentence = OPTIONS[case]
    options = [o.format(files) for o in options]
    before = contents(files)
    out = [] if "--out" in options else ["--out", tmp_path / "out"]
    refused(diffvae("run", files / "cells.h5ad", *out, *QUICK, *options), sentence)
    assert contents(tmp_path) == []
    assert contents(files) == before


@pytest.mark.parametrize("case", OTHERS)
def test_other_bad_usage(diffvae, files, tmp_path, case):
    arguments, sentence = OTHERS[case]
    arguments = [a.format(files).replace("OUT", str(tmp_path / "out")) for a in arguments]
    refused(diffvae(*arguments), sentence)
    assert contents(tmp_path) == []


# Failures


def test_a_training_that_diverges_is_a_failure(diffvae, files, tmp_path):
    code, said, told = diffvae("train", files / "cells.h5ad", "--out", tmp_path / "model", *QUICK, "--lr", "1e30")
    assert (code, said) == (1, "")
    assert told.startswith("Error: At epoch 1 ")
    assert "Lower the learning rate" in told
    assert told.count("\n") == 1
    assert contents(tmp_path) == []


def fail_with(monkeypatch, error):
    def run(*args, **options):
        raise error

    monkeypatch.setattr(pipeline, "run", run)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (RuntimeError("The disk\n  is full."), 1, "Error: The disk is full."),
        (OSError(28, "No space left on device"), 1, "Error: [Errno 28] No space left on device."),
        (ValueError("bad"), 2, "Error: bad."),
        (FileNotFoundError(2, "No such file", "a.csv"), 2, "Error: [Errno 2] No such file: 'a.csv'."),
        (KeyError("gene"), 1, "Error: 'gene' (KeyError; run with 'diffvae --debug ...' for the traceback)"),
        (RuntimeError(""), 1, "Error: RuntimeError."),
        (ValueError("[bold]markup[/bold] [/x] :smile:"), 2, "Error: [bold]markup[/bold] [/x] :smile:"),
        (KeyboardInterrupt(), 130, "Error: Interrupted; nothing was written."),
    ],
)
def test_exit_codes(diffvae, files, monkeypatch, error, code, line):
    fail_with(monkeypatch, error)
    assert diffvae("run", files / "cells.h5ad") == (code, "", line + "\n")


def test_debug_shows_the_traceback(diffvae, files, monkeypatch):
    for error, expected in ((RuntimeError("The disk is full."), 1), (ValueError("bad"), 2)):
        fail_with(monkeypatch, error)
        code, _, told = diffvae("--debug", "run", files / "cells.h5ad")
        assert code == expected
        assert told.startswith("Traceback (most recent call last):")
        assert told.splitlines()[-1].startswith("Error: ")
        assert "Traceback" not in diffvae("run", files / "cells.h5ad")[2]  # and not the next time


def test_a_request_to_stop_leaves_nothing_half_written(diffvae, tmp_path, monkeypatch):
    def run(data, out, **options):
        with folders.new_folder(out) as folder:
            (folder / "half").write_text("")
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(pipeline, "run", run)
    assert diffvae("run", "--out", tmp_path / "out")[0] == 143
    assert contents(tmp_path) == []


def test_warnings_become_remarks(diffvae, files, tmp_path):
    cells = ad.read_h5ad(files / "cells.h5ad")[:, 5:].copy()
    cells.write_h5ad(tmp_path / "fewer.h5ad")
    code, _, told = diffvae(
        "embed", tmp_path / "fewer.h5ad", "--model", files / "model", "--out", tmp_path / "out.h5ad"
    )
    assert code == 0
    assert told.startswith("! 5 of the 60 genes that the model needs")
    assert [line[0] for line in told.splitlines()] == ["!", " "]  # one remark, which is folded


# How it looks


HOSTILE = "a [/x]\x1b]0;title\x07\x1b[2J\x9b1m\u202eb\ud800 :smile: [red]c"
SHOWN = "a [/x]]0;title[2J1mb :smile: [red]c"


def test_names_can_not_steer_the_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal obeys
    _console.say(HOSTILE)
    _console.table(HOSTILE, ["name"], [(HOSTILE,)])
    said = capsys.readouterr().out
    for on_step in (_console.step, _console.note, _console.error):
        on_step(HOSTILE)
    told = capsys.readouterr().err
    for text, n in ((said, 3), (told, 3)):
        shown = re.sub(r"\x1b\[[0-9;]*m", "", text)  # colours of our own
        assert shown.count(SHOWN) == n
        assert not set(shown) & set("\x1b\x07\x9b\u202e\ud800")
    _console.say("one\ntwo")
    assert capsys.readouterr().out == "one\ntwo\n"


def test_table_is_plain_text_whose_cells_are_never_read_as_markup(capsys):
    _console.table("a [b]title[/x]", ["name", "n"], [("[red]x[/red] :smile:", 1), (None, "2.5"), ("long " * 60, "")])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "a [b]title[/x]"
    assert "[red]x[/red] :smile:" in lines[4]
    assert lines[6].startswith(("long " * 60).strip())  # nothing is cut or folded where it is piped


def test_numbers_stand_to_the_right(capsys):
    _console.table("t", ["name", "n", "q"], [("a", "1,000", "0.1"), ("b", "7", "")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[4].index("1,000") + 5 == lines[5].index("7") + 1


def test_clusters_without_evidence_show_no_q(capsys, monkeypatch):
    from diffvae.cli._run import show

    clusters = pd.DataFrame(
        {
            "cluster": ["0", "1", "2"],
            "n_cells": [3, 2, 1],
            "cell_type": ["T cell", "B cell", "unassigned"],
            "q_value": [0.001, 0.04, np.nan],
            "confident": [True, False, False],
            "marker_genes": ["CD3D,CD3E", "CD79A", ""],
            "dimensions": ["1+, 2-", "", ""],
            "genes_up": ["CD3D, IL7R", "", ""],
        }
    )
    summary = {"n_cells": 6, "source": "x.h5ad", "markers": "blood-human", "warnings": ["odd"], "verdict": []}
    summary |= {"integration": None, "diagnosis": {"messages": ["3 dimensions are dead."]}}
    show(pipeline.Result(None, None, clusters, None, summary))
    out, err = capsys.readouterr()
    assert out.startswith("6 cells of x.h5ad in 3 clusters, 2 named, 1 of them uncertain (markers: blood-human)")
    rows = [line.split() for line in out.splitlines()[4:7]]
    assert rows[0] == ["0", "3", "T", "cell", "0.001", "CD3D", "CD3E", "1+", "2-", "CD3D", "IL7R"]
    assert rows[1] == ["1", "2", "B", "cell", "?", "0.04", "CD79A"]
    assert rows[2] == ["2", "1", "unassigned"]
    assert err == "! odd\n• 3 dimensions are dead.\n"
