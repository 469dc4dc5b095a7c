"""Every public name is documented, and importing the package costs and changes nothing."""

import dataclasses
import importlib
import inspect
import re
import subprocess
import sys

import pytest

import diffvae

NAMESPACES = ("benchmark", "datasets", "metrics", "model", "nn", "pipeline", "pl", "pp", "report", "tl", "train")
EXPORTS = [
    pytest.param(getattr(importlib.import_module(f"diffvae.{space}"), name), id=f"{space}.{name}")
    for space in NAMESPACES
    for name in importlib.import_module(f"diffvae.{space}").__all__
]
FUNCTIONS = [p for p in EXPORTS if inspect.isfunction(p.values[0])]
CLASSES = [p for p in EXPORTS if inspect.isclass(p.values[0])]


def documented(docstring: str, heading: str) -> list[str]:
    """Return the names under a heading of a numpydoc docstring."""
    text = inspect.cleandoc(docstring)
    section = re.search(rf"^{heading}\n-+\n(.*?)(?=\n\n\S[^\n]*\n---+\n|\Z)", text, re.MULTILINE | re.DOTALL)
    lines = section.group(1).splitlines() if section else []
    entries = [line.split(":")[0] for line in lines if line and not line.startswith(" ")]
    return [name.strip().lstrip("*") for entry in entries for name in entry.split(",")]


def test_documented_reads_numpydoc():
    docstring = """Do it.

    Parameters
    ----------
    a, b
        Two. And: more.
    c : int
        Third.

        Its second paragraph.
    **kwargs
        More.

    Returns
    -------
    Something.
    """
    assert documented(docstring, "Parameters") == ["a", "b", "c", "kwargs"]
    assert documented("Do it.", "Parameters") == []


def test_namespaces_are_listed():
    assert sorted(diffvae.__all__) == sorted(NAMESPACES)
    assert {*NAMESPACES, "__version__"} <= set(dir(diffvae))


@pytest.mark.parametrize("space", NAMESPACES)
def test_names_exist_are_sorted_and_unique(space):
    module = importlib.import_module(f"diffvae.{space}")
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
    assert not any(name.startswith("_") for name in module.__all__)


@pytest.mark.parametrize("thing", EXPORTS)
def test_public_name_has_a_docstring(thing):
    assert len((thing.__doc__ or "").strip()) > 10


@pytest.mark.parametrize("function", FUNCTIONS)
def test_parameters_of_functions_are_documented(function):
    # each once, in any order
    assert sorted(documented(function.__doc__, "Parameters")) == sorted(inspect.signature(function).parameters)


@pytest.mark.parametrize("cls", CLASSES)
def test_parameters_or_attributes_of_classes_are_documented(cls):
    if dataclasses.is_dataclass(cls):
        fields = [field.name for field in dataclasses.fields(cls)]
        assert set(fields) <= set(documented(cls.__doc__, "Attributes"))
    elif cls.__init__ is not object.__init__ and not issubclass(cls, Exception) and not inspect.isabstract(cls):
        parameters = [] if getattr(cls, "_is_protocol", False) else list(inspect.signature(cls).parameters)
        assert set(documented(cls.__doc__, "Parameters")) >= set(parameters)


@pytest.mark.parametrize("cls", CLASSES)
def test_public_methods_have_docstrings(cls):
    methods = [name for name in vars(cls) if not name.startswith("_") and callable(getattr(cls, name))]
    assert [name for name in methods if not inspect.getdoc(getattr(cls, name))] == []


def test_missing_name():
    with pytest.raises(AttributeError, match="module 'diffvae' has no attribute 'plot'; it has benchmark, "):
        diffvae.plot  # noqa: B018 - looking it up is the point


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules that are loaded after a new interpreter has run the code."""
    script = f"{code}\nimport sys\nprint('loaded:', *{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.rpartition("loaded:")[2].split())


HEAVY = {"torch", "scanpy", "anndata", "sklearn", "matplotlib", "pandas", "scipy", "openTSNE"}


def test_import_is_cheap():
    loaded = loaded_by("import diffvae; diffvae.__version__; dir(diffvae)")
    assert "diffvae" in loaded
    assert not loaded & {*HEAVY, "numpy"}


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [(["--help"], 0), (["run", "--help"], 0), (["--version"], 0), (["run", "nofile.h5ad"], 2), (["run", "--bogus"], 2)],
)
def test_help_and_bad_usage_are_cheap(arguments, exit_code):
    code = f"""
import sys
sys.argv = ["diffvae", *{arguments}]
from diffvae.cli import main
try:
    main()
except SystemExit as left:
    assert left.code == {exit_code}, left.code
"""
    loaded = loaded_by(code)
    assert "typer" in loaded
    assert not loaded & {*HEAVY, "numpy"}


def test_importing_changes_no_global_state():
    code = """
import random, warnings, logging
import numpy as np, torch, matplotlib, anndata, scanpy, sklearn, openTSNE, typer, rich
def state():
    numpy_state = np.random.get_state()
    return (list(warnings.filters), matplotlib.rcParams.copy(), torch.get_rng_state().tolist(), random.getstate(),
            numpy_state[1].tolist(), torch.get_default_dtype(), torch.get_num_threads(), list(logging.root.handlers),
            np.geterr(), (torch.tensor([1e-39]) * 1).item())
before = state()
import diffvae
for space in diffvae.__all__:
    getattr(diffvae, space)
import diffvae.cli
assert [a == b for a, b in zip(before, state(), strict=True)] == [True] * 10, 'changed'
"""
    loaded_by(code)
