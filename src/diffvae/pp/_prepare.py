"""Preparation of cells for the models: normalisation, variable genes, validation split, scaling to [0, 1]."""

from __future__ import annotations

import warnings
from os import PathLike
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from diffvae import _keys
from diffvae._core.io.backed import is_on_disk, open_store
from diffvae._core.io.matrix import gene_range, matrix_of
from diffvae._core.io.modalities import only_genes
from diffvae._core.validate import Number, Optional, Rule, Whole, check
from diffvae._errors import DataError
from diffvae._random import Rng
from diffvae.pp._check import (
    Kind,
    examine,
    unique_names,
    way_out_of_scaled,
)
from diffvae.pp._normalise import batch_of, log_normalise, variable_genes
from diffvae.pp._record import as_counts, constant_genes, describe, draw_validation, is_prepared, raw_is_better, record
from diffvae.pp._scale import to_unit

RULES: dict[str, Rule] = {
    "n_top_genes": Optional(Whole(1)),
    "target_sum": Optional(Number("(0, 1e30]")),
    "validation_size": Number("[0, 1)"),
}


def prepare(
    adata: Any,
    *,
    n_top_genes: int | None = 2000,
    target_sum: float | None = 1e4,
    layer: str | None = None,
    batch_key: str | None = None,
    kind: Kind | None = None,
    validation_size: float = 0.2,
    rng: Rng = 0,
    copy: bool = False,
    out: str | PathLike[str] | None = None,
) -> Any:
    r"""Normalise, keep the variable genes, set validation cells aside and scale each gene to [0, 1].

    With x the counts or normalised values of a cell and s the target sum,

    .. math::

        y_g = \log\Bigl(1 + s \frac{x_g}{\sum_h x_h}\Bigr), \qquad
        u_g = \min\Bigl(1, \max\Bigl(0, \frac{y_g - a_g}{b_g - a_g}\Bigr)\Bigr),

    where a and b are the smallest and the largest y of the gene among the *training* cells. Log-normalised values are
    taken as y. Cells without any expression stay, with all values 0, and a warning. Features that are no genes
    (``var["feature_types"]`` other than "Gene Expression", counters such as ``__no_feature``) are left out, with a
    warning; counts of antibodies go to ``obsm["protein"]``.

    Parameters
    ----------
    adata
        Cells x genes; :func:`check` lists what is refused. A file of AnnData (``.h5ad``, ``.zarr``), a list of such
        files (genes matched by name) or a backed AnnData is prepared in blocks of cells, in bounded memory, and written
        to ``out``.
    n_top_genes
        Number of variable genes to keep, by scanpy's ``highly_variable_genes``, flavour "seurat". None, or a number
        above that of the genes that vary, keeps all that vary.
    target_sum
        Total of each cell before the logarithm; None for the median of the totals.
    layer
        Layer to start from; ``adata.X`` by default.
    batch_key
        Column of ``adata.obs``: variable genes are then chosen within each batch and combined. The values stay as
        they are; ``batch_key`` of a model's ``train`` removes batches.
    kind
        What the values are, if detection is wrong: ``"counts"``, ``"normalised"`` or ``"log"``.
    validation_size
        Share of the cells for validation, drawn at random. The scaling is not fitted on them.
    rng
        Seed or generator of the draw.
    copy
        Return a new object and leave ``adata`` unchanged.
    out
        File to write, ``.h5ad`` or ``.zarr``, where the cells are on disk; it appears when it is complete.

    Returns
    -------
    AnnData, None or Path
        ``out`` if the cells are on disk; the file holds what is listed below, without obsm, obsp, other layers and
        ``uns`` of the source. Otherwise a new object if ``copy``, else None; ``adata`` is changed in one last step, so
        that an error leaves it unchanged. The result holds the kept genes only, and

        ``X``
            log-normalised expression, float32; CSR where it was sparse.
        ``layers["unit"]``
            X scaled to [0, 1], float32; sparse where X is (see :func:`to_unit` for why zeros stay zeros).
        ``layers["counts"]``
            The counts, where they came as counts.
        ``var["unit_min"]``, ``var["unit_max"]``
            The limits a and b.
        ``var["highly_variable"]``
            True for all, so that scanpy's PCA uses them.
        ``obs["diffvae_split"]``
            "train" or "validation".
        ``raw``
            Log-normalised expression of all genes, float32. An ``adata.raw`` of logs with more genes than X
            is kept instead, where X itself came as logs.
        ``uns["diffvae"]["prepare"]``
            All parameters, the detected kind and the reason, warnings, and the share of the values of validation cells
            outside the limits. Entries of later steps, which no longer fit, are removed.

    Raises
    ------
    DataError
        If the data can't be used (:func:`check`), have negative values or have been prepared before, or if several
        files hold values of different kinds.

    Examples
    --------
    >>> import diffvae as dv, numpy as np
    >>> from anndata import AnnData
    >>> counts = np.random.default_rng(0).poisson(2.0, (50, 30)).astype("float32")
    >>> adata = dv.pp.prepare(AnnData(counts), n_top_genes=20, copy=True)
    >>> adata.shape, adata.raw.shape, sorted(adata.layers)
    ((50, 20), (50, 30), ['counts', 'unit'])
    >>> adata.uns["diffvae"]["prepare"]["kind"]
    'counts'
    """
    check(RULES, n_top_genes=n_top_genes, target_sum=target_sum, validation_size=validation_size)
    if is_on_disk(adata):
        if out is None:
            raise ValueError("The cells are on disk; name the prepared file to write: out='prepared.h5ad'.")
        from diffvae.pp._on_disk import prepare_on_disk

        return prepare_on_disk(
            open_store(adata), out, n_top_genes=n_top_genes, target_sum=target_sum, layer=layer, batch_key=batch_key,
            kind=kind, validation_size=validation_size, rng=rng,
        )  # fmt: skip
    if out is not None:
        raise ValueError("out is for cells on disk; write these with adata.write_h5ad.")
    if isinstance(adata, AnnData) and is_prepared(adata):
        raise DataError(
            "adata has been prepared already (it has layers['unit']); train on it as it is, or prepare the original "
            "data: totals of cells can't be computed from the kept genes."
        )
    cells, notes = only_genes(adata, one_genome=False) if isinstance(adata, AnnData) else (adata, [])
    report, summary = examine(cells, layer=layer, kind=kind)
    if report.kind == "scaled":
        raise DataError(way_out_of_scaled(cells, layer, summary))
    batch = batch_of(cells, batch_key)

    given = matrix_of(cells, layer)
    total = target_sum if target_sum is not None else float(np.median(summary.cell_sums[summary.cell_sums > 0]))
    log = log_normalise(given, report.kind, total)
    low, high = gene_range(log)
    constant = constant_genes(low, high)
    keep, remarks = variable_genes(log, constant, n_top_genes=n_top_genes, batch=batch)
    kept = log if keep.all() else log[:, keep]
    kept = kept if sp.issparse(kept) else np.ascontiguousarray(kept)
    is_validation = draw_validation(report.n_cells, validation_size, rng)
    limits = gene_range(kept[~is_validation])
    minimum, maximum = (limit.astype(np.float32) for limit in limits)
    unit, _ = to_unit(kept, minimum, maximum)
    clipped = to_unit(kept[is_validation], minimum, maximum)[1]

    with warnings.catch_warnings():
        # anndata warns of duplicated names; the report has this warning, and the next lines make the names unique
        warnings.simplefilter("ignore", UserWarning)
        made = cells[:, keep].copy()
    names = unique_names(cells.var_names)
    made.var_names = names[keep]
    made.X = kept
    made.layers[_keys.UNIT] = unit
    if report.kind == "counts":
        made.layers[_keys.COUNTS] = as_counts(given[:, keep])
    describe(made.obs, made.var, minimum, maximum, is_validation)
    if not (report.kind == "log" and layer is None and raw_is_better(cells)):
        var = cells.var.set_axis(names, axis=0)
        made.raw = AnnData(X=_compact(log), obs=cells.obs[[]], var=var.assign(highly_variable=keep))
    if report.kind != "log":
        # scanpy's mark of logged values, without the base None, which older anndata can't write
        made.uns["log1p"] = {}
    warned = [*notes, *report.warnings, *remarks]
    prepared = record(
        report, n_top_genes=n_top_genes, target_sum=total, layer=layer, batch_key=batch_key,
        validation_size=validation_size, rng=rng, keep=keep, constant=constant, minimum=minimum, maximum=maximum,
        clipped=clipped, warned=warned,
    )  # fmt: skip
    made.uns[_keys.UNS] = {"prepare": prepared}
    for message in warned:
        warnings.warn(message, UserWarning, stacklevel=2)
    if copy:
        return made
    # anndata turns a view into an object in this way; the change is all or nothing
    adata._init_as_actual(made)
    return None


def _compact(x: Any) -> Any:
    """Return a dense matrix that is mostly zeros as CSR."""
    return sp.csr_matrix(x) if not sp.issparse(x) and np.count_nonzero(x) < 0.5 * x.size else x
