"""The first half of the road for one training: a preset trained on one split, its map, and what its clusters are."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random, metrics, pp, tl
from diffvae._errors import DataError
from diffvae.benchmark._reproduce_subject import Subject

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import DiffVAE

N_PERMUTATIONS = 500
WIDER = 20
"""Genes per dimension of the wider look."""
MAX_Q = {"paper": 1.0, "code": 1.0, "default": 0.05}
"""The paper takes the first dimensions whatever their enrichment; our default only enriched ones."""


def prepare(subject: Subject, seed: int) -> AnnData:
    """Return the cells on one split of one training, as every preset gets them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        adata = pp.prepare(subject.adata, n_top_genes=subject.n_top_genes, rng=seed, copy=True)
    assert adata is not None
    adata.raw = None  # all genes; nobody looks at them on this road
    return adata


def train(
    prepared: AnnData, subject: Subject, preset: str, max_epochs: int | None, seed: int
) -> tuple[AnnData, DiffVAE]:
    """Return a trained model and its own copy of the cells, with latent representation and map."""
    from diffvae.model import DiffVAE
    from diffvae.tl import _tsne

    adata = prepared.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = DiffVAE(preset, n_latent=subject.n_latent)
        model.train(adata, max_epochs=max_epochs, batch_size=subject.batch_size, rng=seed, progress=False)
        tl.embed(adata, model)
        tl.tsne(adata, n_jobs=1, rng=seed)
        del adata.obsp[_tsne.AFFINITIES]
    return adata, model


def identify(trained: tuple[AnnData, DiffVAE], subject: Subject, preset: str, seed: int) -> dict[str, Any]:
    """Cluster the map as the paper does, and compare the clusters with the types; their dimensions and genes.

    Returns
    -------
    ``places`` (map), ``clusters`` (of each cell), ``overlap`` (with its expectation under permuted labels), ``types``,
    ``genes`` (per cluster and reading), ``clustering``, and ``note`` if something could not be done.
    """
    adata, model = trained
    labels = subject.labels
    use_rep = _keys.LATENT if subject.clusterer == "leiden" else _keys.TSNE
    number: int | str = len(subject.types) if subject.clusterer == "kmeans" else "auto"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        tl.cluster(adata, subject.clusterer, n_clusters=number, use_rep=use_rep, rng=seed)
    stored = adata.uns[_keys.UNS]["cluster"]
    clusters = adata.obs[_keys.CLUSTER].astype(str).to_numpy()
    found: dict[str, Any] = {
        "places": np.asarray(adata.obsm[_keys.TSNE]).round(3).tolist(),
        "clusters": clusters.tolist(),
        "clustering": {k: v for k, v in stored.items() if isinstance(v, str | int | float)},
        "n_genes": adata.n_vars,
        "active_dimensions": int(metrics.active_dimensions(np.asarray(adata.obsm[_keys.LATENT]))),
        "overlap": None,
        "types": [],
        "note": "",
    }
    mapping = {}
    if labels is not None:
        known = np.array([label is not None for label in labels])
        names = labels[known].astype(str)
        own = metrics.overlap(names, clusters[known])
        null = metrics.expected_overlap(names, clusters[known], n_permutations=N_PERMUTATIONS, rng=seed)
        found["overlap"] = {
            "overlap": own.share,
            "expected": null.mean,
            "expected_sd": null.sd,
            "p_value": null.p_value,
            "n_clusters": int(stored["n_clusters"]),
            "ari": metrics.adjusted_rand_index(names, clusters[known]),
        }
        found["types"] = _records(own.table[own.table["type"] != ""])
        mapping = own.mapping
    found["genes"], found["note"] = _genes(adata, model, subject, preset, mapping, seed)
    return found


def _genes(
    adata: AnnData, model: DiffVAE, subject: Subject, preset: str, mapping: dict[str, str], seed: int
) -> tuple[list[dict[str, Any]], str]:
    """Return the genes of each cluster by both readings, few and many per dimension, in their order."""
    n_dims, n_top = subject.reading
    rows = []
    try:
        tl.latent_dimensions(adata, n_top=n_dims, max_q=MAX_Q[preset])
        tl.gene_weights(adata, model, rng=seed)
        for each in (n_top, WIDER):
            table = tl.high_weight_genes(adata, n_dims=n_dims, n_genes=each, copy=True)
            for cluster in sorted(set(adata.obs[_keys.CLUSTER].astype(str))):
                for reading in ("weights", "jacobian"):
                    own = table[(table["group"] == cluster) & (table["ranking"] == reading)].sort_values("rank")
                    rows.append(
                        {
                            "cluster": cluster,
                            "type": mapping.get(cluster, ""),
                            "reading": reading,
                            "per_dimension": each,
                            "genes": own["gene"].astype(str).tolist(),
                        }
                    )
    except DataError as error:  # one cluster only, say
        return [], f"No genes: {error}"
    return rows, ""


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows of plain numbers and texts, None for what isn't a number."""
    clean = table.astype(object).where(table.notna(), None)
    return [
        {k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()} for row in clean.to_dict("records")
    ]


def training_seed(rng: int, number: int) -> int:
    """Return the seed of a training: that of the same number in :func:`diffvae.benchmark.run`."""
    return _random.seed(rng, f"benchmark training {number}")
