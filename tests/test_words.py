"""Advice that can be followed: what a message names exists in the interface in which it appears."""

import ast
import inspect
import re
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import typer

import diffvae as dv
from diffvae._core.words import either, said, used
from diffvae.cli import _console, _main

SOURCE = Path(dv.__file__).parent
COMMANDS = typer.main.get_command(_main.app).commands
OPTIONS = {word for command in COMMANDS.values() for p in command.params for word in (*p.opts, *p.secondary_opts)}
OPTIONS |= {"--debug", "--version", "--help"}
ARGUMENT = re.compile(r"(?<![\w'\"\[.{-])([a-z][a-z_]*)=(?=['\"\[{\d]|True|False|None|\.\.\.|\.|,|$)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
CALL = re.compile(r"\bdiffvae\.([a-z]+)\.([A-Za-z_]\w*)")
PYTHON_ONLY = {
    "adata", "calibrated", "check", "combine", "housekeeping", "key_added", "n_genes", "negatives", "noise", "prior",
    "split", "split_by", "test_size", "threshold", "use_rep", "validation_size",
}  # fmt: skip
"""Arguments whose messages no command reaches."""


def interface(command):
    return _main.interface(COMMANDS, command)


def text_of(node):
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)


def messages():
    """Yield file, line and text of every string that reads like a sentence and is no docstring."""
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        skipped |= {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant | ast.JoinedStr) and node not in skipped:
                text = text_of(node)
                if len(text) > 20 and " " in text and not text.startswith("diffvae "):
                    yield path.relative_to(SOURCE), node.lineno, text


MESSAGES = list(messages())


def public_parameters():
    names = set()
    for room in ("pp", "tl", "pl", "model", "metrics", "datasets", "benchmark", "pipeline", "report", "nn", "train"):
        module = getattr(dv, room)
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            for member in [thing, *(vars(thing).values() if inspect.isclass(thing) else ())]:
                if callable(member):
                    try:
                        names |= set(inspect.signature(member).parameters)
                    except (TypeError, ValueError):
                        continue
    return names


def test_there_are_messages_to_look_at():
    assert len(MESSAGES) > 800
    assert sum(bool(ARGUMENT.search(text)) for *_, text in MESSAGES) > 50


def test_every_option_that_a_message_names_exists():
    named = {(str(path), option) for path, _, text in MESSAGES for option in OPTION.findall(text)}
    torch = {"--nproc-per-node"}
    assert {(path, option) for path, option in named if option not in OPTIONS | torch} == set()


def test_options_are_named_by_the_command_line_and_arguments_elsewhere():
    allowed = {"cli", "benchmark", "report"}  # either() has both words there, or the text belongs to a command
    odd = [
        (str(path), line, text)
        for path, line, text in MESSAGES
        if OPTION.search(text)
        and path.parts[0] not in allowed
        and path.name != "words.py"
        and "torchrun" not in text
        and "resume" not in text
    ]
    assert [entry for entry in odd if not re.search(r"--path FOLDER|^--[a-z]", entry[2])] == []


def test_every_argument_that_a_message_names_exists():
    parameters = public_parameters()
    named = {(str(path), name) for path, _, text in MESSAGES for name in ARGUMENT.findall(text)}
    assert {(path, name) for path, name in named if name not in parameters} == set()


def test_every_function_that_a_message_names_exists():
    named = {match for *_, text in MESSAGES for match in CALL.findall(text)}
    assert len(named) > 5
    assert [(room, name) for room, name in named if not hasattr(getattr(dv, room), name)] == []


@pytest.mark.parametrize("command", ["run", "train", "embed", "identify", "perturb", "links", "tune"])
def test_the_command_line_names_no_argument_that_has_an_option(command):
    words = interface(command)
    left = set()
    for path, _, text in MESSAGES:
        if path.parts[0] in ("cli", "pl"):
            continue
        if re.match(r"[\w{}]+\(", text):  # what an object prints
            continue
        shown = words.say(text.replace("={}", "='x'"))
        left |= set(ARGUMENT.findall(shown))
        for option in OPTION.findall(shown):
            assert option in OPTIONS | {"--nproc-per-node"}, (text, shown)
    assert left - PYTHON_ONLY == set()


