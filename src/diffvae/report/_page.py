"""What a report is made from: a folder that a command wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
from pandas.errors import InvalidIndexError

from diffvae import _keys
from diffvae._core.io import folders, read
from diffvae._errors import DataError
from diffvae.pl._style import GREY
from diffvae.report import _changes as _changed
from diffvae.report import _compared, _encode, _links, _made, _map, _types
from diffvae.report._encode import clean

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.report._map import Cells

NAMES = frozenset(
    {"best", "call", "call_pearson", "cell", "cell_1", "cell_2", "cell_type", "cluster", "dataset", "direction"}
    | {"gene", "genes", "graph", "group", "method", "metric", "score", "source", "strongest", "target", "type"}
    | {"converted_at", "dimensions", "type_1", "type_2"}
)
"""Columns of names: a cluster called "1" or a gene called "NA" is text."""


@dataclass(frozen=True)
class Folder:
    """A folder of results: its summary, and its tables by name.

    Parameters
    ----------
    path
        Folder.
    summary
        What its ``summary.json`` says.
    """

    path: Path
    summary: dict[str, Any]

    @classmethod
    def open(cls, path: str | PathLike[str]) -> Folder:
        """Open a folder; raise if its summary can't be read."""
        folder = Path(path).expanduser()
        return cls(folder, folders.read_summary(folder))

    def part(self, name: str) -> Folder | None:
        """Return a folder inside, if it is there and was written by a command."""
        return Folder.open(self.path / name) if (self.path / name / _keys.SUMMARY).is_file() else None

    def table(self, name: str) -> pd.DataFrame | None:
        """Return a table by its place, ``"tables/clusters"``; None where there is none; raise if it can't be read."""
        file = self.path / f"{name}.csv"
        if not file.is_file():
            return None
        try:
            return self._read(file)
        except (OSError, ValueError) as error:
            raise DataError(f"{str(file)!r} can't be read ({error}); run the command that wrote it again.") from error

    @staticmethod
    def _read(file: Path) -> pd.DataFrame | None:
        if not file.read_bytes().strip():
            return None
        columns = pd.read_csv(file, nrows=0).columns
        text = {c: str for c in columns if c in NAMES}
        # a name may be "NA" or "null"; what is not a number is written as nothing
        table = pd.read_csv(file, dtype=text, keep_default_na=False, na_values=[""], low_memory=False)
        return table.fillna(dict.fromkeys(text, ""))


FAILURES = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    OSError,
    RuntimeError,  # recursion without end among them, and much of what HDF5 says
    MemoryError,
    InvalidIndexError,
    jinja2.UndefinedError,
)
"""How code fails on what is missing, of another type, or another number of times there than it was written."""
MOST_WORDS = 300
"""Letters of a failure that are told: it may quote what is damaged, whatever its length."""


@contextmanager
def blame_folder(folder: Path) -> Iterator[None]:
    """Say of a failure in the block that the folder is at fault."""
    try:
        yield
    except DataError:
        raise
    except FAILURES as error:
        raise DataError(
            f"{str(folder)!r} is damaged or of another version ({why(error)}); run the command that wrote it again."
        ) from error


