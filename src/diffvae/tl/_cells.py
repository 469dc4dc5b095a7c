"""The cells of a perturbation as both models see them, and the types that it goes from and to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import CellStateClassifier, Model


@dataclass(frozen=True)
class Cells:
    """All cells as the models see them: expression, latent place, label (-1 without one), and the range of values."""

    x: np.ndarray
    z: np.ndarray
    codes: np.ndarray
    classes: tuple[str, ...]
    limits: tuple[float | None, float | None]

    def clip(self, values: np.ndarray) -> np.ndarray:
        """Return expression within the range that the layer has: what a linear decoder gives may leave it."""
        low, high = self.limits
        return values if low is None else values.clip(low, high)

    def of(self, name: str) -> np.ndarray:
        """Row numbers of a type."""
        return np.flatnonzero(self.codes == self.classes.index(name))


def read_cells(adata: AnnData, model: Model, classifier: CellStateClassifier, groupby: str) -> Cells:
    """Return the cells as both models see them, or say why they don't fit together."""
    a, b = model.features, classifier.features
    if a.layer != b.layer:
        raise DataError(
            f"The classifier was trained on layer {b.layer!r} and the model on {a.layer!r}; train both on one layer."
        )
    if a.gene_names != b.gene_names:
        n = len(set(a.gene_names) ^ set(b.gene_names))
        raise DataError(f"The genes of model and classifier differ ({n} of them); train both on the same cells.")
    if a.scaling != b.scaling:
        raise DataError(
            "Model and classifier were trained on different scalings; train both on the same prepared cells."
        )
    if groupby not in adata.obs:
        raise DataError(f"adata.obs[{groupby!r}] is missing; the columns are: {', '.join(adata.obs) or 'none'}.")
    missing = [g for g in a.gene_names if g not in adata.var_names]
    if missing:
        raise DataError(
            f"adata lacks {len(missing)} of the model's {len(a.gene_names)} genes, {missing[0]!r} among them; give the "
            "cells on which the model was trained, or others with its genes."
        )
    matrix = model._matrix(adata, 0.0)
    x = np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float32)
    codes = pd.Categorical(adata.obs[groupby].astype("string"), categories=list(classifier.classes)).codes
    limits = (0.0, 1.0) if a.scaled else (0.0 if x.min(initial=0) >= 0 else None, None)
    return Cells(x, model.get_latent_representation(adata).astype(np.float32), codes, classifier.classes, limits)


def check_pair(classifier: CellStateClassifier, cells: Cells, source: str, target: str) -> None:
    """Refuse types that aren't there, or are the same."""
    for name in (source, target):
        classifier.code(name)
        if len(cells.of(name)) < 2:
            raise DataError(f"{name!r} has {len(cells.of(name))} cells in these data; two are the least.")
    if source == target:
        raise DataError(f"{source!r} is source and target at once; name another target.")


def pairs_of(
    classifier: CellStateClassifier, cells: Cells, source: str | Sequence[str], target: str | Sequence[str] | None
) -> list[tuple[str, str]]:
    sources = one_or_more(source)
    present = tuple(c for c in classifier.classes if len(cells.of(c)) > 1)
    pairs = []
    for a in sources:
        classifier.code(a)
        for b in present if target is None else one_or_more(target):
            if b != a or (target is not None and len(sources) == 1):
                check_pair(classifier, cells, a, b)
                pairs.append((a, b))
    return pairs


def one_or_more(names: str | Sequence[str]) -> tuple[str, ...]:
    found = (names,) if isinstance(names, str) else tuple(dict.fromkeys(str(n) for n in names))
    if not found:
        raise ValueError("An empty list names nothing; give one name at least.")
    return found