SENTENCES = [
    ("run", "n_clusters is 1; pass n_clusters='auto', or links=False.", "--n-clusters is 1; pass --n-clusters auto, or "
     "--no-links."),
    ("run", "pass transpose=True, or transpose=False.", "pass --transpose, or --no-transpose."),
    ("train", "if that is so, pass kind='normalised'.", "if that is so, pass --values normalised."),
    ("train", "Set early_stopping=False (max_epochs).", "Set --no-early-stopping (--max-epochs)."),
    ("run", "Set early_stopping=False.", 'Set "early_stopping": false in the file of --config.'),
    ("identify", "run with batch_key='donor' to", "run with --batch-key donor of 'diffvae run' to"),
    ("run", "run with batch_key='my donor' to", "run with --batch-key 'my donor' to"),
    ("embed", "a longer max_missing=0.2 of layer=...", "a longer --max-missing 0.2 of --layer of 'diffvae run'"),
    ("run", "adata.obs['label_key'] is missing; adata.X is empty.", "obs['label_key'] is missing; X is empty."),
    ("run", "adata has 3 cells; see 'diffvae run x --out label_key' (label_key).",
     "The input has 3 cells; see 'diffvae run x --out label_key' (--label-key)."),
    ("run", "Names occur twice: 'a'; call adata.obs_names_make_unique() first.",
     "Names occur twice: 'a'; rename them in the file."),
    ("run", "'data/use_raw.h5ad' and label_key.csv stay", "'data/use_raw.h5ad' and label_key.csv stay"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "python", "options"), SENTENCES)
def test_messages_are_translated(command, python, options):
    assert interface(command).say(python) == options
    assert interface(command).say(options) == options  # twice does no harm
    assert said(python) == python


def test_advice_may_differ_between_the_interfaces():
    assert either("a", "b") == "a"
    with used(interface("run")):
        assert either("a", "b") == "b"
    assert either("a", "b") == "a"


