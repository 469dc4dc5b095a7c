"""The page of a result folder: its sections, put together from the folder of a run or of a comparison."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffvae import _keys
from diffvae._core.io import folders, read
from diffvae._errors import DataError
from diffvae.pl._data import colours_of
from diffvae.pl._style import GREY
from diffvae.report import (
    _card,
    _changes,
    _compared,
    _encode,
    _fates,
    _integration,
    _links,
    _made,
    _map,
    _methods,
    _types,
)
from diffvae.report._folder import DamagedError, Folder
from diffvae.report._map import Cells
from diffvae.tl._names import AND

if TYPE_CHECKING:
    from anndata import AnnData

NAME = "report.html"
MAX_BYTES = 15_000_000
"""Maximum size of the page, as far as genes make it."""
SCRIPTS = ("base", "map", "integration", "types", "changes", "fates", "links", "compared", "made")
PARTS = {
    "changes": (_keys.PERTURBATION_FOLDER, "perturb"),
    "links": (_keys.LINKS_FOLDER, "links"),
    "compared": (_keys.BENCHMARK_FOLDER, "benchmark"),
}
"""Section to its folder in the folder of a run, and the command that writes it."""


def write(path: str | PathLike[str], out: str | PathLike[str] | None = None, *, adata: AnnData | None = None) -> Path:
    """Write the page of a result folder: one HTML file that needs no other file and no network.

    Parameters
    ----------
    path
        Folder that :func:`diffvae.pipeline.run` or :func:`diffvae.benchmark.run` wrote. The results of :func:`perturb
        <diffvae.pipeline.perturb>` and :func:`links <diffvae.pipeline.links>` in it, and a comparison in its folder
        ``benchmark``, become sections.
    out
        File; None for ``report.html`` in the folder.
    adata
        The cells of the result, if they are in memory.

    Returns
    -------
    Path of the file.

    Raises
    ------
    DataError
        If the folder holds no result or a damaged one; nothing is written then.

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
        The cells of the result, if they are in memory.

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
    try:
        text = _page_of_comparison(folder) if (folder.path / "runs.csv").is_file() else _page_of_run(folder, adata)
    except DamagedError as error:
        raise DataError(
            f"{str(folder.path)!r} is damaged or of another version: {error}; run the command that wrote it again."
        ) from error
    return text.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair can't be written


def _page_of_comparison(folder: Folder) -> str:
    data = _compared.data(folder)
    if data is None:
        raise DataError(
            f"{str(folder.path)!r} holds no summary.csv or no paired.csv; run 'diffvae benchmark' again with "
            "--overwrite."
        )
    folder.require_summary("benchmark")
    words = {
        "title": "comparison of " + ", ".join(folder.summary["methods"]),
        "summary": folder.summary,
        "comparison": _markdown(folder.summary["verdict"]),
        "commands": _made.commands(folder),
    }
    return _render(folder, {"compared": data}, words)


def _page_of_run(folder: Folder, adata: AnnData | None) -> str:
    if not (folder.path / _keys.RESULTS).is_file():
        raise DataError(f"{str(folder.path)!r} holds no {_keys.RESULTS}; name a folder that 'diffvae run' wrote.")
    folder.require_summary("run")
    adata = read.read(folder.path / _keys.RESULTS) if adata is None else adata
    for place, keys in (("obsm", (_keys.LATENT, _keys.TSNE)), ("obs", (_keys.CLUSTER, _keys.CELL_TYPE))):
        if missing := [key for key in keys if key not in getattr(adata, place)]:
            raise DamagedError(f"{_keys.RESULTS} has no {place}[{missing[0]!r}]")
    label_key = folder.summary["parameters"]["label_key"]
    batch_key = (folder.summary.get("integration") or {}).get("batch_key")
    cells = Cells.of(adata)
    shown = _types.shown(adata)
    palette = colours_of(adata, _keys.CELL_TYPE)
    parts = _read_parts(folder, cells, shown, palette)
    data: dict[str, Any] = {
        "cells": _map.data(cells, label_key, batch_key),
        "integration": _integration.data(folder.summary, adata),
        "genes": {"stored": []},
        "types": _types.data(folder, adata, shown, palette, batch_key),
        **parts.data,
        "made": _made.curves_of({"DiffVAE": folder}) | parts.curves,
    }
    words = _words_of_run(folder, cells, parts, palette)
    page = _render(folder, data, words)
    # genes take what the rest of the page leaves; no text of the page holds these quotes, which JSON and HTML escape
    room = MAX_BYTES - len(page.encode("utf-8", "replace"))
    genes = _types.gene_data(cells, [*_genes_in_tables(folder), *parts.genes], shown, room)
    before, after = (f'"genes": {_encode.to_json(value)}' for value in (data["genes"], genes))
    return page.replace(before, after, 1)


