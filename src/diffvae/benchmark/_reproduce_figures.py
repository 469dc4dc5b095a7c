"""The paper's own figures, redrawn from the first training of each preset: the map, the conversions, the matrices."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from diffvae import _keys
from diffvae._adata import results
from diffvae.benchmark._reproduce_changes import MIN_PROBABILITY
from diffvae.benchmark._reproduce_drawn import drawn
from diffvae.benchmark._reproduce_subject import Subject
from diffvae.benchmark._reproduce_tables import CHANGES, CLUSTERS, LINKS, PRESETS, Results
from diffvae.benchmark._reproduce_train import prepare

if TYPE_CHECKING:
    from anndata import AnnData

MOST_TARGETS = 4
"""Targets of Figure 3; of more types those into which most cells convert."""
UNMATCHED = "unassigned"
Figures = dict[str, tuple[str, Callable[[], Any]]]


def figures(found_by_part: Results, tables: Mapping[str, pd.DataFrame], subject: Subject, seed: int) -> Figures:
    """Return name to caption and drawing; ``seed`` is that of the first training."""
    found: Figures = dict(drawn(tables, subject))
    for preset in PRESETS:
        if value := found_by_part.get((CLUSTERS, preset, 0)):
            caption = f"Figure 1b, preset {preset}: clusters of the map, under the types that they are matched to"
            found[f"map_{preset}"] = (caption, partial(_map, value, subject, preset))
        changes = found_by_part.get((CHANGES, preset, 0))
        if changes and changes["trajectories"]:
            caption = f"Figure 3, preset {preset}: which progenitors convert"
            found[f"figure3_{preset}"] = (caption, partial(_conversions, changes, subject))
        links = found_by_part.get((LINKS, preset, 0))
        if links and links["edges"]:
            caption = f"Figure 4c to e, preset {preset}: the graph that goes in, predicted links, |Pearson|"
            found[f"figure4_{preset}"] = (caption, partial(_adjacency, links, subject, seed))
            if links["edges"][_keys.CALLED_LINKS]:
                told = f"Figure 4b, preset {preset}: links on the map of Graph-DiffVAE, given and newly predicted"
                found[f"figure4b_{preset}"] = (told, partial(_linked, links, subject))
    return found


def _cells(subject: Subject, places: Any, key: str = _keys.TSNE) -> AnnData:
    """Return cells with a map and their types, without expression."""
    import anndata as ad

    obs = pd.DataFrame(index=subject.adata.obs_names)
    if subject.label_key is not None:
        obs[subject.label_key] = subject.adata.obs[subject.label_key]
    return ad.AnnData(obs=obs, obsm={key: np.array(places, dtype=np.float32)})


def _map(value: dict[str, Any], subject: Subject, preset: str) -> Any:
    from diffvae import pl

    cells = _cells(subject, value["places"])
    if subject.label_key is None:
        cells.obs["cluster"] = pd.Categorical(value["clusters"])
        return pl.tsne(cells, color="cluster", title=f"Preset {preset}: clusters (Leiden)")
    named = {row["cluster"]: row["type"] for row in value["types"] if row["cluster"]}
    types = sorted(subject.types)  # one colour per type in all maps
    matched = pd.Series(value["clusters"]).map(named).fillna(UNMATCHED)
    cells.obs["type"] = pd.Categorical(matched, categories=[*types, UNMATCHED])
    share = value["overlap"]["overlap"]
    return pl.tsne(cells, color="type", title=f"Preset {preset}: clusters by matched type, {share:.1%} overlap")


def _conversions(value: dict[str, Any], subject: Subject) -> Any:
    """Draw from what was kept of the perturbation: the figure reads no more than that."""
    from diffvae import pl
    from diffvae.tl import Perturbation
    from diffvae.tl._perturbation import Trajectory

    table = pd.DataFrame(value["conversions"])
    unused: Any = None
    trajectories = {
        (str(subject.source), one["target"], "shift"): Trajectory(
            np.array(one["rows"]), unused, np.array(one["probability"]), np.array(one["first"], bool)
        )
        for one in value["trajectories"]
    }
    steps = tuple(sorted(float(s) for s in table["n_sd"].unique()))
    kept = Perturbation(
        table, trajectories, _cells(subject, value["places"]), unused, unused, unused, str(subject.label_key), steps,
        MIN_PROBABILITY, ("shift",),
    )  # fmt: skip
    last = table[(table["n_sd"] == steps[-1]) & (table["method"] == "shift")].set_index("target")["n_converted"]
    targets = [str(t) for t in last.sort_values(ascending=False, kind="stable").index[:MOST_TARGETS]]
    return pl.conversions(kept, target=targets, n_sd=steps[1:])


def _adjacency(value: dict[str, Any], subject: Subject, seed: int) -> Any:
    from diffvae import pl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        adata = prepare(subject, seed)
    for key, pairs in value["edges"].items():
        adata.obsp[key] = _graph(pairs, adata.n_obs)
    adata = adata[np.array(value["cells"])].copy()
    return pl.adjacency(adata, str(subject.label_key), graphs=[key for key in value["edges"] if adata.obsp[key].nnz])


def _linked(value: dict[str, Any], subject: Subject) -> Any:
    from diffvae import pl

    rows = np.array(value["cells"])
    places = np.zeros((subject.adata.n_obs, 2), dtype=np.float32)
    places[rows] = value["places"]
    cells = _cells(subject, places, _keys.GRAPH_TSNE)
    for key, pairs in value["edges"].items():
        cells.obsp[key] = _graph(pairs, cells.n_obs)
    cells.obsp[_keys.LINKS] = _graph(value["edges"][_keys.CALLED_LINKS], cells.n_obs, value["probability"])
    results(cells)["links"] = {"graph_key": _keys.CELL_GRAPH}
    return pl.links(cells[rows].copy(), str(subject.label_key), source=subject.source)


def _graph(pairs: Any, n: int, values: Any = None) -> sparse.csr_matrix:
    """Return the symmetric matrix of pairs of cells."""
    rows = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    data = np.ones(len(rows), np.float32) if values is None else np.array(values, np.float32)
    one = sparse.csr_matrix((data, (rows[:, 0], rows[:, 1])), shape=(n, n))
    return sparse.csr_matrix(one + one.T)