def cells(n=40, n_genes=30, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.poisson(rng.gamma(1.0, 2.0, (n, n_genes))).astype("float32")
    obs = pd.DataFrame({"type": ["a", "b"] * (n // 2)}, index=[f"c{i}" for i in range(n)])
    return ad.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"Gene{i}" for i in range(n_genes)]))


def few(a):
    return a[:5].copy()


def scaled(a):
    a.X = a.X - a.X.mean(0)
    return a


def scaled_with_raw(a):
    a.raw = a.copy()
    return scaled(a)


def twice(a):
    a.obs_names = ["same"] * a.n_obs
    return a


def missing(a):
    a.X[3, 4] = np.nan
    return a


def constant(a):
    a.X[:] = 1
    return a


def loose(a):
    a.X = (a.X + np.random.default_rng(1).random(a.shape)).astype("float32") * 3
    a.X[0, 0] = 0.5
    return a


def as_it_is(a):
    return a


PROVOKED = [
    ("run", few, (), "pass --transpose"),
    ("train", few, (), "pass --transpose"),
    ("run", scaled, (), "pass counts or log-normalised values instead"),
    ("train", scaled, (), "pass counts or log-normalised values instead"),
    ("run", scaled_with_raw, ("--backed", "--cluster-method", "kmeans"), "--use-raw"),
    ("train", scaled_with_raw, ("--backed",), "--use-raw"),
    ("run", twice, (), "rename them in the file"),
    ("train", twice, (), "rename them in the file"),
    ("run", missing, (), "remove those cells or genes"),
    ("run", constant, (), "No gene varies"),
    ("run", as_it_is, ("--label-key", "nothing"), "obs['nothing'] is missing"),
    ("run", as_it_is, ("--label-key", "type", "--batch-key", "type"), "--label-key is 'type'"),
    ("run", as_it_is, ("--gene-symbols", "nothing"), "--gene-symbols is 'nothing'"),
    ("run", as_it_is, ("--use-raw",), "--use-raw is True"),
    ("run", as_it_is, ("--layer", "nothing"), "layers['nothing'] is missing"),
    ("run", as_it_is, ("--values", "log", "--use-raw", "--layer", "x"), "--use-raw is True, but --layer is 'x'"),
    ("run", as_it_is, ("--n-clusters", "400"), "--n-clusters is 400"),
    ("run", as_it_is, ("--min-genes", "400"), "--min-genes is 400"),
    ("train", as_it_is, ("--min-genes", "400"), "--min-genes is 400"),
    ("train", as_it_is, ("--min-genes", "4", "--backed"), "--min-genes needs the cells in memory; add --in-memory"),
    ("run", as_it_is, ("--min-genes", "4", "--backed", "--cluster-method", "kmeans"), "--in-memory"),
    ("run", as_it_is, ("--patience", "5", "--max-epochs", "4"), "--patience is 5, but --max-epochs is 4"),
    ("train", as_it_is, ("--kind", "normalised"), "--values normalised"),
    ("run", loose, ("--values", "counts"), "--values normalised"),
    ("run", as_it_is, ("--device", "tpu9"), "--device tpu9"),
    ("run", as_it_is, ("--source", "a", "--target", "a"), "is both source and target"),
]
PYTHON = re.compile(r"\badata\b|(?<![\w'-])[a-z]+(?:_[a-z]+)*=(?!=)|\bdiffvae\.[a-z]|\bscanpy\.|\bdv\.")


@pytest.mark.parametrize(("command", "change", "options", "wanted"), PROVOKED)
def test_errors_of_the_program_name_its_options_only(tmp_path, capsys, monkeypatch, command, change, options, wanted):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change(cells()).write_h5ad(tmp_path / "cells.h5ad")
    words = [command, str(tmp_path / "cells.h5ad"), "--out", str(tmp_path / "out"), *options]
    if "--max-epochs" not in words:
        words += ["--max-epochs", "1"]
    monkeypatch.setattr("sys.argv", ["diffvae", *words, "--n-latent", "2"])
    monkeypatch.setattr(_console.settings, "interface", None)
    with pytest.raises(SystemExit) as left:
        _main.main()
    shown = capsys.readouterr().err
    assert left.value.code == 2, shown
    assert wanted in shown
    assert PYTHON.findall(shown) == []
    assert set(OPTION.findall(shown)) <= OPTIONS
    assert said("n_clusters is 1.") == "n_clusters is 1."  # Python again


def test_sparse_cells_of_most_empty_barcodes_look_unfiltered():
    rng = np.random.default_rng(0)
    totals = np.r_[2000 * rng.lognormal(0, 0.4, 60), 5 * rng.lognormal(0, 0.6, 900)]
    x = sp.csr_matrix(rng.poisson(rng.dirichlet(np.ones(200)) * totals[:, None]).astype("float32"))
    warned = dv.pp.check(ad.AnnData(x)).warnings
    found = [text for text in warned if text.startswith("Looks unfiltered: 94% of the 960 barcodes are nearly empty")]
    assert len(found) == 1
    least = int(re.search(r"min_genes=(\d+)", found[0])[1])
    genes = np.asarray((x != 0).sum(1)).ravel()
    assert ((genes >= least) == (np.arange(960) < 60)).mean() > 0.98
    for shallow in (60 * rng.lognormal(0, 0.5, 900), 10 * rng.lognormal(0, 1.5, 900), 3000 * rng.lognormal(0, 1, 900)):
        x = sp.csr_matrix(rng.poisson(rng.dirichlet(np.ones(200)) * shallow[:, None]).astype("float32"))
        assert not any(text.startswith("Looks unfiltered") for text in dv.pp.check(ad.AnnData(x)).warnings)


def test_corrected_counts_are_known():
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.5, 2.0, (80, 60))).astype(float)
    counts[:, 0] += 1
    soup = np.where(counts > 0, np.maximum(counts - rng.gamma(2, 0.06, counts.shape), 0), 0)
    soup = np.minimum(soup, 19)
    report = dv.pp.check(ad.AnnData(soup))
    assert (report.kind, "just below" in report.reason) == ("normalised", True)
    factor = rng.uniform(0.2, 0.7, (80, 1))
    report = dv.pp.check(ad.AnnData(np.minimum(counts, 20) * factor))
    assert (report.kind, "multiples" in report.reason) == ("normalised", True)
    for target in (50, 1e4):
        sums = counts.sum(1, keepdims=True) * rng.lognormal(0, 0.1, (80, 1))
        assert dv.pp.check(ad.AnnData(np.log1p(counts / sums * target))).kind == "log"