@dataclass(frozen=True)
class Parts:
    """What the page shows of the folders inside a result.

    Attributes
    ----------
    data, verdicts
        Data and sentences of each section.
    genes
        Genes in the tables of a perturbation.
    curves
        Training curves of Graph-DiffVAE.
    damaged
        Folders that are left out, each with a warning.
    """

    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    verdicts: dict[str, list[str]] = field(default_factory=dict)
    genes: list[str] = field(default_factory=list)
    curves: dict[str, Any] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def _read_parts(folder: Folder, cells: Cells, shown: Mapping[str, str], palette: Mapping[str, str]) -> Parts:
    """Read the folders inside a result; a damaged one is left out with a warning."""
    parts = Parts()
    for section, (name, command) in PARTS.items():
        genes, curves, fates = [], {}, None
        try:
            part = folder.part(name)
            if part is None:
                continue
            if section == "compared" and (data := _compared.data(part)) is None:
                continue  # the comparison has not ended yet
            part.require_summary(command)
            if section == "changes":
                data, genes = _changes.data(part, cells, shown), _changes.genes(part)
            elif section == "links":
                data, curves = _links.data(part, cells), _made.curves_of({"Graph-DiffVAE": part})
                fates = _fates.data(part, cells, _colours(cells, part, palette))
        except DataError as error:
            parts.damaged.append(name)
            reason = str(error).rstrip(".")
            parts.warnings.append(f"{name} is not shown: it is damaged ({reason}); run 'diffvae {command}' again.")
            continue
        parts.genes.extend(genes)
        parts.curves.update(curves)
        if data is not None:
            of_fates = (part.summary.get("fates_verdict") or []) if fates is not None else []
            parts.data[section] = data
            parts.verdicts[section] = [said for said in part.summary["verdict"] if said not in of_fates]
            if fates is not None:
                parts.data["fates"], parts.verdicts["fates"] = fates, of_fates
        else:
            parts.warnings.append(f"{name} is not shown: its tables are missing; run 'diffvae {command}' again.")
    return parts


def _colours(cells: Cells, part: Folder, palette: Mapping[str, str]) -> Mapping[str, str]:
    """Return the colours of the types of a part; `palette`, those of the names, if the run has not its column."""
    groupby = part.summary["parameters"]["groupby"]
    return colours_of(cells.adata, groupby) if groupby in cells.adata.obs else palette


def _genes_in_tables(folder: Folder) -> list[str]:
    """Return the genes in the tables of a run, in the order of the page."""
    names: list[str] = []
    clusters, genes = folder.table("tables/clusters"), folder.table("tables/high_weight_genes")
    if clusters is not None:
        names += [g.strip().removesuffix("-") for text in clusters["marker_genes"].fillna("") for g in text.split(",")]
    if genes is not None:
        names += genes["gene"].tolist()
    return [n for n in names if n]


