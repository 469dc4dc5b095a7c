"""Scores of a configuration (held-out loss, stability of clusters, labels), and the confirmation of the best."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random, metrics, pp
from diffvae._core.information import informative
from diffvae.benchmark._links import principal_components
from diffvae.benchmark.tuning._space import Space
from diffvae.pipeline import _settings
from diffvae.train import TrainingError

if TYPE_CHECKING:
    import optuna
    from anndata import AnnData

    from diffvae.model import DiffVAE
    from diffvae.train import Epoch

N_CLOUDS = 3
"""Latents without clusters with which the stability of one configuration is compared."""
N_DRAWS = 10
BLOCK = 1024
"""Draws of the noise, and cells per batch, for the scores of held-out cells."""


@dataclass(frozen=True)
class Objective:
    """A score of a configuration."""

    label: str
    """Name and unit in figures and verdicts."""
    minimise: bool
    n_trainings: int = 1
    """Default number of trainings per configuration."""
    of_epoch: Callable[[Mapping[str, float]], float] | None = None
    """The score after an epoch, from its row of the history, for pruning. None if an epoch has no score."""


OBJECTIVES: Mapping[str, Objective] = {
    "validation_loss": Objective("validation loss, nats per cell", True, of_epoch=lambda r: r["validation_loss"]),
    "elbo": Objective(
        "negative ELBO of held-out cells, nats per cell",
        True,
        of_epoch=lambda r: r["validation_nll"] + r["validation_kl"],
    ),
    "stability": Objective("stability of clusters beyond clouds without clusters", False, n_trainings=3),
    "ari": Objective("adjusted Rand index with the labels", False),
}
CLUSTERED = ("stability", "ari")
"""Objectives that use k-means clusters."""


@dataclass(frozen=True)
class Evaluator:
    """Trains configurations on cells and scores them."""

    objective: str
    n_trainings: int
    """Trainings per score, with different seeds."""
    n_clusters: int | None
    """k of k-means for "stability" and "ari", the same for all configurations."""
    label_key: str | None
    """Labels for "ari"."""
    device: str = "auto"
    precision: str = "auto"
    batch_key: str | None = None
    """Batches whose effect the trainings remove."""

    def score(
        self,
        adata: AnnData,
        settings: Mapping[str, Any],
        rng: int,
        on_epoch: Callable[[Epoch], None] | None = None,
    ) -> tuple[float, dict[str, float]]:
        """Return the score of a configuration, and further measurements of its models."""
        models = [
            _settings.model_of(settings).train(
                adata,
                batch_key=self.batch_key,
                **_settings.training_of(settings),
                device=self.device,
                precision=self.precision,
                rng=_random.seed(rng, "training", str(i)),
                progress=False,
                on_epoch=on_epoch,
            )
            for i in range(self.n_trainings)
        ]
        posteriors = [model.get_posterior() for model in models]
        latents = [z for z, _ in posteriors]
        measured: dict[str, float] = pd.DataFrame([held_out(model, adata) for model in models]).mean().to_dict()
        measured["active_dimensions"] = float(np.mean([informative(*posterior).sum() for posterior in posteriors]))
        measured["epochs_trained"] = float(np.mean([len(model.history) for model in models]))
        of_epoch = OBJECTIVES[self.objective].of_epoch
        if of_epoch is not None:
            return of_epoch(measured), measured
        assert self.n_clusters is not None
        if self.objective == "stability":
            value, more = stability(latents, self.n_clusters, rng)
            # k-means finds clusters even in a collapsed latent
            return value if measured["active_dimensions"] >= 1 else 0.0, measured | more
        assert self.label_key is not None
        labels = adata.obs[self.label_key]
        known = labels.notna().to_numpy()
        clusters = [partition(z[known], self.n_clusters, rng) for z in latents]
        names = labels[known].astype(str).to_numpy()
        return float(np.mean([metrics.adjusted_rand_index(names, c) for c in clusters])), measured


def held_out(model: DiffVAE, adata: AnnData) -> dict[str, float]:
    """Return the terms of the loss on held-out cells, ``validation_<term>``: means over ten draws of the noise.

    Batches and draws are the same for all configurations. The history has one draw in batches of the training's size;
    in small batches the MMD is noisier and its biased estimator larger.
    """
    import torch

    from diffvae.model._features import layer_matrix
    from diffvae.model._objective import InfoVAEObjective, gene_weights
    from diffvae.train import RowSource
    from diffvae.train._data import even_batches

    device = next(model.module.parameters()).device
    source, weights = RowSource(layer_matrix(adata, _keys.UNIT), device), gene_weights(model.config, model.features)
    objective = InfoVAEObjective(model.config, None if weights is None else weights.to(device))
    objective.covariates = model._covariates_of(model.design(), len(source))
    rows = np.flatnonzero(adata.obs[_keys.SPLIT] == "validation")
    noise = _random.torch_generator(0, "held-out noise", device=device)
    sums: dict[str, float] = {}
    with torch.no_grad():
        for _ in range(N_DRAWS):
            for batch in even_batches(rows, BLOCK):
                for name, value in objective(model.module, source.rows(batch), batch, noise).items():
                    sums[name] = sums.get(name, 0.0) + float(value) * len(batch)
    return {f"validation_{name}": total / (N_DRAWS * len(rows)) for name, total in sums.items()}


def partition(z: np.ndarray, n_clusters: int, rng: int, n_init: int = 10) -> np.ndarray:
    """Return k-means labels; a latent with fewer distinct points than clusters gives fewer clusters."""
    from sklearn.exceptions import ConvergenceWarning

    from diffvae.tl._cluster import kmeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kmeans(z, n_clusters, _random.seed(rng, "k-means") % 2**31, n_init)


def stability(latents: Sequence[np.ndarray], n_clusters: int, rng: int) -> tuple[float, dict[str, float]]:
    r"""Return the agreement of clusters of several trainings, in excess of that of latents without clusters.

    S is the mean adjusted Rand index of the k-means partitions of each pair of trainings. S alone would favour a latent
    with little information: if every training finds one long axis, k-means always divides it into the same k slices.
    Gaussian clouds are therefore drawn from the joint covariance of the latents of all trainings. They have what the
    trainings have in common (that axis) but no clusters, and

    .. math:: excess = (S - \bar S_{null}) / (1 - \bar S_{null})

    k is the same for all configurations, because fewer clusters are more stable on any data.

    Returns
    -------
    The excess; and ``stability``, ``null_stability`` and ``largest_cluster`` (mean share of the cells).
    """
    from diffvae.tl._cluster import structureless

    partitions = [partition(z, n_clusters, rng) for z in latents]
    observed = _agreement(partitions)
    joint = np.hstack(latents).astype(np.float64)
    ends = np.cumsum([z.shape[1] for z in latents])[:-1]
    chance = _random.generator(rng, "clouds")
    clouds = [np.split(structureless(joint, chance), ends, axis=1) for _ in range(N_CLOUDS)]
    null = float(np.mean([_agreement([partition(z, n_clusters, rng, n_init=3) for z in cloud]) for cloud in clouds]))
    excess = (observed - null) / (1 - null) if null < 1 - 1e-6 else 0.0
    largest = float(np.mean([np.unique(p, return_counts=True)[1].max() / len(p) for p in partitions]))
    return excess, {"stability": observed, "null_stability": null, "largest_cluster": largest}


def _agreement(partitions: Sequence[np.ndarray]) -> float:
    """Return the mean adjusted Rand index of all pairs, or 0 if a partition has only one cluster."""
    if min(len(np.unique(p)) for p in partitions) < 2:
        return 0.0
    return float(np.mean([metrics.adjusted_rand_index(a, b) for a, b in combinations(partitions, 2)]))


def usual_clusters(adata: AnnData, rng: int) -> int:
    """Return the number of Leiden clusters (resolution 1) of 50 principal components: a k that favours no trial."""
    from diffvae._core.graphs import leiden
    from diffvae.tl._neighbors import posterior_graph

    seed = _random.seed(rng, "number of clusters") % 2**31
    graph = posterior_graph(principal_components(adata, rng), None, rng=seed)
    return max(2, int(leiden(graph, 1.0, seed).max()) + 1)


CONFIRMATION = ["configuration", "trial", "repeat", "value"]


def confirm(
    study: optuna.Study,
    space: Space,
    evaluator: Evaluator,
    raw: AnnData,
    points: Mapping[int, Mapping[str, Any]],
    n_repeats: int,
    preparation: Mapping[str, Any],
    seed: int,
) -> pd.DataFrame:
    """Train default and best again with new seeds, which also draw new held-out cells.

    The best of many trials is partly lucky, with its seed and on its held-out cells. The values are stored in the
    study, so that an interrupted confirmation can be resumed.

    Parameters
    ----------
    points
        Number of each trial to its parameters; trial 0 is the default.
    preparation
        Further arguments of :func:`diffvae.pp.prepare`.

    Returns
    -------
    One row per trial and repeat: ``configuration`` ("default", "best"), ``trial``, ``repeat``, ``value`` (NaN if the
    training diverged).
    """
    rows = []
    for repeat in range(n_repeats):
        keys = {number: f"again {number} {repeat}" for number in points}
        missing = [number for number in points if keys[number] not in study.user_attrs]
        if missing:
            repeat_seed = _random.seed(seed, "again", str(repeat))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the first preparation has shown them
                cells = pp.prepare(raw, rng=repeat_seed, copy=True, **preparation)
            assert cells is not None
            n_train = int((cells.obs[_keys.SPLIT] == "train").sum())
            for number in missing:
                try:
                    value, _ = evaluator.score(cells, space.settings(points[number], n_train), repeat_seed)
                except TrainingError:
                    value = float("nan")
                study.set_user_attr(keys[number], value if np.isfinite(value) else None)
        for number in points:
            value = study.user_attrs[keys[number]]
            rows.append(("best" if number else "default", number, repeat, np.nan if value is None else float(value)))
    return pd.DataFrame(rows, columns=CONFIRMATION)
