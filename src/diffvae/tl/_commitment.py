"""Which progenitors have begun to change into a type?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random
from diffvae._core.anndata import representation, require_unique_names, results
from diffvae._core.validate import Number, Rule, check
from diffvae.pp._whiten import components, whitened
from diffvae.tl._fates import roles
from diffvae.tl._link_mass import link_mass, name_cells
from diffvae.tl._paths import Paths, call_cells, path_ends, projected

if TYPE_CHECKING:
    from anndata import AnnData

NEIGHBORS = 15
"""Neighbours by PCA whose calls stand beside those of the paths."""
LINK_Q = 0.05
"""Types with a smaller q-value give a call by neighbours or links."""
N_NULL = 10
"""Pools without any begun cell on which the calls are tested."""
RULES: dict[str, Rule] = {"max_q": Number("(0, 1)"), "min_core": Number("(0, 1)")}


def commitment(
    adata: AnnData,
    source: str,
    groupby: str,
    *,
    targets: Sequence[str] | None = None,
    earlier: Sequence[str] | None = None,
    use_rep: str | None = None,
    layer: str | None = None,
    max_q: float = 0.1,
    min_core: float = 0.6,
    rng: _random.Rng = 0,
) -> pd.DataFrame:
    r"""Call the progenitors that have begun to change into a type, with an expected share of false calls.

    Progenitors y are a mixture of an uncommitted core and of cells on straight paths from it to each type,

    .. math:: y \sim \pi_0 N(m_0, \tau I) + \sum_T \pi_T \int_0^1 N(m_0 + s (F_T - m_0), \tau I) \, ds

    in principal components that are whitened within types (:func:`diffvae.pp.whiten`) and projected on the span of the
    directions :math:`F_T - m`, where m is the mean of the progenitors. :math:`F_T` is the mean of the fifth of T's
    cells (at least 10) that are nearest to the progenitors. Shares, :math:`m_0` and :math:`\tau` (at least .25) are
    fitted by EM, with 10 midpoints of s. The core share :math:`\pi_0` is kept at ``min_core`` or more: otherwise a path
    and the core may swap. If it is at this limit and falls below .1 without it, there is no core from which to begin:
    no cell is called, and a warning says so.

    A cell has one posterior per path. Cells are listed by the posterior of their most probable path, and the longest
    list is called whose mean of 1 - posterior, the expected share of false calls, is at most ``max_q``. A cell whose
    most probable path leads to a type in ``earlier`` is not listed: it resembles an ancestor, which is no fate.

    On simulated trees 97 % of the calls are right and 26 % of the cells that have begun are found; of progenitors among
    which nobody has begun .2 % are called (``benchmarks/commitment_truth.py``). Name all types upstream of the source,
    and choose as targets the types that can follow it: with every other type as a target 2 % were called where nobody
    had begun on trees with strong effects, and 46 % in one such pool. Where signals are weak, few or no cells are
    called, and with thousands of progenitors the share of false calls may be twice ``max_q``. A call says that
    expression has moved towards a type; it does not prove a fate. To rank cells use :func:`fates`.

    Parameters
    ----------
    adata
        Cells prepared by :func:`diffvae.pp.prepare`, or any log-normalised cells. After :func:`links`, the calls by
        predicted links stand beside these.
    source
        Progenitor type.
    groupby
        Types in ``obs``.
    targets
        Later types; None for all but ``source`` and ``earlier``.
    earlier
        Types upstream of the source.
    use_rep
        Key in ``obsm`` to whiten; None for the principal components of ``layer``.
    layer
        Expression for the principal components; None for X.
    max_q
        Highest expected share of false calls.
    min_core
        Least share of uncommitted progenitors. Calls are withheld if the share falls below .1 without this limit. If
        you know that most of the cells have begun, pass .1: then there is no such guard.
    rng
        Seed of the components, of the approximate neighbours above 10,000 cells, and of the null.

    Returns
    -------
    One row per progenitor:

    ``cell``
        Name.
    ``call``
        ``uncommitted`` or ``biased: T``.
    ``strongest``, ``posterior``, ``progress``
        The most probable path (it may lead to an earlier type), its posterior, and the expected s on it from 0 to 1.
    ``call_pca``
        The call by the 15 nearest cells by the cosine of the principal components: the types to which a cell has more
        links than progenitors usually have (hypergeometric, q < .05; may be ``bipotent: T1/T2``).
    ``call_links``
        The same by the links of Graph-DiffVAE, if :func:`links` has run.

    It is also in ``uns["diffvae"]["commitment"]``. ``"commitment_types"`` there has, for each progenitor and target,
    ``posterior`` and ``progress``, and per graph (``pca``, ``predicted``) the links as evidence: ``n_links``,
    ``expected``, ``share``, ``p_value``, ``q_value``. ``"commitment_params"`` has the parameters and ``core_share``,
    ``at_limit`` (whether it was kept at ``min_core``), ``withheld`` (whether there are no calls because there is no
    core), ``variance``, ``expected_false`` (among the calls) and
    ``null_called``: the mean share that the same steps call in 10 pools drawn from the fitted core and the paths to
    earlier types. ``obs["diffvae_commitment"]`` and ``obs["diffvae_commitment_posterior"]`` have NaN for other cells.

    Raises
    ------
    DataError
        If a type is missing or has two roles.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.simulate_differentiation(600, 200)
    >>> dv.pp.prepare(adata)
    >>> calls = dv.tl.commitment(adata, "MEP", "cell_type", targets=["Erythrocyte", "Thrombocyte"], earlier=["HSPC"])
    >>> calls.columns.tolist()
    ['cell', 'call', 'strongest', 'posterior', 'progress', 'call_pca']
    """
    check(RULES, max_q=max_q, min_core=min_core)
    require_unique_names(adata)
    types, to, before = roles(adata, source, groupby, targets, earlier)
    paths, names = [*to, *before], np.asarray(types, dtype=object)
    rows = np.flatnonzero(names == source)
    cells = adata.obs_names[rows]
    x = components(adata, use_rep, layer, rng=rng)
    y = whitened(x, np.asarray(types.codes), np.ones(len(x), dtype=bool))[0]
    pool, ends = projected(y[rows], path_ends(y, names, source, paths, rng))
    fit, found, withheld = call_cells(pool, ends, len(to), max_q, min_core)
    if withheld:
        warnings.warn(
            f"No cell of {source!r} is called: without its lower limit ({min_core:g}) the share of uncommitted cells "
            "falls to almost nothing, and committed cells cannot be separated from uncommitted ones. Name fewer "
            "targets, those that can follow, and the earlier types; pass min_core=0.1 if most of these cells are "
            "committed; or rank the cells by diffvae.tl.fates.",
            UserWarning,
            stacklevel=2,
        )
    strongest, later = fit.posterior.argmax(axis=1), found >= 0
    calls = pd.DataFrame(
        {
            "cell": cells,
            "call": [f"biased: {paths[i]}" if one else "uncommitted" for i, one in zip(found, later, strict=True)],
            "strongest": pd.Categorical([paths[i] for i in strongest], categories=paths),
            "posterior": fit.posterior.max(axis=1),
            "progress": np.take_along_axis(fit.progress, strongest[:, None], axis=1)[:, 0],
        }
    )
    spaces: dict[str, tuple[str, Any, int]] = {"pca": ("call_pca", x, NEIGHBORS)}
    if _keys.LINK_PLACES in adata.obsm and "links" in results(adata):
        spaces["predicted"] = ("call_links", representation(adata, _keys.LINK_PLACES), results(adata)["links"]["top_k"])
    member = (names[:, None] == np.array(to, dtype=object)).astype(np.int64)
    evidence = []
    for name, (column, places, k) in spaces.items():
        table = link_mass(places, "cosine", min(int(k), len(x) - 1), rows, member, rng)
        calls[column] = name_cells(table, to, LINK_Q)["call"]
        evidence.append(_tidy(name, cells, to, fit, table))
    for key, column in ((_keys.COMMITMENT, "call"), (_keys.COMMITMENT_POSTERIOR, "posterior")):
        adata.obs[key] = pd.Series(calls[column].to_numpy(), index=cells).reindex(adata.obs_names)
    adata.obs[_keys.COMMITMENT] = adata.obs[_keys.COMMITMENT].astype("category")
    stored = results(adata)
    stored["commitment"], stored["commitment_types"] = calls, pd.concat(evidence, ignore_index=True)
    stored["commitment_params"] = {
        "source": source, "groupby": groupby, "targets": to, "earlier": before, "max_q": max_q, "min_core": min_core,
        "core_share": fit.core, "at_limit": fit.at_limit, "withheld": withheld, "variance": fit.variance,
        "expected_false": float(1 - calls["posterior"][later].mean()) if later.any() else 0.0,
        "null_called": _null_called(fit, len(pool), len(to), max_q, min_core, rng),
    }  # fmt: skip
    return calls


def _null_called(fit: Paths, n: int, n_targets: int, max_q: float, min_core: float, rng: _random.Rng) -> float:
    """Return the mean share of called cells in pools of the fitted core and of paths to earlier types."""
    draw = _random.generator(rng, "commitment", "null")
    shares = []
    for _ in range(N_NULL):
        null = fit.drawn_without_fate(n, n_targets, draw)
        shares.append((call_cells(null, fit.ends, n_targets, max_q, min_core)[1] >= 0).mean())
    return float(np.mean(shares))


def _tidy(graph: str, cells: pd.Index, targets: list[str], fit: Paths, table: dict[str, np.ndarray]) -> pd.DataFrame:
    n = len(targets)
    frame = pd.DataFrame({"graph": graph, "cell": np.repeat(cells, n), "type": np.tile(targets, len(cells))})
    table = {"posterior": fit.posterior[:, :n], "progress": fit.progress[:, :n], **table}
    return frame.assign(**{name: values.ravel() for name, values in table.items()}).reset_index(drop=True)
