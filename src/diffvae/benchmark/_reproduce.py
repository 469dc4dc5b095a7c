"""Every table and figure of the paper for one data set, published beside ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from diffvae import _files
from diffvae._files import one_writer
from diffvae._journal import Journal
from diffvae.benchmark import _reproduce_folder, _reproduce_plan
from diffvae.benchmark._jobs import do
from diffvae.benchmark._plan import require_positive
from diffvae.benchmark._reproduce_claim import frame
from diffvae.benchmark._reproduce_claims import claims
from diffvae.benchmark._reproduce_page import Context, page
from diffvae.benchmark._reproduce_subject import Subject, read
from diffvae.benchmark._reproduce_tables import Results, notes, tables
from diffvae.benchmark._store import Store, claim, refuse_foreign

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass
class Reproduction:
    """Result of :func:`reproduce`.

    Attributes
    ----------
    claims
        One row per claim of the paper: ``claim``, ``where``, ``published``, what each preset measured (``paper``,
        ``code``, ``default``), ``holds_here`` ("yes", "no", "only ...", "not testable", "–" where there is no rule) and
        the ``rule`` by which that is decided.
    tables
        Name to table: ``overlap``, ``types``, ``high_weight_genes``, ``gene_recovery``, ``classifier``,
        ``conversions``, ``minimal_genes``, ``table2_runs``, ``table2_paired``, ``links``, ``link_figures``; one row per
        preset and training, or finer. Empty where the data have no such thing.
    page
        The page, in Markdown.
    summary
        Parameters, claims, seconds, versions: what ``summary.json`` holds.
    path
        The folder, if one was written.

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(100, 60, tree={"stem": ["red", "white"]}, effect=2)
    >>> cells.uns.clear()  # no progenitors, and so no perturbation
    >>> found = dv.benchmark.reproduce(
    ...     cells, label_key="cell_type", n_latent=[5], n_trainings=1, n_clusterings=1, max_epochs=1, progress=False
    ... )
    >>> "overlap" in found.tables
    True
    """

    claims: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    page: str
    summary: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None


@one_writer
def reproduce(
    dataset: AnnData | str | PathLike[str],
    out: str | PathLike[str] | None = None,
    *,
    path: str | PathLike[str] | None = None,
    label_key: str | None = None,
    source: str | None = None,
    n_latent: Sequence[int] = (20, 50, 100),
    n_trainings: int = 5,
    n_clusterings: int = 10,
    n_top_genes: int | None = 2000,
    max_epochs: int | None = None,
    n_workers: int | None = None,
    rng: int = 0,
    command: str | None = None,
    progress: bool = True,
    tell: Callable[[str], None] = lambda step: None,
) -> Reproduction:
    """Go the paper's whole road on one data set under its three presets, and put the results beside the published ones.

    Clusters against reference types (Figure 1), high-weight genes (Table 1), conversions of progenitors with their
    chance and the fewest genes (Figure 3), methods beside each other (Table 2), links between cells (Figure 4): each
    over several trainings, where the paper shows one. A claim of the paper holds, or doesn't, by a rule that is stated.

    Parameters
    ----------
    dataset
        ``"zebrafish"``, ``"pancreas"`` or ``"human-hsc"``, the paper's sets; or any labelled raw cells, in memory or as
        a file, which go the same road without the published numbers.
    out
        Folder for ``reproduction.md``, ``tables``, ``figures`` and ``summary.json``, and for every finished piece: an
        interrupted reproduction goes on where it stopped. None writes nothing.
    path
        Folder or file of one of the paper's sets; None downloads it.
    label_key
        Reference types in ``obs``. The paper's sets know theirs.
    source
        Progenitor type. The zebrafish set knows its own; where there is none, nothing is perturbed.
    n_latent
        Dimensions of Table 2. Elsewhere they are the paper's for its sets, and 50 for others.
    n_trainings, n_clusterings
        Trainings of each preset and method; clusterings, and maps, of each training in Table 2 (the paper: 1 and 50).
    n_top_genes
        Variable genes of a set that isn't the paper's.
    max_epochs
        Of all networks, to try things out; None for those of the presets, the classifier and the graph model.
    n_workers
        Processes on this machine (Dask); None for this one alone. A script that starts workers needs
        ``if __name__ == "__main__":`` around it.
    rng
        Seed; a whole number.
    command
        What made the page, which repeats it.
    progress
        Show bars on a terminal.
    tell
        Called with the name of each step as it begins.

    Returns
    -------
    :class:`Reproduction`

    Raises
    ------
    DataError
        If the cells can't be had or used; the message says where to get them.

    References
    ----------
    Bica et al., Scientific Reports 10:9790 (2020).

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(100, 60, tree={"stem": ["red", "white"]}, effect=2)
    >>> cells.uns.clear()  # it would name its progenitors, which would then be perturbed
    >>> found = dv.benchmark.reproduce(cells, label_key="cell_type", n_latent=[5], n_trainings=1, n_clusterings=1,
    ...     max_epochs=1, progress=False)
    >>> found.claims.columns[:3].tolist()
    ['claim', 'where', 'published']
    """
    sizes = [int(n) for n in n_latent]
    require_positive(sizes, min(n_trainings, n_clusterings), n_workers, rng)
    if max_epochs is not None and max_epochs < 1:
        raise ValueError(f"max_epochs is {max_epochs}; it must be 1 or more.")
    folder = None if out is None else Path(out).expanduser()
    if folder is not None:
        refuse_foreign(folder)
    journal = Journal(tell)
    with journal.step("read"):
        subject = read(dataset, path, label_key, source, n_top_genes)
    if folder is not None:
        claim(folder)
    with journal.step(f"train the presets and read their representations ({n_trainings} times)"):
        results = _results(subject, folder, n_trainings, max_epochs, n_workers, rng, progress)
    found = tables(results, subject)
    found |= {"table2_runs": pd.DataFrame(), "table2_paired": pd.DataFrame()}
    remarks = notes(results)
    if subject.label_key is not None:
        with journal.step("compare with VAE, AE and PCA (Table 2)"):
            runs, paired = _reproduce_plan.table_2(
                subject, sizes, n_trainings, n_clusterings, max_epochs, folder, n_workers, rng, progress
            )
        found |= {"table2_runs": runs, "table2_paired": paired}
    remarks += journal.warnings
    made = claims(found, subject)
    asked = {"source": subject.source, "n_latent of Table 2": sizes, "n_trainings": n_trainings}
    asked |= {"n_clusterings": n_clusterings, "n_top_genes": subject.n_top_genes, "max_epochs": max_epochs, "rng": rng}
    from diffvae.model._storage import versions

    context = Context(subject, found, made, {}, remarks, asked, versions(), command, journal.seconds)
    if folder is None:
        return Reproduction(frame(made), found, page(context), _summary(context, frame(made)))
    with journal.step("draw and write"):
        context, text = _reproduce_folder.write(context, results, folder, rng)
    summary = _summary(context, frame(made))
    _files.write_text(json.dumps(summary, indent=1, default=float) + "\n", folder / "summary.json")
    return Reproduction(frame(made), found, text, summary, folder)


def _results(
    subject: Subject,
    folder: Path | None,
    n_trainings: int,
    max_epochs: int | None,
    n_workers: int | None,
    rng: int,
    progress: bool,
) -> Results:
    """Do the pieces that aren't there yet, and return all of them."""
    jobs, keys = _reproduce_plan.plan(subject, n_trainings, max_epochs, rng)
    store = Store(folder)
    do(
        jobs, {"subject": subject}, store, n_workers=n_workers, description="reading representations",
        name=lambda key: key.rpartition("/")[2].rpartition("-")[0], progress=progress,
    )  # fmt: skip
    return {part: store.load(key) for part, key in keys.items()}


def _summary(context: Context, made: pd.DataFrame) -> dict[str, Any]:
    subject = context.subject
    return {
        "state": "complete",
        "dataset": subject.name,
        "source_of_cells": subject.origin,
        "n_cells": subject.adata.n_obs,
        "n_genes": subject.adata.n_vars,
        "differences": list(subject.differences),
        "asked": dict(context.asked),
        "claims": made.to_dict("records"),
        "not_done": list(context.notes),
        "figures": [f"figures/{name}.png" for name in context.figures],
        "command": context.command,
        "seconds": dict(context.seconds),
        "versions": dict(context.versions),
    }
