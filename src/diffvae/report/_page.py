"""The page: sections from what is in the folder, one file with everything in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffvae import _files, _io, _keys
from diffvae._errors import DataError
from diffvae.pl._style import GREY
from diffvae.report import _cells, _compared, _damage, _encode, _genes, _made, _parts, _types
from diffvae.report._folder import Folder

if TYPE_CHECKING:
    from anndata import AnnData

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
    _files.write_text(text, file)
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
    with _damage.told(folder.path):
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
    adata = _io.read(folder.path / _keys.RESULTS) if adata is None else adata
    label_key = folder.summary["parameters"].get("label_key")
    cells = _cells.Cells.of(adata)
    shown = _genes.shown(adata)
    parts = _parts.read(folder, cells, shown)
    data = {
        "cells": _cells.data(cells, label_key),
        "genes": _genes.data(cells, [*_of_interest(folder), *parts.genes], shown),
        "types": _types.data(folder, adata, shown, _cells.type_colours(adata, label_key)),
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


def _told(folder: Folder, cells: _cells.Cells, parts: _parts.Parts) -> dict[str, Any]:
    """Return what the page says in words and tables."""
    summary = folder.summary
    palette = _cells.type_colours(cells.adata, summary["parameters"].get("label_key"))
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
        "comparison": _markdown(_parts.sentences(folder)),
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