def _words_of_run(folder: Folder, cells: Cells, parts: Parts, palette: Mapping[str, str]) -> dict[str, Any]:
    """Return the words and tables of the page."""
    summary = folder.summary
    clusters = [
        c
        | {
            "cell_type": str(c["cell_type"]),
            "colour": palette.get(str(c["cell_type"]), palette.get(str(c["cell_type"]).split(AND)[0], GREY)),
            "markers": _markers(c["marker_genes"]),
        }
        for c in summary["clusters"]
    ]
    scores: dict[str, dict[str, Any]] = {}
    for row in summary["scores"] or []:
        scores.setdefault(row["score"], {})[row["method"]] = row
    shown = [folder.part(PARTS[part][0]) if part in parts.data else None for part in ("changes", "links")]
    tiles = _card.tiles(summary, *shown)
    caveats = _card.caveats(summary, tiles)
    text, literature = _methods.methods(folder, *shown)
    warnings = [*summary["warnings"], *summary["diagnosis"]["messages"], *parts.warnings]
    return {
        "title": Path(summary["source"]).name,
        "summary": summary,
        "tiles": tiles,
        "caveats": caveats,
        "clusters": clusters,
        "n_named": sum(c["cell_type"] != _keys.UNASSIGNED for c in clusters),
        "types": sorted({c["cell_type"] for c in clusters} - {_keys.UNASSIGNED}),
        "scores": scores,
        "methods": [m for m in ("DiffVAE", "PCA", "null") if any(m in row for row in scores.values())],
        "warnings_below": [said for said in warnings if said not in caveats],
        "verdicts": summary["verdict"],
        "thinned": len(cells.rows) < cells.adata.n_obs,
        "n_shown": len(cells.rows),
        "changed": parts.verdicts.get("changes"),
        "has_plasticity": bool(parts.data.get("changes", {}).get("plasticity")),
        "linked": parts.verdicts.get("links"),
        "fated": parts.verdicts.get("fates"),
        "comparison": _markdown(parts.verdicts.get("compared", [])),
        "commands": _made.commands(folder, parts.damaged),
        "types_of": {
            section: part.summary["parameters"]["groupby"]
            for section, part in zip(("changes", "links"), shown, strict=True)
            if part is not None
        },
        "methods_text": text,
        "literature": literature,
    }


def _markers(genes: str | None) -> list[dict[str, str]]:
    """Return marker genes with their signs: "−" where low expression supports the name."""
    names = [name.strip() for name in (genes or "").split(",") if name.strip()]
    return [{"gene": name.removesuffix("-"), "sign": "−" if name.endswith("-") else ""} for name in names]


def _markdown(sentences: list[str]) -> list[list[tuple[bool, str]]]:
    """Return sentences of Markdown, with bold text and escapes, as pieces with whether each is bold."""

    def pieces(text: str) -> Iterator[tuple[bool, str]]:
        for i, piece in enumerate(text.split("**")):
            if piece:
                yield bool(i % 2), re.sub(r"\\([\\`*_{}\[\]()#+.!|<>-])", r"\1", piece)

    return [list(pieces(sentence)) for sentence in sentences]


def _render(folder: Folder, data: dict[str, Any], words: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    loader = PackageLoader("diffvae.report", "assets")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"clean": _encode.clean, "short": _encode.short, "number": _encode.number}
    sections = {name: value for name, value in data.items() if value is not None}
    return environment.get_template("page.html").render(
        words,
        sections=set(sections),
        data_made=list(sections.get("made", {})),
        made_tables=_made.tables(folder),
        data=_encode.to_json(sections),
        plotly=_encode.Markup(_without_addresses(get_plotlyjs())),
        style=_encode.Markup(loader.get_source(environment, "style.css")[0]),
        scripts=[_encode.Markup(loader.get_source(environment, f"{name}.js")[0]) for name in SCRIPTS],
    )


def _without_addresses(script: str) -> str:
    """Remove the addresses of map tiles and home pages from plotly.js; namespaces of XML stay."""
    return re.sub(r"https?://(?!www\.w3\.org/)", "", script)
