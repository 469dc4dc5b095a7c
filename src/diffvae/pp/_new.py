"""New cells, brought to the scale of the cells that a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anndata import AnnData

from diffvae._errors import DataError
from diffvae._random import generator
from diffvae._rows import Rows
from diffvae._store import Store
from diffvae.pp._align import align
from diffvae.pp._check import examine, way_out_of_scaled
from diffvae.pp._kind import Kind, summarise, tell_kind, unlogged_total
from diffvae.pp._matrix import matrix_of, source
from diffvae.pp._normalise import log_normalise
from diffvae.pp._scale import to_unit

MANY_CLIPPED = 0.05
"""Share of values outside the training cells' limits beyond which scales are likely to differ."""
CLIPPED_SAMPLE = 5_000
"""Cells on disk of which that share is taken."""


def prepare_new(
    adata: AnnData | Store,
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
    if isinstance(matched, Rows):  # nothing is read before it is asked for: the share is that of some cells
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
    if isinstance(x, Rows):
        return x.map(lambda block: log_normalise(block, kind, target_sum))
    return log_normalise(x, kind, target_sum)


def _raw_has_more(adata: AnnData | Store, gene_names: Sequence[str]) -> bool:
    """Return whether adata.raw holds logs of more of the genes than X."""
    raw, wanted = adata.raw, set(gene_names)
    if raw is None or len(wanted.intersection(raw.var_names)) <= len(wanted.intersection(adata.var_names)):
        return False
    summary = summarise(raw.X)
    return not summary.n_bad and tell_kind(raw.X, summary)[0] == "log"
