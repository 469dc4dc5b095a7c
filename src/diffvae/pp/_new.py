"""Matching the genes of new cells to those a model was trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from diffvae._core.io.backed import BackedAnnData
from diffvae._core.io.backed_matrix import BackedMatrix
from diffvae._core.io.matrix import as_float32, matrix_of, quoted, source
from diffvae._errors import DataError
from diffvae._random import generator
from diffvae.pp._check import Kind, examine, summarise, tell_kind, unique_names, unlogged_total, way_out_of_scaled
from diffvae.pp._normalise import log_normalise
from diffvae.pp._scale import to_unit


def align_genes(
    adata: AnnData, gene_names: Sequence[str], *, layer: str | None = None, max_missing: float = 0.2
) -> tuple[Any, dict[str, Any]]:
    """Put the genes of a matrix into a given order, with zeros for those that it lacks.

    Parameters
    ----------
    adata
        Cells x genes, log-normalised: there a zero means "not seen".
    gene_names
        The genes wanted, in their order. Names that occur twice in ``adata`` are told apart as
        :func:`prepare` does it.
    layer
        Layer to take; ``adata.X`` by default.
    max_missing
        Largest share of the wanted genes that may be missing.

    Returns
    -------
    matrix
        Cells x ``len(gene_names)``, float32; CSR where it was sparse.
    report : dict
        ``n_genes`` wanted, ``n_missing``, ``missing_share``, ``missing`` (names) and ``warnings``
        (sentences).

    Raises
    ------
    DataError
        If more than ``max_missing`` of the genes are missing. Where names differ only in case or in an
        Ensembl version, or are found in a column of ``adata.var``, the message says so.

    Examples
    --------
    >>> import diffvae as dv, numpy as np, pandas as pd
    >>> from anndata import AnnData
    >>> adata = AnnData(np.array([[1.0, 2.0]]), var=pd.DataFrame(index=["Sox9", "Ins1"]))
    >>> matrix, report = dv.pp.align_genes(adata, ["Ins1", "Gcg", "Sox9"], max_missing=0.5)
    >>> matrix, report["missing"]
    (array([[2., 0., 1.]], dtype=float32), ['Gcg'])
    """
    return align(matrix_of(adata, layer), adata.var, gene_names, max_missing)


def align(x: Any, var: pd.DataFrame, gene_names: Sequence[str], max_missing: float) -> tuple[Any, dict[str, Any]]:
    """Do what :func:`align_genes` does for a matrix and the table of its genes."""
    if not 0 <= max_missing <= 1:
        raise ValueError(f"max_missing is {max_missing!r}; give a share from 0 to 1.")
    wanted = pd.Index([str(name) for name in gene_names])
    if len(wanted) == 0 or not wanted.is_unique:
        raise ValueError(f"gene_names has {len(wanted):,} names, {wanted.nunique():,} of them different.")
    names = pd.Index(unique_names(var.index.astype(str)))
    at = names.get_indexer(wanted)
    missing = wanted[at < 0].tolist()
    share = len(missing) / len(wanted)
    warnings: list[str] = []
    if missing:
        what = f"{len(missing):,} of the {len(wanted):,} genes that the model needs ({share:.1%}) are missing"
        if share > max_missing or len(missing) == len(wanted):
            raise DataError(
                f"{what}, more than max_missing={max_missing:g} allows: {quoted(missing)}. {_hint(wanted, names, var)}"
            )
        warnings.append(f"{what} and were taken as 0: {quoted(missing)}.")
    matrix = x.map(lambda block: _take(block, at), len(wanted)) if isinstance(x, BackedMatrix) else _take(x, at)
    report = {
        "n_genes": len(wanted),
        "n_missing": len(missing),
        "missing_share": share,
        "missing": missing,
        "warnings": warnings,
    }
    return matrix, report


def _take(x: Any, at: np.ndarray) -> Any:
    """Return the columns at some places, float32; zeros where the place is -1."""
    present = np.flatnonzero(at >= 0)
    columns = as_float32(x[:, at[present]])
    if sp.issparse(columns):
        # Positions increase, so that the indices stay sorted.
        arrays = (columns.data, present[columns.indices], columns.indptr)
        return type(columns)(arrays, shape=(x.shape[0], len(at)))
    matrix = np.zeros((x.shape[0], len(at)), dtype=np.float32)
    matrix[:, present] = columns
    return matrix


def _hint(wanted: pd.Index, names: pd.Index, var: pd.DataFrame) -> str:
    """Return what may be wrong with the names."""
    target, now = set(wanted), wanted.isin(names).sum()

    def better(candidates: Any, against: set[str] = target) -> bool:
        return len(against.intersection(candidates)) > max(2 * now, 0.5 * len(wanted))

    for column in var.columns:
        if var[column].dtype.kind not in "biufcmM" and better(var[column].astype(str)):
            return f"adata.var[{column!r}] holds matching names: adata.var_names = adata.var[{column!r}] first."
    folded = {name.casefold(): name for name in wanted}
    if better([name.casefold() for name in names], set(folded)):
        mine = next(name for name in names if name.casefold() in folded and name not in target)
        return f"They differ in case only: the model has {folded[mine.casefold()]!r}, the data {mine!r}."
    stem = re.compile(r"^(ENS\w+)\.\d+$")
    if better([stem.sub(r"\1", name) for name in names]) or better(names, {stem.sub(r"\1", n) for n in wanted}):
        return f"They differ in the Ensembl version only: the model has {wanted[0]!r}, the data {names[0]!r}."
    return f"The model has names such as {quoted(wanted[:2])}, the data {quoted(names[:2])}."


MANY_CLIPPED = 0.05
"""Share of values outside the training cells' limits beyond which scales are likely to differ."""
CLIPPED_SAMPLE = 5_000
"""Cells on disk of which that share is taken."""


