"""The cells of a reproduction: what was read, and where it is not what the paper had."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffvae import _io, _keys, _preconditions, pp
from diffvae._errors import DataError
from diffvae.benchmark._published import Published, published

if TYPE_CHECKING:
    from anndata import AnnData

N_LATENT, BATCH_SIZE = 50, 128
"""Of a set that the paper doesn't have: those of its main set."""
N_DIMS, N_TOP = 10, 3


@dataclass(frozen=True)
class Subject:
    """Raw cells with what is known of them, and the paper's numbers where it has the set."""

    name: str
    adata: AnnData
    origin: str
    label_key: str | None
    source: str | None
    n_top_genes: int | None
    published: Published | None
    differences: tuple[str, ...]
    fingerprint: str

    @property
    def labels(self) -> np.ndarray | None:
        """Type of each cell, None for a cell without; None if no cell has one."""
        if self.label_key is None:
            return None
        column = self.adata.obs[self.label_key]
        return column.astype(object).map(str, na_action="ignore").where(column.notna(), None).to_numpy(dtype=object)

    @property
    def types(self) -> dict[str, int]:
        """Cells of each type, the largest first."""
        if self.label_key is None:
            return {}
        counts = self.adata.obs[self.label_key].dropna().astype(str).value_counts()
        return {str(name): int(n) for name, n in counts.items()}

    @property
    def targets(self) -> list[str]:
        """Types that the source can be turned into: enough cells for the classifier."""
        return [t for t, n in self.types.items() if t != self.source and n >= _preconditions.MIN_TYPE]

    @property
    def n_latent(self) -> int:
        return self.published.n_latent if self.published else N_LATENT

    @property
    def batch_size(self) -> int:
        return self.published.batch_size if self.published else BATCH_SIZE

    @property
    def clusterer(self) -> str:
        """The paper's way to cluster its map; without labels Leiden, which chooses its own number and tests it."""
        if self.label_key is None:
            return "leiden"
        return self.published.clusterer if self.published else "kmeans"

    @property
    def reading(self) -> tuple[int, int]:
        """Latent dimensions per cluster, genes per dimension."""
        return (self.published.n_dims, self.published.n_top) if self.published else (N_DIMS, N_TOP)


def read(
    dataset: AnnData | str | os.PathLike[str],
    path: str | os.PathLike[str] | None,
    label_key: str | None,
    source: str | None,
    n_top_genes: int | None,
) -> Subject:
    """Read and check the cells before anything is computed."""
    known = published()
    if isinstance(dataset, str) and dataset in known:
        adata, differences = _read_published(dataset, path, known[dataset])
        name, origin, about, top = dataset, adata.uns[_keys.DATASET]["source"], known[dataset], None
        if label_key is None and _keys.LABEL in adata.obs:
            label_key = _keys.LABEL
        source = source or adata.uns[_keys.DATASET]["progenitors"] or None
    else:
        if path is not None:
            raise ValueError(f"path is for the sets {', '.join(known)}; give the file itself in place of the name.")
        if isinstance(dataset, str) and not Path(dataset).expanduser().exists():
            raise DataError(
                f"{dataset!r} is neither one of the paper's sets ({', '.join(known)}) nor a file that is there."
            )
        adata, origin = _io.load(dataset, None)
        name = Path(dataset).stem if isinstance(dataset, str | os.PathLike) else "cells"
        about, differences, top = None, [], n_top_genes
        if label_key is None:
            raise ValueError("label_key is missing; name the column of obs that holds the reference types.")
        source = source or (adata.uns.get(_keys.DATASET) or {}).get("progenitors") or None
    _preconditions.require_labels(adata, label_key)
    _preconditions.require_types(adata, label_key, source, None)
    if source is not None and label_key is None:
        raise DataError(f"source is {source!r}, but the cells have no labels; leave it out.")
    pp.check(adata)
    if _keys.UNIT in adata.layers:
        raise DataError("adata is prepared already (it has layers['unit']); give the raw cells.")
    if not adata.obs_names.is_unique:
        adata.obs_names_make_unique()
    mark = _fingerprint(adata, label_key)
    return Subject(name, adata, origin, label_key, source, top, about, tuple(differences), mark)


def _read_published(name: str, path: str | os.PathLike[str] | None, about: Published) -> tuple[AnnData, list[str]]:
    from diffvae import datasets
    from diffvae.datasets import _zebrafish
    from diffvae.datasets._files import check_blobs, locate

    readers: dict[str, Callable[..., AnnData]] = {
        "zebrafish": datasets.zebrafish,
        "pancreas": datasets.pancreas,
        "human-hsc": datasets.human_hsc,
    }
    place = None if path is None else Path(path).expanduser()
    try:
        adata = readers[name](place, check=False)
    except DataError as error:
        raise DataError(
            f"{name} can't be reproduced without its cells. {error} On the command line the folder is --path FOLDER."
        ) from error
    found = []
    if adata.shape != (about.n_cells, about.n_genes):
        found.append(
            f"{adata.n_obs:,} cells x {adata.n_vars:,} genes were read; the paper has {about.n_cells:,} x "
            f"{about.n_genes:,}."
        )
    if about.types:
        counts = adata.obs[_keys.LABEL].value_counts()
        here = {t: int(counts.get(t, 0)) for t in {*about.types, *map(str, counts.index)}}
        if wrong := [f"{t} {n:,} instead of {about.types.get(t, 0):,}" for t, n in sorted(here.items()) if
                     n != about.types.get(t, 0)]:  # fmt: skip
            found.append(f"Cells of a type: {'; '.join(wrong)}.")
    if name == "zebrafish":
        try:
            check_blobs(locate("zebrafish", place, _zebrafish.SOURCES), _zebrafish.SOURCES)
        except DataError as error:
            found.append(f"These are not the published files to the last byte: {str(error).partition(': ')[0]}.")
    else:
        found.append(
            "The paper doesn't say how it chose these cells and genes out of the published table; the rule here is "
            "another's (see the reader's documentation), so that the genes needn't be the paper's."
        )
    if _keys.LABEL not in adata.obs:
        found.append("No labels were read: what needs reference types is not testable here.")
        if name == "pancreas":
            found[-1] += " A table of them beside the counts is used (see diffvae.datasets.pancreas)."
    elif missing := int(adata.obs[_keys.LABEL].isna().sum()):
        found.append(f"{missing:,} cells have no label; they are trained on and clustered, but not scored.")
    return adata, found


def _fingerprint(adata: AnnData, label_key: str | None) -> str:
    from diffvae.model._input import fingerprint, layer_matrix

    digest = hashlib.sha256(fingerprint(layer_matrix(adata, None)).encode())
    parts: list[Any] = [*adata.var_names, *([] if label_key is None else adata.obs[label_key].astype(str))]
    digest.update("\n".join(map(str, parts)).encode())
    return digest.hexdigest()[:16]
