"""Preparation of cells on disk, in passes over blocks of cells."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from anndata import AnnData
from scipy import sparse

from diffvae import _keys
from diffvae._core.io.backed import BackedAnnData
from diffvae._core.io.backed_matrix import BackedMatrix
from diffvae._core.io.matrix import GeneRange, matrix_of
from diffvae._core.io.writer import adata_writer, refuse_out
from diffvae._core.words import argument
from diffvae._errors import DataError
from diffvae._random import Rng, generator
from diffvae.pp import _record
from diffvae.pp._check import (
    KIND_NAMES,
    Kind,
    detect_kind,
    examine,
    summarise,
    unique_names,
    way_out_of_scaled,
)
from diffvae.pp._normalise import batch_of, log_normalise, variable_genes
from diffvae.pp._scale import to_unit

SAMPLE = 2_000
"""Cells of each file by which its kind of values is detected."""
NEAR = 0.05
"""Relative difference up to which totals of cells, with the log undone, count as equal."""


@dataclass(frozen=True)
class _Values:
    """Kind of the values in a file; for logs of equal totals, base of the log and total."""

    name: str
    kind: Kind
    total: tuple[str, float] | None


def refuse_mixed(store: BackedAnnData, layer: str | None, kind: Kind | None) -> None:
    """Refuse files with different kinds of values, logs on different scales, and files that are prepared.

    Each file is examined by itself, because mixed values look like one kind. A given kind holds for all files.
    """
    if len(store.shards) == 1:
        return
    parts = store.parts()
    for part in parts:
        if part.is_prepared:
            raise DataError(
                f"{part.name!r} has been prepared already, separately from the other files; prepare the original data "
                "of all files together: diffvae.pp.prepare([...], out='prepared.h5ad')."
            )
    if kind is not None:
        return
    values = [found for part in parts if (found := _examine(part, layer)) is not None]
    for other in values[1:]:
        if other.kind != values[0].kind:
            raise DataError(
                f"The values of {values[0].name!r} are {KIND_NAMES[values[0].kind]}, those of {other.name!r} "
                f"{KIND_NAMES[other.kind]}; give files of one kind, or {argument('kind')}=... if detection is wrong."
            )
    logs = [one for one in values if one.total is not None]
    for one in logs[1:]:
        if not _alike(logs[0], one):
            raise DataError(_other_logs(logs[0], one))


def _examine(part: BackedAnnData, layer: str | None) -> _Values | None:
    """Examine a sample of a file; None if it has no values, or values that are refused later."""
    sample = part.matrix(layer).sample(SAMPLE, generator(0, "kind of a file"))[1]
    summary = summarise(sample)
    if summary.n_bad or not summary.sample.size:
        return None
    found = detect_kind(sample, summary)[0]
    return _Values(part.name, found, summary.kinds.unlogged_total if summary.kinds else None)


def _alike(one: _Values, other: _Values) -> bool:
    (base, total), (other_base, other_total) = one.total or ("", 0.0), other.total or ("", 0.0)
    return base == other_base and abs(total - other_total) <= NEAR * max(total, other_total)


def _other_logs(one: _Values, other: _Values) -> str:
    (base, total), (other_base, other_total) = one.total or ("", 0.0), other.total or ("", 0.0)
    return (
        f"{one.name} holds {base}(x + 1) of cells that sum to {total:,.6g}, {other.name} {other_base}(x + 1) of cells "
        f"that sum to {other_total:,.6g}; give counts, or logs on the same scale, or {argument('kind')}=... if "
        "detection is wrong."
    )


def prepare_on_disk(
    store: BackedAnnData,
    out: str | PathLike[str],
    *,
    n_top_genes: int | None,
    target_sum: float | None,
    layer: str | None,
    batch_key: str | None,
    kind: Kind | None,
    validation_size: float,
    rng: Rng,
) -> Path:
    """Write the prepared cells of a store; see :func:`diffvae.pp.prepare`.

    There are four passes: check of the values and totals of cells; range of each gene, in all cells and in the training
    cells; mean and dispersion of each gene in each batch; writing. Each normalises the blocks again, which is cheaper
    than storing the result.
    """
    path = refuse_out(out)
    if store.is_prepared:
        raise DataError(f"{store.name} has been prepared already (it has layers['unit']); train on it as it is.")
    batch = batch_of(store, batch_key)  # checked before the file is read
    refuse_mixed(store, layer, kind)
    report, summary = examine(store, layer=layer, kind=kind)
    if report.kind == "scaled":
        raise DataError(way_out_of_scaled(store, layer, summary))
    given = matrix_of(store, layer)
    total = target_sum if target_sum is not None else float(np.median(summary.cell_sums[summary.cell_sums > 0]))
    log = given.map(lambda block: log_normalise(block, report.kind, total))
    is_validation = _record.draw_validation(report.n_cells, validation_size, rng)
    everywhere, training = _ranges(log, ~is_validation)
    constant = _record.constant_genes(everywhere.low, everywhere.high)
    keep, remarked = variable_genes(log, constant, n_top_genes=n_top_genes, batch=batch)
    minimum, maximum = (limit[keep].astype(np.float32) for limit in (training.low, training.high))

    names = unique_names(store.var_names)
    obs, var = store.obs.copy(), store.var.loc[keep].copy().set_axis(names[keep], axis=0)
    _record.describe(obs, var, minimum, maximum, is_validation)
    skeleton = AnnData(obs=obs, var=var)
    raw, all_genes = log, store.var.set_axis(names, axis=0).assign(highly_variable=keep)
    if report.kind == "log" and layer is None and _record.raw_is_better(store):
        assert store.raw is not None
        raw, all_genes = store.raw.X, store.raw.var
    skeleton.raw = AnnData(sparse.csr_matrix((len(obs), len(all_genes)), dtype=np.float32), obs[[]], all_genes)
    if report.kind != "log":
        skeleton.uns["log1p"] = {}
    remarks = []
    if report.kind != "log" and any(len(shard.var) > store.n_vars for shard in store.shards):
        remarks.append("Totals of cells were taken over the genes that all files have.")
    warned = [*report.warnings, *remarks, *remarked]
    with adata_writer(path, skeleton) as file:
        n_clipped = 0.0
        for rows, block in given.blocks():
            logged = log_normalise(block, report.kind, total)
            kept = logged[:, keep]
            unit, _ = to_unit(kept, minimum, maximum)
            watched = is_validation[rows]
            if watched.any():
                n_clipped += to_unit(kept[watched], minimum, maximum)[1] * watched.sum()
            file.append("X", kept)
            file.append(f"layers/{_keys.UNIT}", unit)
            if report.kind == "counts":
                file.append(f"layers/{_keys.COUNTS}", _record.as_counts(block[:, keep]))
            file.append("raw/X", logged if raw is log else raw.read(rows.start, rows.stop))
        record = _record.record(
            report, n_top_genes=n_top_genes, target_sum=total, layer=layer, batch_key=batch_key,
            validation_size=validation_size, rng=rng, keep=keep, constant=constant, minimum=minimum, maximum=maximum,
            clipped=n_clipped / max(int(is_validation.sum()), 1), warned=[*store.notes, *warned],
        )  # fmt: skip
        file.put(f"uns/{_keys.UNS}", {"prepare": record})
    store.warn(stacklevel=4)
    for message in warned:
        warnings.warn(message, UserWarning, stacklevel=3)
    return path


def _ranges(log: BackedMatrix, in_training: np.ndarray) -> tuple[GeneRange, GeneRange]:
    """Return the range of each gene in all cells and in the training cells."""
    everywhere, training = GeneRange(log.shape[1]), GeneRange(log.shape[1])
    for rows, block in log.blocks():
        everywhere.update(block)
        if in_training[rows].any():
            training.update(block[in_training[rows]])
    return everywhere, training