def why(error: BaseException) -> str:
    """Return what an error says, in one line and without its full stop.

    Examples
    --------
    >>> why(KeyError("score"))
    "KeyError: 'score'"
    """
    text = clean(error)[:MOST_WORDS].rstrip(".")
    if isinstance(error, DataError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


PLACES = {
    "changes": (_keys.PERTURBATION_FOLDER, "perturb"),
    "links": (_keys.LINKS_FOLDER, "links"),
    "compared": (_keys.BENCHMARK_FOLDER, "benchmark"),
}
"""Section to the folder that it is made from, and the command that writes that."""


@dataclass(frozen=True)
class Parts:
    """Everything that the page takes from the parts.

    Attributes
    ----------
    data
        Section to what is drawn in it.
    verdicts
        Section to its sentences.
    genes
        Genes that the tables of changes name.
    curves
        Training curves of Graph-DiffVAE.
    damaged
        Folders that are left out.
    warnings
        Why there is no section of a folder that is there.
    """

    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    verdicts: dict[str, list[str]] = field(default_factory=dict)
    genes: list[str] = field(default_factory=list)
    curves: dict[str, Any] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_parts(folder: Folder, cells: Cells, shown: Mapping[str, str]) -> Parts:
    """Take from each part what the page shows; one that is damaged is told, and the page made without it."""
    found = Parts()
    for section, (place, again) in PLACES.items():
        try:
            part = folder.part(place)
            if part is None:
                continue
            data, genes, curves = _take(section, part, cells, shown)
            verdict = [] if data is None else sentences(part)
        except FAILURES as error:  # DataError is one of them
            found.damaged.append(place)
            found.warnings.append(f"{place} is not shown: it is damaged ({why(error)}); run 'diffvae {again}' again.")
            continue
        found.genes.extend(genes)
        found.curves.update(curves)
        if data is not None:
            found.data[section], found.verdicts[section] = data, verdict
        elif section != "compared":  # that one may be under way
            found.warnings.append(f"{place} is not shown: an older version wrote it; run 'diffvae {again}' again.")
    return found


def _take(
    section: str, part: Folder, cells: Cells, shown: Mapping[str, str]
) -> tuple[dict[str, Any] | None, list[str], dict[str, Any]]:
    """Return the data of a section, the genes that its tables name, and curves of trainings."""
    if section == "compared":
        return _compared.data(part), [], {}
    if section == "changes":
        return _changed.data(part, cells, shown), _changed.named(part), {}
    return _links.data(part, cells), [], _made.curves_of({"Graph-DiffVAE": part})


def sentences(folder: Folder) -> list[str]:
    """Return what a folder's summary says in words."""
    said = folder.summary["verdict"]
    if not isinstance(said, list) or not all(isinstance(sentence, str) for sentence in said):
        raise DataError(f"the verdict in the summary of {str(folder.path)!r} is no list of sentences.")
    return said


NAME = "report.html"
NEEDED = {"clustering", "clusters", "markers", "parameters", "verdict", "versions", "warnings", *_keys.ABOUT}
"""What the summary of a run must say."""
SCRIPTS = ("base", "map", "types", "changes", "links", "compared", "made")


def write(path: str | PathLike[str], out: str | PathLike[str] | None = None, *, adata: AnnData | None = None) -> Path:
    """Write the page of a result folder: one HTML file that needs nothing else, no network either.

    Parameters
    ----------
    path
        Folder that :func:`diffvae.pipeline.run` or :func:`diffvae.benchmark.run` wrote. What :func:`perturb
        <diffvae.pipeline.perturb>` and :func:`links <diffvae.pipeline.links>` found there, and a comparison in a folder
        ``benchmark`` in it, become sections.
    out
        File; None for ``report.html`` in the folder.
    adata
        The cells of the result, if they are in memory already.

    Returns
    -------
    Where it is.

    Raises
    ------
    DataError
        If the folder holds no result, or a damaged one; nothing is written then.

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(100, 40)
    >>> _ = dv.pipeline.run(
    ...     cells, "results", label_key="cell_type", n_clusters=4, cluster_method="kmeans", n_latent=5, max_epochs=2,
    ...     links=False, progress=False,
    ... )
    >>> dv.report.write("results").name
    'report.html'
    """
    folder = Path(path).expanduser()
    text = page(folder, adata)
    file = folder / NAME if out is None else Path(out).expanduser()
    folders.write_text(text, file)
    return file


def page(path: str | PathLike[str], adata: AnnData | None = None) -> str:
    """Return the page of a result folder as text; :func:`write` puts it into a file.

    Parameters
    ----------
    path
        As in :func:`write`.
    adata
        The cells of the result, if they are in memory already.

    Returns
    -------
    HTML.

    Examples
    --------
    >>> import diffvae as dv
    >>> dv.report.page("no such folder")
    Traceback (most recent call last):
    diffvae._errors.DataError: 'no such folder' holds no summary.json; name a folder that 'diffvae run' wrote.
    """
    folder = Folder.open(path)
    with blame_folder(folder.path):
        text = _of_comparison(folder) if (folder.path / "runs.csv").is_file() else _of_run(folder, adata)
    return text.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair has no place in a file


def _of_comparison(folder: Folder) -> str:
    data = _compared.data(folder)
    if data is None:
        raise DataError(
            f"{str(folder.path)!r} holds no summary.csv or no paired.csv; run 'diffvae benchmark' again with "
            "--overwrite."
        )
    return _render(folder, {"compared": data}, _told_of_comparison(folder))


def _of_run(folder: Folder, adata: AnnData | None) -> str:
    if not (folder.path / _keys.RESULTS).is_file():
        raise DataError(f"{str(folder.path)!r} holds no {_keys.RESULTS}; name a folder that 'diffvae run' wrote.")
    if missing := sorted(NEEDED - set(folder.summary)):
        raise DataError(
            f"The summary of {str(folder.path)!r} says nothing of {', '.join(missing)}: it is an older version's or no "
            "run's; run 'diffvae run' again."
        )
    adata = read.read(folder.path / _keys.RESULTS) if adata is None else adata
    label_key = folder.summary["parameters"].get("label_key")
    cells = _map.Cells.of(adata)
    shown = _types.shown(adata)
    parts = read_parts(folder, cells, shown)
    data = {
        "cells": _map.data(cells, label_key),
        "genes": _types.gene_data(cells, [*_of_interest(folder), *parts.genes], shown),
        "types": _types.data(folder, adata, shown, _map.type_colours(adata, label_key)),
        **parts.data,
        "made": _made.curves_of({"DiffVAE": folder}) | parts.curves,
    }
    return _render(folder, data, _told(folder, cells, parts))


def _of_interest(folder: Folder) -> list[str]:
    """Return the genes that the tables of a run name, in the order in which a reader meets them."""
    names: list[str] = []
    clusters, genes = folder.table("tables/clusters"), folder.table("tables/high_weight_genes")
    if clusters is not None:
        names += [g.strip().removesuffix("-") for text in clusters["marker_genes"].fillna("") for g in text.split(",")]
    if genes is not None:
        names += genes["gene"].tolist()
    return [n for n in names if n]


def _told(folder: Folder, cells: _map.Cells, parts: Parts) -> dict[str, Any]:
    """Return what the page says in words and tables."""
    summary = folder.summary
    palette = _map.type_colours(cells.adata, summary["parameters"].get("label_key"))
    clusters = [
        c | {"colour": palette.get(c["cell_type"], GREY), "markers": _words(c["marker_genes"])}
        for c in summary["clusters"]
    ]
    scores = summary.get("scores") or []
    wide: dict[str, dict[str, Any]] = {}
    for row in scores:
        wide.setdefault(row["score"], {})[row["method"]] = row
    return {
        "title": Path(str(summary["source"])).name,
        "summary": summary,
        "clusters": clusters,
        "n_named": sum(c["cell_type"] != _keys.UNASSIGNED for c in clusters),
        "types": sorted({c["cell_type"] for c in clusters} - {_keys.UNASSIGNED}),
        "scores": wide,
        "methods": [m for m in ("DiffVAE", "PCA", "null") if any(m in row for row in wide.values())],
        "warnings": [*summary["warnings"], *summary["diagnosis"]["messages"], *parts.warnings],
        "verdicts": summary["verdict"],
        "thinned": len(cells.rows) < cells.adata.n_obs,
        "n_shown": len(cells.rows),
        "changed": parts.verdicts.get("changes"),
        "linked": parts.verdicts.get("links"),
        "comparison": _markdown(parts.verdicts.get("compared", [])),
        "commands": _made.commands(folder, parts.damaged),
    }


def _told_of_comparison(folder: Folder) -> dict[str, Any]:
    summary = folder.summary
    return {
        "title": "comparison of " + ", ".join(map(str, summary["methods"])),
        "summary": summary,
        "comparison": _markdown(sentences(folder)),
        "warnings": [],
        "commands": _made.commands(folder),
    }


def _words(genes: Any) -> list[dict[str, str]]:
    """Return marker genes, each with the sign by which it decided."""
    found = [g.strip() for g in str(genes or "").split(",") if g.strip()]
    return [{"gene": g.removesuffix("-"), "sign": "−" if g.endswith("-") else ""} for g in found]


def _markdown(sentences: list[str]) -> list[list[tuple[bool, str]]]:
    """Return sentences with two marks of markdown, bold and escapes, as pieces that are bold or not."""

    def pieces(text: str) -> Iterator[tuple[bool, str]]:
        for i, piece in enumerate(text.split("**")):
            if piece:
                yield bool(i % 2), re.sub(r"\\([\\`*_{}\[\]()#+.!|<>-])", r"\1", piece)

    return [list(pieces(sentence)) for sentence in sentences]


def _render(folder: Folder, data: dict[str, Any], told: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    loader = PackageLoader("diffvae.report", "assets")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clean": _encode.clean, "short": _encode.short, "number": _encode.number}
    found = {name: value for name, value in data.items() if value is not None}
    return environment.get_template("page.html").render(
        told,
        sections=set(found),
        data_made=list(found.get("made", {})),
        made_tables=_made.tables(folder),
        data=_encode.to_json(found),
        plotly=_encode.Markup(_no_addresses(get_plotlyjs())),
        style=_encode.Markup(loader.get_source(environment, "style.css")[0]),
        scripts=[_encode.Markup(loader.get_source(environment, f"{name}.js")[0]) for name in SCRIPTS],
    )


def _no_addresses(script: str) -> str:
    """Take the addresses of map tiles and home pages out of the drawing library; namespaces of XML are none."""
    return re.sub(r"https?://(?!www\.w3\.org/)", "", script)
