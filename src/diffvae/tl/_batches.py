"""Do the cells lie apart by batch, donor or sample, although nobody said that there are batches?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from diffvae import _keys, _random
from diffvae._core.anndata import representation, results
from diffvae._core.runtime import in_one_thread
from diffvae._core.validate import Rule, Whole, check
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

WORDS = {
    "batch", "donor", "sample", "individual", "patient", "subject", "participant", "mouse", "mice", "animal", "embryo",
    "replicate", "rep", "run", "lane", "plate", "chip", "channel", "pool", "hashtag", "library", "lib", "10x", "orig",
    "lab", "laboratory", "site", "center", "centre", "study", "dataset", "experiment", "cohort", "flowcell", "seq",
    "tech", "technology", "platform", "protocol", "chemistry", "assay",
}  # fmt: skip
"""Words in the name of a column that says how cells were obtained, not what they are."""
MAX_BATCHES = 100
MIN_CELLS = 10
"""Cells that a batch needs; cells of smaller batches are left out."""
N_NEIGHBORS = 15
N_PERMUTATIONS = 20
N_QUERIES = 1000
"""Cells whose neighbours are looked up, among all cells, so that the time is linear in cells."""
RULES: dict[str, Rule] = {"n_neighbors": Whole(1), "n_permutations": Whole(1)}
CLEAR = 0.2
"""Excess of neighbours from the own batch above which the cells clearly lie apart."""
CONFOUNDED = 0.99
"""Share of the cells that are in the main batch of their type, from which type and batch are one."""
APART = 0.9
"""Excess of neighbours from the own value above which a column of any name is noticed, if it crosses the types."""
SHARED = 0.8
"""Share of the cells whose type has several values of a column, above which the column crosses the types."""
COLUMNS = [
    "key", "n_batches", "n_cells", "share", "null_share", "excess_share", "own", "null_own", "excess_own", "dimension",
    "dimension_share", "null_dimension_share", "confounded", "clear",
]  # fmt: skip


@in_one_thread
def batch_association(
    adata: AnnData,
    *,
    keys: str | Sequence[str] | None = None,
    label_key: str | None = None,
    use_rep: str = _keys.LATENT,
    n_neighbors: int = N_NEIGHBORS,
    n_permutations: int = N_PERMUTATIONS,
    rng: _random.Rng = 0,
    copy: bool = False,
) -> pd.DataFrame:
    r"""Measure how far the cells lie apart by batch, donor or sample, beside permuted batches.

    The share of the variance of the representation z that the means of the batches explain, and the mean share of the
    k nearest neighbours that are from the own batch, are

    .. math:: R^2 = \frac{\sum_b n_b \lVert \bar z_b - \bar z \rVert^2}{\sum_i \lVert z_i - \bar z \rVert^2}
              \qquad S = \frac{1}{n k} \sum_i \lvert \{ j \in N_k(i) : b_j = b_i \} \rvert

    The null permutes the batches of the cells; with ``label_key`` only among cells of the same type, so that batches of
    different composition are not blamed for their types. The excess is (observed - null) / (1 - null): 0 by chance, 1
    if batches explain everything, or have no neighbours in common.

    A column that restates biology (types, clusters, time points) explains as much as a batch does, and no number tells
    them apart. So only the *name* of a column makes it a candidate: one that has a word such as batch, donor, sample,
    patient, mouse, replicate, lane, plate, library, lab or 10x. Other columns are measured when ``keys`` names them.

    Parameters
    ----------
    adata
        With ``obsm[use_rep]``.
    keys
        Columns of ``obs``; None for those whose name says batch: text, categories, True/False or whole numbers, with 2
        to 100 batches of at least 10 cells. Cells of smaller batches and without a batch are left out.
    label_key
        Types in ``obs``, if they are known; cells without one are permuted among themselves. This column is never a
        candidate, nor are those that diffvae wrote.
    use_rep
        Key in ``obsm``.
    n_neighbors
        k. The neighbours of 1,000 random cells are looked up, or of all if there are fewer.
    n_permutations
        Number of permutations.
    rng
        Seed of permutations and looked-up cells.
    copy
        Only return the table.

    Returns
    -------
    One row per column, the largest excess of neighbours first, also written to ``uns["diffvae"]["batches"]`` unless
    ``copy``: ``key``; ``n_batches``, ``n_cells``; ``share`` (:math:`R^2`), ``null_share``, ``excess_share``; ``own``
    (S), ``null_own``, ``excess_own``; ``dimension`` (the one of which batches explain most), ``dimension_share``,
    ``null_dimension_share`` (the null of the largest share of any dimension); ``confounded`` (at least 99 % of the
    cells are in the main batch of their type, so that no null within types exists, and that of all cells is given);
    ``clear`` (not confounded, ``excess_own`` above 0.2, and above every permutation).

    Raises
    ------
    DataError
        If a column in ``keys`` is missing or is no column of batches.

    References
    ----------
    Buettner et al. 2019 (kBET: batches among neighbours); Luecken et al. 2022 (scores of integration).

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.simulate_differentiation(600, 200, n_batches=2, batch_effect=1.5)
    >>> dv.pp.prepare(adata)
    >>> dv.tl.embed(adata, dv.model.PCA(n_latent=10).train(adata))
    >>> table = dv.tl.batch_association(adata)
    >>> table[["key", "n_batches", "clear"]].values.tolist()
    [['batch', 2, True]]
    """
    check(RULES, n_neighbors=n_neighbors, n_permutations=n_permutations)
    z = representation(adata, use_rep).astype(np.float32)
    if label_key is not None and label_key not in adata.obs:
        raise DataError(f"adata.obs[{label_key!r}] is missing; the columns are: {', '.join(adata.obs) or 'none'}.")
    chosen = candidates(adata, label_key) if keys is None else [keys] if isinstance(keys, str) else list(keys)
    types = None if label_key is None else pd.factorize(adata.obs[label_key])[0]
    rows = []
    for key in chosen:
        batch = batches_of(adata, key)
        kept = batch >= 0
        random = _random.generator(rng, "batches", str(key))
        found = _associate(
            z[kept], batch[kept], None if types is None else types[kept], n_neighbors, n_permutations, random
        )
        rows.append({"key": str(key), "n_batches": int(batch.max() + 1), "n_cells": int(kept.sum()), **found})
    table = pd.DataFrame(rows, columns=None if rows else COLUMNS)
    table = table.sort_values("excess_own", ascending=False, kind="stable", ignore_index=True)
    if not copy:
        results(adata)["batches"] = table
    return table


def candidates(adata: AnnData, label_key: str | None = None, batch_key: str | None = None) -> list[str]:
    """Return ``batch_key`` and the columns of ``obs`` whose name says batch, if their values can be batches."""
    names = [str(n) for n in adata.obs if n != label_key and not str(n).startswith("diffvae_")]
    return [n for n in names if (n == batch_key or says_batch(n)) and not _refusal(adata.obs[n])]


def crossing_types(adata: AnnData, type_key: str) -> list[str]:
    """Return columns of ``obs`` of any name whose values each have several types, and most types several values.

    Such a column doesn't restate the types. If the cells of all types lie apart by it, it may well be a batch.
    """
    types = adata.obs[type_key]
    found = []
    for name in (str(n) for n in adata.obs if n != type_key and not str(n).startswith("diffvae_")):
        if says_batch(name) or _refusal(adata.obs[name]):
            continue
        large = pd.crosstab(types, adata.obs[name]) >= MIN_CELLS
        several = types.map(large.sum(axis=1) > 1).astype(float).mean()
        if several >= SHARED and (large.sum()[large.any()] > 1).all():
            found.append(name)
    return found


def says_batch(name: str) -> bool:
    """Return whether a name has a word for batches, in singular or plural.

    Examples
    --------
    >>> [says_batch(name) for name in ("donorID", "sample_ids", "Libraries", "orig.ident", "cell_type", "trunk")]
    [True, True, True, True, False, False]
    """
    words = [word.lower() for word in re.findall(r"10[xX]|[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
    return any(
        not WORDS.isdisjoint((w, w.removesuffix("s"), w.removesuffix("es"), re.sub("ies$", "y", w))) for w in words
    )


def batches_of(adata: AnnData, key: str) -> np.ndarray:
    """Return the batch of each cell as a number, -1 for cells without a batch and those of small batches."""
    if key not in adata.obs:
        raise DataError(f"adata.obs[{key!r}] is missing; the columns are: {', '.join(map(str, adata.obs)) or 'none'}.")
    if reason := _refusal(adata.obs[key]):
        raise DataError(f"adata.obs[{key!r}] {reason}; name another column.")
    return pd.factorize(adata.obs[key].where(_large(adata.obs[key])))[0]


def _large(column: pd.Series) -> pd.Series:
    """Return which cells are in a batch of enough cells."""
    return column.map(column.value_counts()).astype(float) >= MIN_CELLS


def _refusal(column: pd.Series) -> str:
    """Say why a column holds no batches; empty if it does."""
    if column.dtype.kind in "cmM" or (column.dtype.kind == "f" and (column.dropna() % 1 != 0).any()):
        return "holds measurements"
    n = column[_large(column)].nunique()
    if n < 2:
        return f"has {'only one value' if n else 'no value'} with at least {MIN_CELLS} cells"
    return f"has {n:,} values with at least {MIN_CELLS} cells, more than {MAX_BATCHES}" if n > MAX_BATCHES else ""


def _associate(
    z: np.ndarray, batch: np.ndarray, types: np.ndarray | None, k: int, n_permutations: int, rng: np.random.Generator
) -> dict[str, float | int | bool]:
    """Measure one column; the arrays hold the cells that have a batch."""
    z = z - z.mean(axis=0)
    largest = np.bincount(batch).max() / len(batch)  # one batch of almost all cells is no confounding
    confounded = types is not None and _in_main_batch(batch, types) >= CONFOUNDED > largest
    strata = np.zeros(len(batch), dtype=int) if types is None or confounded else types
    queries = np.sort(rng.permutation(len(z))[:N_QUERIES])
    near = _nearest(z, queries, min(k, len(z) - 1))
    squares = np.square(z, dtype=np.float64).sum(axis=0)
    home = np.argsort(strata, kind="stable")

    def measured(batch: np.ndarray) -> tuple[float, float, np.ndarray]:
        between = _between(z, batch)
        each = np.divide(between, squares, out=np.zeros_like(squares), where=squares > 1e-9 * squares.sum())
        return between.sum() / max(squares.sum(), 1e-300), float((batch[near] == batch[queries, None]).mean()), each

    def permuted() -> np.ndarray:
        shuffled = np.empty_like(batch)
        shuffled[home] = batch[np.lexsort((rng.random(len(batch)), strata))]
        return shuffled

    share, own, each = measured(batch)
    nulls = [measured(permuted()) for _ in range(n_permutations)]
    null_share, null_own = (float(np.mean([null[i] for null in nulls])) for i in (0, 1))
    excess_own = _excess(own, null_own)
    return {
        "share": float(share),
        "null_share": null_share,
        "excess_share": _excess(share, null_share),
        "own": own,
        "null_own": null_own,
        "excess_own": excess_own,
        "dimension": int(each.argmax()),
        "dimension_share": float(each.max()),
        "null_dimension_share": float(np.mean([null[2].max() for null in nulls])),
        "confounded": bool(confounded),
        "clear": bool(not confounded and excess_own > CLEAR and own > max(null[1] for null in nulls)),
    }


def _in_main_batch(batch: np.ndarray, types: np.ndarray) -> float:
    """Return the share of the cells with a type that are in the most frequent batch of their type."""
    known = types >= 0
    table = pd.crosstab(types[known], batch[known]).to_numpy()
    return float(table.max(axis=1, initial=0).sum() / max(known.sum(), 1))


def _between(z: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Return the sum of squares between batches in each dimension; z is centred."""
    member = sparse.csr_matrix((np.ones(len(z), dtype=z.dtype), (batch, np.arange(len(z)))))
    return (np.square(member @ z, dtype=np.float64) / np.bincount(batch)[:, None]).sum(axis=0)


