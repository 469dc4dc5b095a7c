"""The parts of a result that need not be there: changed states, links, and a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from diffvae import _keys
from diffvae._errors import DataError
from diffvae.report import _changes as _changed
from diffvae.report import _compared, _links, _made
from diffvae.report._damage import FAILURES, why

if TYPE_CHECKING:
    from diffvae.report._cells import Cells
    from diffvae.report._folder import Folder

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


def read(folder: Folder, cells: Cells, shown: Mapping[str, str]) -> Parts:
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
