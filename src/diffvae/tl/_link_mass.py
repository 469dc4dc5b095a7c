"""Which progenitors have more links to a type than progenitors usually have?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, hypergeom

from diffvae import _random
from diffvae._core import graphs, neighbors


def link_mass(
    x: Any, metric: str, k: int, rows: np.ndarray, member: np.ndarray, rng: _random.Rng = 0
) -> dict[str, np.ndarray]:
    r"""Return the links to the k nearest cells and their significance, each an array progenitors x targets.

    The links join each cell to its k nearest, in both directions. The null permutes the links of all progenitors and
    keeps the number of links of each progenitor and type. If progenitors have M links, S_T of them to type T, and one
    progenitor has d links, k_T of them to type T, then

    .. math:: p_T = P(K \ge k_T), \qquad K \sim \mathrm{Hypergeometric}(M,\; S_T,\; d)

    with Benjamini-Hochberg over all progenitors and types. The null assumes independent links, but links of a kNN graph
    are correlated: about a tenth of the progenitors from one Gaussian cloud next to another type are called although
    they have no fate.

    ``rows`` are the progenitors; ``member`` is 1 for the cells of each target, cells x targets.
    """
    indices = neighbors.nearest(x, k, metric=metric, rng=rng).indices
    n = len(indices)
    pairs = np.stack([np.repeat(np.arange(n), k), indices.ravel()], axis=1)[indices.ravel() >= 0]
    links = graphs.graph_of(pairs, n)[rows].astype(np.int64)
    degree = np.asarray(links.sum(1)).reshape(-1, 1)
    n_links = np.asarray(links @ member)
    total, reached = int(degree.sum()), n_links.sum(0)[None, :]
    p = np.where(n_links > 0, hypergeom.sf(n_links - 1, total, reached, degree), 1.0)
    return {
        "n_links": n_links,
        "expected": degree * reached / max(total, 1),
        "share": n_links / np.maximum(degree, 1),
        "p_value": p,
        "q_value": false_discovery_control(p.ravel()).reshape(p.shape),
    }


def name_cells(table: dict[str, np.ndarray], targets: Sequence[str], max_q: float) -> dict[str, Any]:
    """Return call, confidence and strongest type of each progenitor, from :func:`link_mass`."""
    calls, confidence, strongest = [], [], []
    for q, n_links in zip(table["q_value"], table["n_links"], strict=True):
        called = [int(i) for i in np.flatnonzero(q < max_q)]  # in the order of the targets: A/B and B/A are one call
        prefix = {0: "uncommitted", 1: "biased: ", 2: "bipotent: "}.get(len(called), "multipotent: ")
        calls.append(prefix + "/".join(targets[i] for i in called))
        confidence.append(1 - max(q[i] for i in called) if called else np.nan)
        strongest.append(targets[int(np.argmin(q))] if n_links.any() else "")
    # categorical, because h5ad cannot store NaN among strings
    types = pd.Categorical(strongest, categories=list(targets))
    return {"call": calls, "confidence": confidence, "strongest": types}