def _nearest(z: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Return the k nearest other cells of some cells, in blocks of at most 128 MB."""
    squares = np.square(z).sum(axis=1)
    near = np.empty((len(queries), k), dtype=np.int64)
    step = max(1, 2**25 // len(z))
    for start in range(0, len(queries), step):
        part = queries[start : start + step]
        distance = squares - 2 * (z[part] @ z.T)
        distance[np.arange(len(part)), part] = np.inf
        near[start : start + step] = np.argpartition(distance, k - 1, axis=1)[:, :k]
    return near


def sentence(table: pd.DataFrame, label_key: str | None = None, batch_key: str | None = None) -> str | None:
    """Say which column separates the cells, or what is left of the batch that was removed; None if none does."""
    if batch_key is not None:
        table = table[table["key"] == batch_key]
    by = "by chance" if label_key is None else "by chance within types"
    if table["clear"].any():
        first = table[table["clear"]].iloc[0]
        key, explained = (
            first["key"],
            f"{_percent(first['share'])} of the latent space ({_percent(first['null_share'])} {by})",
        )
        near = f"{_percent(first['own'])} of the nearest cells have the same value ({_percent(first['null_own'])} {by})"
        if batch_key is not None:
            return (
                f"obs[{key!r}] still explains {explained} with --batch-key {key}, and {near}; a cluster may be a "
                "batch, not a type."
            )
        return (
            f"obs[{key!r}] explains {explained}, and {near}; run with --batch-key {key} to remove it, or ignore this "
            "if its values differ in biology."
        )
    if table["confounded"].any():
        key = table.loc[table["confounded"], "key"].iloc[0]
        return (
            f"Almost every type in obs[{label_key!r}] comes from a single value of obs[{key!r}], so a difference "
            "between types may be one of batches. Do not remove this batch, and do not read such a difference as "
            "biology."
        )
    return None


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else f"{share:.1%}"


def _excess(observed: float, null: float) -> float:
    return float((observed - null) / (1 - null)) if null < 1 else 0.0
