"""New cells in the form of the training cells: genes matched by name, normalisation and scaling of the training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from diffvae._core import genes as _genes
from diffvae._core.io.backed import BackedAnnData
from diffvae._core.io.backed_matrix import BackedMatrix
from diffvae._core.io.matrix import as_float32, matrix_of, quoted, source
from diffvae._core.io.modalities import only_genes
from diffvae._core.validate import Number, check
from diffvae._errors import DataError
from diffvae._random import generator
from diffvae.pp._check import Kind, detect_kind, examine, summarise, unique_names, way_out_of_scaled
from diffvae.pp._normalise import log_normalise
from diffvae.pp._scale import to_unit
from diffvae.pp._scales import kinds_of_cells


def align_genes(
    adata: AnnData, gene_names: Sequence[str], *, layer: str | None = None, max_missing: float = 0.2
) -> tuple[Any, dict[str, Any]]:
    """Return the matrix of given genes in their order, with zeros for missing genes.

    Genes are looked for in ``var_names``. If another column of ``var``, a part of the names (``GRCh38_GENE``,
    ``ENSG00000000001.5``) or another case has clearly more of them, those names are used, with a warning that says so.

    Parameters
    ----------
    adata
        Cells x genes, log-normalised, so that 0 means not detected.
    gene_names
        The genes in their order. Duplicated names in ``adata`` are made unique as in :func:`prepare`.
    layer
        Layer of the values; ``adata.X`` by default.
    max_missing
        Largest share of the genes that may be missing.

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
        If more than ``max_missing`` of the genes are missing.

    Examples
    --------
    >>> import diffvae as dv, numpy as np, pandas as pd
    >>> from anndata import AnnData
    >>> adata = AnnData(np.array([[1.0, 2.0]]), var=pd.DataFrame(index=["Sox9", "Ins1"]))
    >>> matrix, report = dv.pp.align_genes(adata, ["Ins1", "Gcg", "Sox9"], max_missing=0.5)
    >>> matrix, report["missing"]
    (array([[2., 0., 1.]], dtype=float32), ['Gcg'])
    """
    return align(matrix_of(adata, layer), _genes.table(adata), gene_names, max_missing)


def align(x: Any, var: pd.DataFrame, gene_names: Sequence[str], max_missing: float) -> tuple[Any, dict[str, Any]]:
    """Do what :func:`align_genes` does for a matrix and the table of its genes."""
    check({"max_missing": Number("[0, 1]")}, max_missing=max_missing)
    wanted = pd.Index([str(name) for name in gene_names])
    if len(wanted) == 0 or not wanted.is_unique:
        raise ValueError(f"gene_names has {len(wanted):,} names, {wanted.nunique():,} of them different.")
    names = pd.Index(unique_names(var.index.astype(str)))
    found = _genes.find(wanted, var.set_axis(names, axis=0), both=True)
    at = found.position
    missing = wanted[at < 0].tolist()
    share = len(missing) / len(wanted)
    warnings: list[str] = []
    if found.how:
        said = f"Genes of the new cells are matched to those of the model by {found.how}"
        at, n_twice = _one_each(found)
        several = f"; {n_twice:,} genes occur more than once, and the first is used" if n_twice else ""
        warnings.append(f"{said}{several}.")
    if missing:
        what = f"{len(missing):,} of the {len(wanted):,} genes that the model needs ({share:.1%}) are missing"
        if share > max_missing or len(missing) == len(wanted):
            raise DataError(
                f"{what}, more than max_missing={max_missing:g} allows: {quoted(missing)}. The model has names such as "
                f"{quoted(wanted[:2])}, the data {quoted(names[:2])}."
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
    """Return columns by position, float32; zeros where the position is -1."""
    present = np.flatnonzero(at >= 0)
    columns = as_float32(x[:, at[present]])
    if sp.issparse(columns):
        # Positions increase, so that the indices stay sorted.
        arrays = (columns.data, present[columns.indices], columns.indptr)
        return type(columns)(arrays, shape=(x.shape[0], len(at)))
    matrix = np.zeros((x.shape[0], len(at)), dtype=np.float32)
    matrix[:, present] = columns
    return matrix


def _one_each(found: _genes.Found) -> tuple[np.ndarray, int]:
    """Return the positions, each used once, and the number of genes whose name several rows have."""
    at = found.position
    if len(np.unique(at[at >= 0])) < (at >= 0).sum():
        raise DataError(
            "Several genes of the model would take the values of one gene of the data, because their names differ only "
            "in a part or in case; name the genes of both alike."
        )
    folded = found.names.str.casefold()
    twice = folded[folded.duplicated(keep=False)]
    return at, int(pd.Index(folded[at[at >= 0]]).isin(twice).sum())


MANY_CLIPPED = 0.05
"""Share of values outside the limits of the training cells above which the scales probably differ."""
CLIPPED_SAMPLE = 5_000
"""Cells on disk from which the share is computed."""


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
    """Normalise new cells, match their genes to those of a model, scale them to [0, 1] by its limits, and clip.

    Totals of cells are taken over *all* genes of the new data, as in training. If ``adata.X`` and ``adata.raw`` hold
    logs and ``adata.raw`` has more of the model's genes, as is usual in scanpy, ``adata.raw`` is used.

    Parameters
    ----------
    adata
        New cells, any number of them, not changed.
    gene_names, minimum, maximum
        The model's genes and their limits (:func:`to_unit`).
    target_sum
        Total of the training cells before the logarithm, ``uns["diffvae"]["prepare"]["target_sum"]``; None if they
        were given as logs, as the new cells must be then.
    layer
        Layer to start from; ``adata.X`` by default.
    kind
        What the values are, if the detection of :func:`check` is wrong.
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
    if isinstance(adata, AnnData) and not adata.isbacked:
        adata = only_genes(adata, one_genome=False)[0]
    data, summary = examine(adata, layer=layer, kind=kind, fitting=False)
    if data.kind == "scaled":
        raise DataError(way_out_of_scaled(adata, layer, summary))
    x, var, name = matrix_of(adata, layer), _genes.table(adata), source(layer)
    warnings = list(data.warnings)
    if data.kind != "log" and target_sum is None:
        raise DataError(
            f"{name} holds {data.kind} values, but the model was trained on log-normalised values with an unknown "
            "target sum; log-normalise the new cells in the same way first."
        )
    if data.kind == "log" and layer is None and _raw_has_more(adata, gene_names):
        raw: Any = adata.raw
        x, var, name = raw.X, _genes.table(adata, raw=True), "adata.raw"
        summary.kinds = None
    if data.kind == "log" and target_sum is not None and (total := (summary.kinds or kinds_of_cells(x)).unlogged_total):
        base, value = total
        if base != "ln" or not 0.95 < value / target_sum < 1.05:
            warnings.append(
                f"{name} is {base}(x + 1) of cells that sum to {value:,.6g}, the model was trained on ln(x "
                f"+ 1) of cells that sum to {target_sum:,.6g}; pass counts, or logs on the same scale."
            )
    matched, genes = align(_logged(x, data.kind, target_sum or 1.0), var, gene_names, max_missing)
    if isinstance(matched, BackedMatrix):  # blocks are read later, so the share is computed from a sample
        clipped = to_unit(matched.sample(CLIPPED_SAMPLE, generator(0, "clipped"))[1], minimum, maximum)[1]
        unit: Any = matched.map(lambda block: to_unit(block, minimum, maximum)[0])
    else:
        unit, clipped = to_unit(matched, minimum, maximum)
    if clipped > MANY_CLIPPED:
        warnings.append(
            f"{clipped:.1%} of the values lie outside the range of the training cells and were clipped; "
            "the new cells may have been normalised differently."
        )
    report = {**genes, "kind": data.kind, "source": name, "clipped_share": clipped}
    report["warnings"] = warnings + genes["warnings"]
    return unit, report


def _logged(x: Any, kind: Kind, target_sum: float) -> Any:
    if isinstance(x, BackedMatrix):
        return x.map(lambda block: log_normalise(block, kind, target_sum))
    return log_normalise(x, kind, target_sum)


def _raw_has_more(adata: AnnData | BackedAnnData, gene_names: Sequence[str]) -> bool:
    """Return whether adata.raw holds logs of more of the genes than X."""
    raw = adata.raw
    if raw is None:
        return False
    inside, in_raw = (
        int((_genes.find(gene_names, _genes.table(adata, raw=of_raw), both=True).position >= 0).sum())
        for of_raw in (False, True)
    )
    if in_raw <= inside:
        return False
    summary = summarise(raw.X)
    return not summary.n_bad and detect_kind(raw.X, summary)[0] == "log"
