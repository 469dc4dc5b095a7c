"""Which latent dimensions encode which group of cells, and on which side?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from diffvae import _keys
from diffvae._core.anndata import groups, posterior, results
from diffvae._core.fingerprint import stability_of
from diffvae._core.information import informative
from diffvae._core.validate import Choice, Number, Rule, Whole, check
from diffvae._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

RULES: dict[str, Rule] = {
    "rank_by": Choice("share", "odds_ratio"),
    "n_top": Whole(1),
    "n_sd": Number("(0, inf)"),
    "max_q": Number("(0, 1]"),
}


def latent_dimensions(
    adata: AnnData,
    groupby: str = _keys.CLUSTER,
    *,
    n_top: int = 10,
    n_sd: float = 1.0,
    rank_by: str = "share",
    max_q: float = 0.05,
    use_rep: str = _keys.LATENT,
    copy: bool = False,
) -> pd.DataFrame:
    r"""Rank the latent dimensions that encode each group of cells (eq 3).

    .. math:: D_k = \{ i : z_k^{(i)} \ge \mu_k + \sigma_k \} \cup \{ i : z_k^{(i)} \le \mu_k - \sigma_k \}

    The paper ranks by the *share* of D_k that belongs to the group, which favours large groups. The *enrichment* does
    not: the odds ratio of belonging to the group inside D_k against outside, with a one-sided hypergeometric test and
    Benjamini-Hochberg over all groups and dimensions. If the groups were clustered from the same latent space, q-values
    are descriptive only: the same cells define the groups and test them.

    Parameters
    ----------
    adata
        With ``obsm[use_rep]``.
    groupby
        Key in ``obs``.
    n_top
        Dimensions to choose per group (the paper: 10 for zebrafish, 5 for pancreas).
    n_sd
        Standard deviations from the mean at which a cell belongs to D_k.
    rank_by
        ``"share"`` (paper) or ``"odds_ratio"``.
    max_q
        Choose only enriched dimensions (odds ratio above 1 and q-value at most ``max_q``), so a group may have none.
        With 1, all dimensions whose D_k has a cell of the group can be chosen, as in the paper. Dimensions that carry
        at most 0.1 nat, as in :meth:`diffvae.model.DiffVAE.diagnose`, are never chosen, if ``obsm[use_rep + "_sd"]``
        has the posterior's standard deviations.
    use_rep
        Key of the latent representation.
    copy
        Only return the table.

    Returns
    -------
    One row per group and dimension, sorted by group and rank, with columns ``group``, ``dimension``, ``n_cells`` (size
    of D_k), ``n_group`` (of the group in D_k), ``share``, ``share_high``, ``share_low`` (on either side of D_k),
    ``expected_share`` (the group's share of all cells), ``odds_ratio``, ``p_value``, ``q_value``, ``side`` ("+" or "-":
    the side of the group's cells), ``rank`` and ``chosen``; and ``recurrence`` (NaN for a dead dimension), if
    :func:`diffvae.benchmark.stability` has computed it for this latent representation. Written to
    ``uns["diffvae"]["latent_dimensions"]`` unless ``copy``.

    Examples
    --------
    >>> import anndata as ad
    >>> z = np.r_[np.c_[np.full(20, 3.0), np.zeros(20)], np.c_[np.zeros(40), np.tile([1.0, -1.0], 20)]]
    >>> adata = ad.AnnData(obs=pd.DataFrame({"group": ["a"] * 20 + ["b"] * 40}, index=[f"c{i}" for i in range(60)]))
    >>> adata.obsm["X_diffvae"] = z
    >>> table = latent_dimensions(adata, "group")
    >>> table.loc[table["chosen"], ["group", "dimension", "side", "share"]].values.tolist()
    [['a', 0, '+', 1.0], ['b', 1, '+', 1.0]]
    """
    check(RULES, rank_by=rank_by, n_top=n_top, n_sd=n_sd, max_q=max_q)
    z, sd = posterior(adata, use_rep)
    z = z.astype(np.float64)
    labels = groups(adata, groupby)
    if len(labels.categories) < 2:
        raise DataError(f"adata.obs[{groupby!r}] has only one group; there is no other to compare it with.")
    high, low = outlying(z, n_sd)
    member = np.eye(len(labels.categories))[labels.codes]  # cells x groups
    n_high, n_low = member.T @ high, member.T @ low  # groups x dimensions
    n_group, n_dk = n_high + n_low, (high.sum(0) + low.sum(0))[None]
    size, n = member.sum(0)[:, None], len(z)
    odds_ratio, p_value = enrichment(n_group, n_dk, size, n)
    shape = n_group.shape
    frame = pd.DataFrame(
        {
            "group": np.repeat(labels.categories.to_numpy(dtype=object), shape[1]),
            "dimension": np.tile(np.arange(shape[1]), shape[0]),
            "n_cells": np.broadcast_to(n_dk, shape).ravel().astype(int),
            "n_group": n_group.ravel().astype(int),
            "share": _share(n_group, n_dk).ravel(),
            "share_high": _share(n_high, high.sum(0)).ravel(),
            "share_low": _share(n_low, low.sum(0)).ravel(),
            "expected_share": np.broadcast_to(size / n, shape).ravel(),
            "odds_ratio": odds_ratio.ravel(),
            "p_value": p_value.ravel(),
            "q_value": stats.false_discovery_control(p_value.ravel().clip(0, 1)),
            "side": np.where(n_high >= n_low, "+", "-").ravel(),
        }
    )
    if (seeds := stability_of(adata, use_rep)) is not None:
        recurrence = seeds["dimensions"]["recurrence"].to_numpy(np.float64)
        frame["recurrence"] = recurrence[frame["dimension"]]
    # ties, such as a small D_k within the group, go to the smaller p-value
    ordered = frame.sort_values([rank_by, "p_value", "dimension"], ascending=[False, True, True])
    frame["rank"] = ordered.groupby("group", sort=False).cumcount() + 1
    eligible = (frame["n_group"] > 0) & informative(z, sd)[frame["dimension"]]
    if max_q < 1:
        eligible &= (frame["odds_ratio"] > 1) & (frame["q_value"] <= max_q)
    position = frame.loc[eligible, "rank"].groupby(frame["group"]).rank()
    frame["chosen"] = position.reindex(frame.index).le(n_top)
    order = {c: i for i, c in enumerate(labels.categories)}
    frame = frame.sort_values(["group", "rank"], key=lambda s: s.map(order) if s.name == "group" else s)
    frame = frame.reset_index(drop=True)
    if not copy:
        results(adata)["latent_dimensions"] = frame
        results(adata)["latent_dimensions_params"] = {
            "groupby": groupby,
            "n_top": n_top,
            "n_sd": n_sd,
            "rank_by": rank_by,
            "max_q": max_q,
            "use_rep": use_rep,
        }
    return frame


def outlying(z: np.ndarray, n_sd: float) -> tuple[np.ndarray, np.ndarray]:
    """Return which cells lie at least ``n_sd`` standard deviations above, and below, the mean of each dimension."""
    centred = z - z.mean(axis=0)
    spread = z.std(axis=0)
    alive = spread > 1e-6 * max(float(spread.max()), 1e-12)  # excludes rounding errors
    return (centred >= n_sd * spread) & alive, (centred <= -n_sd * spread) & alive


def enrichment(n_both: np.ndarray, n_set: np.ndarray, n_group: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return odds ratio and one-sided hypergeometric p-value of a group in a set of cells, from numbers of cells."""
    p_value = stats.hypergeom.sf(n_both - 1, n, n_group, n_set)
    # Haldane: adding 1/2 keeps the ratio finite if a count is zero
    inside, outside = n_both + 0.5, n_set - n_both + 0.5
    return (inside / outside) / ((n_group - n_both + 0.5) / (n - n_set - n_group + n_both + 0.5)), p_value


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(part.shape), where=np.broadcast_to(whole > 0, part.shape))
