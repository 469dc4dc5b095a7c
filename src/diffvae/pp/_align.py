"""Matching the genes of new cells to those a model was trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from diffvae._errors import DataError
from diffvae._rows import Rows
from diffvae.pp._check import unique_names
from diffvae.pp._matrix import as_float32, matrix_of, quoted


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
    matrix = x.map(lambda block: _take(block, at), len(wanted)) if isinstance(x, Rows) else _take(x, at)
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