def prepare_new(
    adata: AnnData | BackedAnnData,
    *,
    gene_names: Sequence[str],
    minimum: Any,
    maximum: Any,
    target_sum: float | None,
    layer: str | None = None,
    kind: Kind | None = None,
    max_missing: float = 0.2,
) -> tuple[Any, dict[str, Any]]:
    """Bring new cells to [0, 1] as the training cells were: normalise, match genes, scale, cut off.

    Totals of cells are taken over *all* genes of the new data, as in training, before the model's genes are
    picked. Where ``adata.X`` holds logs of a part of the genes and ``adata.raw`` logs of more of the genes
    that the model needs (the habit of scanpy), ``adata.raw`` is used.

    Parameters
    ----------
    adata
        New cells, any number of them, not changed.
    gene_names, minimum, maximum
        The model's genes and their limits (:func:`to_unit`).
    target_sum
        Total of the training cells before the logarithm, ``uns["diffvae"]["prepare"]["target_sum"]``; None if
        they came as logs, and then the new cells must too.
    layer
        Layer to start from; ``adata.X`` by default.
    kind
        What the values are, if you know better than :func:`check`.
    max_missing
        Largest share of the model's genes that may be missing.

    Returns
    -------
    unit
        New cells x ``len(gene_names)``, float32 in [0, 1]; CSR where the data were sparse.
    report : dict
        ``kind``, ``source`` (the matrix used), ``n_missing``, ``missing_share``, ``missing``,
        ``clipped_share`` and ``warnings`` (sentences).

    Raises
    ------
    DataError
        If the values can't be used or too many genes are missing.

    Examples
    --------
    >>> import diffvae as dv, numpy as np
    >>> from anndata import AnnData
    >>> counts = np.random.default_rng(0).poisson(2.0, (50, 30)).astype("float32")
    >>> trained = dv.pp.prepare(AnnData(counts[:40]), n_top_genes=20, copy=True)
    >>> unit, report = dv.pp.prepare_new(
    ...     AnnData(counts[40:]),
    ...     gene_names=trained.var_names,
    ...     minimum=trained.var["unit_min"],
    ...     maximum=trained.var["unit_max"],
    ...     target_sum=trained.uns["diffvae"]["prepare"]["target_sum"],
    ... )
    >>> unit.shape, report["kind"], report["n_missing"]
    ((10, 20), 'counts', 0)
    """
    found, summary = examine(adata, layer=layer, kind=kind, fitting=False)
    if found.kind == "scaled":
        raise DataError(way_out_of_scaled(adata, layer, summary))
    x, var, name = matrix_of(adata, layer), adata.var, source(layer)
    warnings = list(found.warnings)
    if found.kind != "log" and target_sum is None:
        raise DataError(
            f"{name} holds {found.kind} values, but the model was trained on values that were "
            "log-normalised before, so that their target sum isn't known; log-normalise the new cells in "
            "the same way and pass those."
        )
    if found.kind == "log" and layer is None and _raw_has_more(adata, gene_names):
        raw: Any = adata.raw
        x, var, name = raw.X, raw.var, "adata.raw"
    if found.kind == "log" and target_sum is not None and (total := unlogged_total(x)):
        base, value = total
        if base != "ln" or not 0.95 < value / target_sum < 1.05:
            warnings.append(
                f"{name} is {base}(x + 1) of cells that sum to {value:,.6g}, the model was trained on ln(x "
                f"+ 1) of cells that sum to {target_sum:,.6g}; pass counts, or logs on the same scale."
            )
    matched, genes = align(_logged(x, found.kind, target_sum or 1.0), var, gene_names, max_missing)
    if isinstance(matched, BackedMatrix):  # nothing is read before it is asked for: the share is that of some cells
        clipped = to_unit(matched.sample(CLIPPED_SAMPLE, generator(0, "clipped")), minimum, maximum)[1]
        unit: Any = matched.map(lambda block: to_unit(block, minimum, maximum)[0])
    else:
        unit, clipped = to_unit(matched, minimum, maximum)
    if clipped > MANY_CLIPPED:
        warnings.append(
            f"{clipped:.1%} of the values lie outside the range of the training cells and were cut off; "
            "the new cells may have been normalised differently."
        )
    report = {**genes, "kind": found.kind, "source": name, "clipped_share": clipped}
    report["warnings"] = warnings + genes["warnings"]
    return unit, report


def _logged(x: Any, kind: Kind, target_sum: float) -> Any:
    if isinstance(x, BackedMatrix):
        return x.map(lambda block: log_normalise(block, kind, target_sum))
    return log_normalise(x, kind, target_sum)


def _raw_has_more(adata: AnnData | BackedAnnData, gene_names: Sequence[str]) -> bool:
    """Return whether adata.raw holds logs of more of the genes than X."""
    raw, wanted = adata.raw, set(gene_names)
    if raw is None or len(wanted.intersection(raw.var_names)) <= len(wanted.intersection(adata.var_names)):
        return False
    summary = summarise(raw.X)
    return not summary.n_bad and tell_kind(raw.X, summary)[0] == "log"
