"""The documentation is complete: every public name has its page and an example, and every file it names exists."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

import diffvae as dv

DOCS = Path(__file__).parents[1] / "docs"
ROOT = DOCS.parent
PACKAGE = ROOT / "src" / "diffvae"
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.rst")}


def listed(page: str) -> list[str]:
    """Return the names in the lists of a page."""
    return re.findall(r"^   (\w+)$", page, flags=re.MULTILINE)


def test_every_namespace_has_a_page_and_is_in_the_index():
    assert set(PAGES) == set(dv.__all__)
    index = (DOCS / "api" / "index.md").read_text(encoding="utf-8").splitlines()
    assert set(dv.__all__) <= set(index)


@pytest.mark.parametrize("namespace", dv.__all__)
def test_every_public_name_is_on_its_page_once(namespace):
    public = importlib.import_module(f"diffvae.{namespace}").__all__
    assert f".. currentmodule:: diffvae.{namespace}\n" in PAGES[namespace]
    assert sorted(listed(PAGES[namespace])) == sorted(public)


@pytest.mark.parametrize("namespace", dv.__all__)
def test_every_public_name_has_an_example(namespace):
    module = importlib.import_module(f"diffvae.{namespace}")
    without = [name for name in module.__all__ if ">>> " not in (inspect.getdoc(getattr(module, name)) or "")]
    assert not without


def test_the_command_reference_has_every_option_and_example(monkeypatch):
    pytest.importorskip("sphinx")
    import typer

    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    reference = importlib.import_module("command_reference")
    monkeypatch.delitem(sys.modules, "command_reference")
    group = typer.main.get_command(reference.program)
    assert group.commands
    for name, command in group.commands.items():
        text = reference.table(command, reference.context_of(command, name)).astext().casefold()
        for parameter in command.params:
            name = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar
            assert str(name or parameter.name).casefold() in text
        commands, _ = reference.examples(command.epilog)
        assert commands
        assert all(line.startswith("diffvae ") for line in commands)


def test_links_between_pages_lead_to_existing_files():
    pages = [p for p in DOCS.rglob("*.md") if not {"_build", "generated"} & set(p.parts)]
    assert len(pages) > 10
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_architecture_lists_the_rooms_of_the_package():
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    listing = re.search(r"```text\n(.*?)```", text, re.DOTALL).group(1)
    rooms = [room for line in listing.splitlines() for room in re.findall(r"\w+", line.split("  ")[0])]
    package = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert sorted(rooms) == sorted(package - {"__init__", "__main__", "__pycache__"})


def test_the_architecture_names_files_and_folders_that_exist():
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+(?:/|\.(?:py|md|rst)))`", text)) - {"_name.py"}  # the pattern of private names
    assert len(named) > 20
    assert not [name for name in named if not any((folder / name).exists() for folder in (PACKAGE, ROOT))]


def test_equations_of_docstrings_become_mathml(monkeypatch):
    pytest.importorskip("latex2mathml")
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    mathml = importlib.import_module("mathml")
    monkeypatch.delitem(sys.modules, "mathml")
    drawn = mathml.drawn(r"z = \mu + \frac{1}{N} \sum_i \sigma_i", block=True)
    assert drawn.startswith("<math")
    assert {"<mfrac>", "&#x003BC;", "&#x003C3;"} <= set(re.findall(r"<mfrac>|&#x003\w\w;", drawn))


@pytest.mark.parametrize("page", ["coming_from.md", "tutorials/scanpy.md"])
def test_the_calls_of_leiden_work_with_what_is_installed(page, monkeypatch):
    from importlib.metadata import version

    import scanpy as sc

    text = (DOCS / page).read_text(encoding="utf-8")
    calls = {call for call in re.findall(r"sc\.tl\.leiden\([^()]*\)", text) if "flavor" in call}
    assert len(calls) == 1
    monkeypatch.setitem(sys.modules, "leidenalg", None)  # which diffvae does not install
    adata = dv.datasets.pbmc68k_reduced()
    sc.pp.pca(adata)
    dv.tl.neighbors(adata, use_rep="X_pca")
    adata.obsp["connectivities"] = adata.obsp[adata.uns["diffvae_neighbors"]["connectivities_key"]]  # of scanpy
    adata.uns["neighbors"] = {"connectivities_key": "connectivities", "params": {}}
    exec(calls.pop(), {"sc": sc, "adata": adata, "graph": {"neighbors_key": "diffvae_neighbors"}})
    assert dv.metrics.adjusted_rand_index(adata.obs["cell_type"], adata.obs["leiden"]) > 0.3
    if version("scanpy").startswith("1.11."):
        with pytest.raises(ImportError, match="leiden"):
            sc.tl.leiden(adata)
