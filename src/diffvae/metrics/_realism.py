"""How well a classifier separates artificial cells from real ones, and how their genes differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse

from diffvae._core.validate import Rule, Whole, check
from diffvae._random import Rng, generator, seed
from diffvae.metrics._labels import as_labels, as_points

RULES: dict[str, Rule] = {"max_cells": Whole(20)}
N_FOLDS, N_GENES, N_COMPONENTS, N_TREES = 3, 500, 30, 60
MIN_CELLS = 10
"""Cells of a group, below which a classifier can't be tested on held-out cells."""


def realism(
    real: Any,
    artificial: Any,
    labels: ArrayLike | None = None,
    artificial_labels: ArrayLike | None = None,
    *,
    max_cells: int = 1000,
    rng: Rng = 0,
) -> pd.DataFrame:
    r"""Measure whether artificial cells look like real ones, beside other real cells.

    Cells are compared with a random half of the real cells: the artificial ones, and as a null real cells of the other
    half. All groups have equally many cells. Per gene g the mean, the standard deviation over cells and the share of
    zeros are compared, as correlation over genes and as mean absolute error :math:`\frac{1}{G} \sum_g |a_g - r_g|`.

    Parameters
    ----------
    real, artificial
        Expression on the log scale, cells x genes, with the same genes in the same order: a matrix of scipy.sparse of
        any format, or what numpy takes as an array, such as a DataFrame.
    labels, artificial_labels
        Type of each real and each artificial cell; both or none. Cells of a missing type (None, NaN) are left out of
        the shares of types.
    max_cells
        Largest number of cells of a group; of more, so many are drawn.
    rng
        Seed or generator of draws, folds and trees.

    Returns
    -------
    One row per measure, with the columns ``artificial`` and ``real`` (the null):

    - ``auc``: boosted trees tell the group from real cells on held-out cells (three folds), by the 500 genes of the
      largest variance, 30 principal components of all genes, and the total and share of zeros of each cell. 0.5 is
      chance, 1 means always.
    - ``mean_correlation``, ``mean_error``, ``sd_correlation``, ``sd_error``, ``zeros_correlation``, ``zeros_error``.
      A correlation is NaN where one side is constant, such as the zeros of decoded means.
    - ``sd_ratio``: the median over genes of the standard deviation, relative to that of real cells.
    - ``type_error``, with labels: half the sum of absolute differences between the shares of types, 0 to 1;
      NaN where no cell of a side has a type.
    - ``n_cells``: cells of each group.

    Raises
    ------
    ValueError
        If real or artificial is no matrix of numbers, genes differ in number, values are not finite, labels are of one
        side only or do not fit, or a group has fewer than 10 cells.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> cells = np.log1p(rng.poisson(1.0, (400, 20)))
    >>> smooth = realism(cells, np.tile(cells.mean(axis=0), (200, 1)))
    >>> smooth.loc["auc", "artificial"] > 0.99, 0.4 < smooth.loc["auc", "real"] < 0.6
    (np.True_, np.True_)
    >>> like = realism(cells, np.log1p(rng.poisson(1.0, (200, 20))))
    >>> 0.4 < like.loc["auc", "artificial"] < 0.6
    np.True_
    """
    check(RULES, max_cells=max_cells)
    real, artificial = _matrix(real, "real"), _matrix(artificial, "artificial")
    if real.shape[1] != artificial.shape[1]:
        raise ValueError(
            f"real has the shape {real.shape} and artificial {artificial.shape}; give cells x genes of the same genes."
        )
    if (labels is None) != (artificial_labels is None):
        raise ValueError("labels and artificial_labels belong together; give both or none.")
    types = None if labels is None else _types(labels, real, "labels")
    made = None if artificial_labels is None else _types(artificial_labels, artificial, "artificial_labels")
    n = min(max_cells, real.shape[0] // 2, artificial.shape[0])
    if n < MIN_CELLS:
        raise ValueError(
            f"There are {real.shape[0]} real and {artificial.shape[0]} artificial cells; at least {2 * MIN_CELLS} real "
            f"and {MIN_CELLS} artificial cells are needed."
        )
    random = generator(rng, "realism")
    order, drawn = random.permutation(real.shape[0]), random.permutation(artificial.shape[0])[:n]
    first, second = order[:n], order[n : 2 * n]
    reference = _dense(real, first, "real")
    folds = int(seed(random) % 2**31)
    groups = {"artificial": _dense(artificial, drawn, "artificial"), "real": _dense(real, second, "real")}
    columns = {}
    for name, cells in groups.items():
        scores = {"auc": _auc(reference, cells, folds)} | _of_genes(reference, cells)
        if types is not None and made is not None:
            scores["type_error"] = _type_error(types[first], made[drawn] if name == "artificial" else types[second])
        columns[name] = scores | {"n_cells": float(n)}
    return pd.DataFrame(columns).rename_axis("measure")


def _matrix(cells: Any, name: str) -> Any:
    """Return cells x genes as a CSR matrix or an array, whose rows can be taken."""
    if hasattr(cells, "obs_names"):  # numpy would take it apart cell by cell
        raise ValueError(f"{name} is of type {type(cells).__name__}; give its matrix, such as adata.X.")
    if sparse.issparse(cells):
        return cells.tocsr()
    if np.ma.is_masked(cells):
        raise ValueError(f"{name} is a masked array with {np.ma.count_masked(cells):,} values masked; fill them.")
    try:
        array = np.asarray(cells)
    except (TypeError, ValueError):  # rows of different lengths, for example
        array = np.empty(0, object)
    if array.ndim != 2 or array.dtype.kind not in "buif":
        shape = f"the shape {array.shape} and " if array.size > 1 else ""
        raise ValueError(
            f"{name} is of type {type(cells).__name__}, with {shape}values of type {array.dtype}; give a numeric "
            "matrix, cells x genes, dense or sparse, such as adata.X."
        )
    return array


def _types(labels: ArrayLike, cells: Any, name: str) -> np.ndarray:
    """Return one string per cell, None where it is missing."""
    series = pd.Series(labels if np.ndim(labels) == 1 else as_labels(labels, name))  # which refuses other shapes
    found = series.astype(str).astype(object).where(series.notna(), None).to_numpy()
    if len(found) != cells.shape[0]:
        raise ValueError(f"{name} has {len(found)} values for {cells.shape[0]} cells; give one label per cell.")
    return found


def _dense(matrix: Any, rows: np.ndarray, name: str) -> np.ndarray:
    block = matrix[rows]
    return as_points(block.toarray() if sparse.issparse(block) else block, name=name).astype(np.float32)


def _auc(reference: np.ndarray, cells: np.ndarray, random_state: int) -> float:
    """Return the AUC of boosted trees on held-out cells."""
    from sklearn.decomposition import PCA
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    x, group = np.concatenate([reference, cells]), np.repeat([0, 1], [len(reference), len(cells)])
    of_cells = np.stack([x.sum(axis=1), (x == 0).mean(axis=1)], axis=1)
    genes = x[:, np.sort(np.argsort(-reference.var(axis=0), kind="stable")[:N_GENES])]
    probability = np.zeros(len(x))
    for train, test in StratifiedKFold(N_FOLDS, shuffle=True, random_state=random_state).split(x, group):
        n = min(N_COMPONENTS, len(train) - 1, x.shape[1])
        with np.errstate(invalid="ignore"):  # shares of a variance of 0, where all cells are equal
            pca = PCA(n, svd_solver="randomized", random_state=random_state).fit(x[train])
        seen = np.concatenate([genes, pca.transform(x), of_cells], axis=1)
        trees = HistGradientBoostingClassifier(
            max_iter=N_TREES, max_bins=63, max_features=0.3, early_stopping=False, random_state=random_state
        ).fit(seen[train], group[train])
        probability[test] = trees.predict_proba(seen[test])[:, 1]
    return float(roc_auc_score(group, probability))


def _of_genes(reference: np.ndarray, cells: np.ndarray) -> dict[str, float]:
    """Return how mean, standard deviation and share of zeros of the genes agree."""
    scores: dict[str, float] = {}
    for name, measure in (("mean", _means), ("sd", _sds), ("zeros", _zeros)):
        a, b = measure(reference), measure(cells)
        varies = len(a) > 1 and a.std() > 0 and b.std() > 0
        scores[f"{name}_correlation"] = float(np.corrcoef(a, b)[0, 1]) if varies else float("nan")
        scores[f"{name}_error"] = float(np.abs(a - b).mean())
        if name == "sd":
            scores["sd_ratio"] = float(np.median(b[a > 0] / a[a > 0])) if (a > 0).any() else float("nan")
    return scores


def _means(x: np.ndarray) -> np.ndarray:
    return x.mean(axis=0, dtype=np.float64)


def _sds(x: np.ndarray) -> np.ndarray:
    return x.std(axis=0, dtype=np.float64)


def _zeros(x: np.ndarray) -> np.ndarray:
    return (x == 0).mean(axis=0)


def _type_error(a: np.ndarray, b: np.ndarray) -> float:
    """Return half the sum of absolute differences between the shares of types: the total variation."""
    if not (pd.notna(a).any() and pd.notna(b).any()):
        return float("nan")
    shares = [pd.Series(types).value_counts(normalize=True) for types in (a, b)]
    return float(shares[0].sub(shares[1], fill_value=0).abs().sum() / 2)
