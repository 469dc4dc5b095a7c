"""The summary on top of the page: what was found in four tiles, and what to keep in mind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diffvae import _keys
from diffvae.report._encode import number, short

if TYPE_CHECKING:
    from diffvae.report._folder import Folder

N_LINES = 4
N_CAVEATS = 3
UNCOMMITTED = "uncommitted"


def tiles(summary: Mapping[str, Any], changes: Folder | None, links: Folder | None) -> list[dict[str, Any]]:
    """Return the tiles, each with its section, a heading and lines: cells, types, conversions and fates."""
    found = [_cells(summary), _types(summary["clusters"])]
    if changes is not None:
        found.append(_conversions(changes.summary["targets"]))
    if links is not None and links.summary.get("calls"):
        found.append(_fates(links.summary["calls"]["paths"], links.summary["parameters"].get("source")))
    return found


def caveats(summary: Mapping[str, Any], tiles: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return up to three sentences on what the results can't show, those of this run first."""
    uncertain = sum(not c["confident"] and c["cell_type"] != _keys.UNASSIGNED for c in summary["clusters"])
    shown = {tile["section"] for tile in tiles}
    said = list(summary["warnings"][:1])
    if uncertain:
        are = "is" if uncertain == 1 else "are"
        said.append(f"{uncertain} of {len(summary['clusters'])} names of clusters {are} uncertain and marked with ?.")
    if "changes" in shown:
        said.append("A conversion is a changed call of classifiers. Only an experiment shows whether the cell changes.")
    if "fates" in shown:
        said.append("A call says that expression has moved towards a type. It does not say what the cell becomes.")
    said.append("Cells that lie close together have similar expression. That is no proof of a common lineage.")
    return said[:N_CAVEATS]


def _cells(summary: Mapping[str, Any]) -> dict[str, Any]:
    lines = [f"{number(summary['n_genes'])} genes", f"{number(len(summary['clusters']))} clusters"]
    return {"section": "map", "title": f"{number(summary['n_cells'])} cells", "lines": lines}


def _types(clusters: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    sizes: dict[str, int] = {}
    for cluster in clusters:
        sizes[str(cluster["cell_type"])] = sizes.get(str(cluster["cell_type"]), 0) + int(cluster["n_cells"])
    unnamed = sizes.pop(_keys.UNASSIGNED, 0)
    named = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"{short(name)}: {number(n)}" for name, n in named[:N_LINES]]
    if rest := len(named) - N_LINES:
        lines += [f"and {rest} more"] if rest > 0 else []
    if unnamed:
        lines.append(f"without a name: {number(unnamed)}")
    return {
        "section": "types",
        "title": f"{len(named)} cell type{'' if len(named) == 1 else 's'} named",
        "lines": lines,
    }


def _conversions(targets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the pairs of types that are reached beyond chance, those with the fewest genes first."""
    pairs = [t for t in targets if t.get("reached") and not t.get("earlier")]
    several = len({t["source"] for t in targets}) > 1
    lines = []
    for t in sorted(pairs, key=lambda t: (t.get("median_n_genes") or float("inf"), str(t["target"])))[:N_LINES]:
        name = f"{short(t['source'])} → {short(t['target'])}" if several else f"to {short(t['target'])}"
        genes = f"; {t['median_n_genes']:.0f} genes suffice" if t.get("median_n_genes") else ""
        lines.append(f"{name}: {t['judged']:.0%} of cells{genes}")
    if not lines:
        lines = ["More cells convert than by chance in no pair of types."]
    elif len(pairs) > N_LINES:
        lines.append(f"and {len(pairs) - N_LINES} more")
    source = "Conversions" if several or not targets else f"Conversions of {short(targets[0]['source'])}"
    return {"section": "changes", "title": source, "lines": lines}


def _fates(calls: Mapping[str, int], source: str | None) -> dict[str, Any]:
    """Return how many progenitors are called towards which types."""
    called = {name: n for name, n in calls.items() if name != UNCOMMITTED}
    n, n_called = sum(calls.values()), sum(called.values())
    ordered = sorted(called.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"towards {short(name.removeprefix('biased: '))}: {number(k)}" for name, k in ordered[:N_LINES]]
    if len(ordered) > N_LINES:
        lines.append(f"and {len(ordered) - N_LINES} more")
    title = f"{number(n_called)} of {number(n)} {short(source or 'progenitors')} committed"
    return {"section": "fates", "title": title, "lines": lines or ["No cell is called."]}
