"""What the pipeline refuses before it trains, each with a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from diffvae import _keys
from diffvae._core import genes
from diffvae._core.validate import Choice, Either, Flag, Number, Optional, Rule, Whole, check
from diffvae._errors import DataError
from diffvae.tl import _annotate, _markers
from diffvae.tl._cluster import CLUSTERERS, check_options
from diffvae.tl._directions import one_or_more

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae._core.io.backed import BackedAnnData

MIN_TYPE = 10
"""Minimum number of cells of a source or target type, as in :class:`diffvae.model.CellStateClassifier`."""

RULES: dict[str, Rule] = {
    "n_clusters": Either(Choice("auto"), Whole(2)),
    "cluster_method": Choice(*CLUSTERERS),
    "cluster_on": Choice("latent", "tsne"),
    "n_dims": Whole(1),
    "n_genes": Whole(1),
    "k": Optional(Whole(1)),
    "n_jobs": Optional(Whole(1, 2)),
    "min_core": Optional(Number("(0, 1)")),
    "top_k": Whole(1),
    "subsample": Whole(100),
    "order": Choice("effect", "greedy", "gradient"),
    "direction": Choice("both", "up", "down"),
    "n_random": Whole(1),
    "seed": Whole(0),
    "values": Optional(Choice("counts", "normalised", "log")),
    "use_raw": Flag(),
    "min_genes": Optional(Whole(1)),
}


def check_identification(*, markers: Any, **options: Any) -> None:
    """Refuse options of :func:`diffvae.pipeline.identify` that no data can meet."""
    check(RULES, **options)
    check_options(options["cluster_method"], options["n_clusters"])
    if not (isinstance(markers, str) and markers == "auto"):
        _markers.read_markers(markers)


def require_labels(adata: AnnData | BackedAnnData, label_key: str | None) -> None:
    """Refuse a column of ``obs`` that is missing or does not group the cells."""
    if label_key is None:
        return
    if label_key not in adata.obs:
        raise DataError(f"adata.obs[{label_key!r}] is missing; the columns are: {', '.join(adata.obs) or 'none'}.")
    labels = adata.obs[label_key].dropna()
    if labels.nunique() < 2:
        raise DataError(f"adata.obs[{label_key!r}] has {labels.nunique()} different labels; scores need at least 2.")
    if labels.nunique() > len(labels) / 2:
        raise DataError(
            f"adata.obs[{label_key!r}] has {labels.nunique():,} different values in {len(labels):,} cells, so it does "
            "not group them; name another column."
        )


def find_label_key(adata: AnnData | BackedAnnData, source: str | Sequence[str]) -> str | None:
    """Return the column of ``obs`` that has the types of the source; None if none has, and refused if several have."""
    named = [name for name in one_or_more(source) if name != "all"]
    found = [str(key) for key in adata.obs if named and set(named) <= _types_in(adata.obs[key], str(key))]
    if len(found) > 1:
        columns = ", ".join(f"obs[{key!r}]" for key in found)
        raise DataError(
            f"{', '.join(map(repr, named))} stands in {len(found)} columns: {columns}; name the one to use (label_key)."
        )
    return found[0] if found else None


def _types_in(column: pd.Series, name: str) -> set[str]:
    """Return the types in a column of ``obs``; none if it does not group the cells, or diffvae wrote it."""
    if name.startswith(_keys.UNS) or pd.api.types.is_float_dtype(column.dtype):
        return set()
    labels = column.dropna()
    types = labels.unique()
    return set(map(str, types)) if 2 <= len(types) <= len(labels) / 2 else set()


def require_columns(adata: AnnData | BackedAnnData, batch_key: str | None, covariates: Sequence[str] | None) -> None:
    """Refuse columns of batches and covariates on which a model can't be trained."""
    from diffvae.model._covariates import Covariates

    Covariates.of(adata, batch_key, covariates or ())


def require_kind(adata: AnnData | BackedAnnData, values: str | None) -> None:
    """Refuse prepared cells whose values were taken as another kind than the one that is given."""
    kind = str(adata.uns[_keys.UNS]["prepare"]["kind"])
    if values is not None and values != kind:
        raise DataError(
            f"values is {values!r}, but the cells have been prepared, and their values were {kind!r}; leave it out, or "
            "give the original data."
        )


def require_markers(adata: AnnData | BackedAnnData, markers: Any, gene_symbols: str | None = None) -> None:
    """Refuse markers if none of them is among the genes of the data."""
    _annotate.candidates(markers, genes.table(adata, raw=adata.raw is not None), "the data", gene_symbols)


def require_cells(adata: AnnData | BackedAnnData, n_clusters: int | str, n_sampled: int | None = None) -> None:
    """Refuse more clusters than there are cells, or cells in the sample that is clustered."""
    if n_clusters == "auto":
        return
    if int(n_clusters) > adata.n_obs:
        raise DataError(f"n_clusters is {n_clusters}, but there are {adata.n_obs} cells.")
    if n_sampled is not None and int(n_clusters) > n_sampled:
        raise DataError(
            f"n_clusters is {n_clusters}, but only {n_sampled} cells are clustered (subsample); increase subsample, or "
            "ask for fewer clusters."
        )


def require_types(
    adata: AnnData | BackedAnnData,
    label_key: str | None,
    source: str | Sequence[str] | None,
    target: Sequence[str] | None,
    earlier: Sequence[str] | None = None,
) -> None:
    """Refuse types with two roles, and types that are not among the labels (without them none is known yet)."""
    if source is None:
        for name, given in (("target", target), ("earlier", earlier)):
            if given:
                raise ValueError(f"{name} is given without source; name the type whose cells are perturbed as well.")
        return
    named = one_or_more(source)
    if len(named) == 1:
        if named[0] in (target or ()):
            raise DataError(f"{named[0]!r} is both source and target; name another target.")
        if named[0] in (earlier or ()):
            raise DataError(f"{named[0]!r} is both source and earlier; a type is not upstream of itself.")
    elif named[-1] in (earlier or ()):
        raise DataError(
            f"{named[-1]!r} is the last source and earlier; its fates are asked for, so leave it out there."
        )
    if label_key is None:
        return
    labels = adata.obs[label_key].dropna().astype(str)
    sizes = labels.value_counts()
    sources = () if named == ("all",) and "all" not in sizes else named
    for name in (*sources, *(target or ()), *(earlier or ())):
        if name not in sizes:
            types = ", ".join(sorted(sizes.index))
            alone = " 'all' stands alone." if name == "all" else ""
            raise DataError(f"{name!r} is not a type of adata.obs[{label_key!r}]; the types are: {types}.{alone}")
        if sizes[name] < MIN_TYPE and name not in (earlier or ()):
            raise DataError(
                f"{name!r} has {sizes[name]} cells, but the classifier needs at least {MIN_TYPE}; name another type."
            )
