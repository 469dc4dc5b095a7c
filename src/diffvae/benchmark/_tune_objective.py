"""What a configuration is judged by: a loss on held-out cells, the stability of clusters, or labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random, _training_config, metrics
from diffvae.benchmark._tune_space import BATCH_SIZE

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import DiffVAE
    from diffvae.train import Epoch

N_CLOUDS = 3
"""Structureless latents with which the stability of one configuration is compared."""
ACTIVE_VARIANCE = 0.01
"""As in :mod:`diffvae.model._diagnose`."""
N_DRAWS = 10
BLOCK = 1024
"""Draws of the noise, and cells per batch, with which held-out cells are scored."""


@dataclass(frozen=True)
class Objective:
    """A score of a configuration.

    Attributes
    ----------
    label
        In words, with its unit.
    minimise
        Whether less is better.
    n_trainings
        Trainings per configuration, unless the user says otherwise.
    of_epoch
        The score after an epoch, from its row of the history, for those that have one: bad trials end early by it.
    """

    label: str
    minimise: bool
    n_trainings: int = 1
    of_epoch: Callable[[Mapping[str, float]], float] | None = None


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
"""Objectives that look at k-means clusters."""


@dataclass(frozen=True)
class Judge:
    """Trains configurations on cells and scores them.

    Attributes
    ----------
    objective
        Name in ``OBJECTIVES``.
    n_trainings
        Trainings per score, each with a seed of its own.
    n_clusters
        Of k-means, for "stability" and "ari": the same for all configurations.
    label_key
        For "ari".
    device, precision
        Of the training.
    """

    objective: str
    n_trainings: int
    n_clusters: int | None
    label_key: str | None
    device: str = "auto"
    precision: str = "auto"

    def score(
        self,
        adata: AnnData,
        settings: Mapping[str, Any],
        rng: int,
        on_epoch: Callable[[Epoch], None] | None = None,
    ) -> tuple[float, dict[str, float]]:
        """Return the score of a configuration, and what else was seen of its models."""
        arguments = {"batch_size": BATCH_SIZE} | _training_config.training_of(settings)
        models = [
            _training_config.model_of(settings).train(
                adata,
                **arguments,
                device=self.device,
                precision=self.precision,
                rng=_random.seed(rng, "training", str(i)),
                progress=False,
                on_epoch=on_epoch,
            )
            for i in range(self.n_trainings)
        ]
        latents = [model.get_latent_representation() for model in models]
        found = pd.DataFrame([held_out(model, adata) for model in models]).mean()
        seen: dict[str, float] = found.to_dict()
        seen["active_dimensions"] = float(np.mean([(z.var(axis=0) > ACTIVE_VARIANCE).sum() for z in latents]))
        seen["epochs_trained"] = float(np.mean([len(model.history) for model in models]))
        of_epoch = OBJECTIVES[self.objective].of_epoch
        if of_epoch is not None:
            return of_epoch(seen), seen
        assert self.n_clusters is not None
        if self.objective == "stability":
            value, more = stability(latents, self.n_clusters, rng)
            # k-means cuts what is left of a collapsed latent as well, however little it is
            return value if seen["active_dimensions"] >= 1 else 0.0, seen | more
        assert self.label_key is not None
        labels = adata.obs[self.label_key]
        known = labels.notna().to_numpy()
        clusters = [partition(z[known], self.n_clusters, rng) for z in latents]
        names = labels[known].astype(str).to_numpy()
        return float(np.mean([metrics.adjusted_rand_index(names, c) for c in clusters])), seen


def held_out(model: DiffVAE, adata: AnnData) -> dict[str, float]:
    """Return the terms of the loss on held-out cells, mean over ten draws of the noise, under ``validation_<term>``.

    The history has them too, of one draw and in batches of the training's size; an MMD of small batches is noisy, and
    of a biased estimator larger. Here batches and draws are the same for all configurations.
    """
    import torch

    from diffvae.model._input import layer_matrix
    from diffvae.model._objective import InfoVAEObjective, gene_weights
    from diffvae.train import RowSource
    from diffvae.train._data import even_batches

    device = next(model.module.parameters()).device
    source, weights = RowSource(layer_matrix(adata, _keys.UNIT), device), gene_weights(model.config, model.features)
    objective = InfoVAEObjective(model.config, None if weights is None else weights.to(device))
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
    """Return k-means labels; a latent in fewer points than clusters gives fewer."""
    from sklearn.exceptions import ConvergenceWarning

    from diffvae.tl._partitions import kmeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kmeans(z, n_clusters, _random.seed(rng, "k-means") % 2**31, n_init)


def stability(latents: Sequence[np.ndarray], n_clusters: int, rng: int) -> tuple[float, dict[str, float]]:
    r"""Return how far clusters of several trainings agree beyond what the same latents without clusters give.

    S is the mean adjusted Rand index of the k-means partitions of each two trainings. By itself it prefers a latent
    that says little: of one long axis, which every training finds, k-means makes the same k slices each time. So the
    latents of all trainings are put side by side and Gaussian clouds of their joint covariance are drawn, which keep
    what the trainings share (that axis) and have no clusters, and

    .. math:: excess = (S - \bar S_{null}) / (1 - \bar S_{null})

    k is the same for all configurations: fewer clusters are more stable on any data.

    Parameters
    ----------
    latents
        Cells x dimensions, of the same cells.
    n_clusters
        k.
    rng
        Seed.

    Returns
    -------
    The excess; and ``stability``, ``null_stability`` and ``largest_cluster`` (mean share of the cells).
    """
    from diffvae.tl._stability import structureless

    own = [partition(z, n_clusters, rng) for z in latents]
    reached = _agreement(own)
    joint = np.hstack(latents).astype(np.float64)
    ends = np.cumsum([z.shape[1] for z in latents])[:-1]
    chance = _random.generator(rng, "clouds")
    clouds = [np.split(structureless(joint, chance), ends, axis=1) for _ in range(N_CLOUDS)]
    null = float(np.mean([_agreement([partition(z, n_clusters, rng, n_init=3) for z in cloud]) for cloud in clouds]))
    excess = (reached - null) / (1 - null) if null < 1 - 1e-6 else 0.0
    largest = float(np.mean([np.unique(p, return_counts=True)[1].max() / len(p) for p in own]))
    return excess, {"stability": reached, "null_stability": null, "largest_cluster": largest}


def _agreement(partitions: Sequence[np.ndarray]) -> float:
    """Return the mean adjusted Rand index of all pairs; one cluster alone agrees with nothing."""
    if min(len(np.unique(p)) for p in partitions) < 2:
        return 0.0
    return float(np.mean([metrics.adjusted_rand_index(a, b) for a, b in combinations(partitions, 2)]))


def usual_clusters(adata: AnnData, rng: int) -> int:
    """Return the number of Leiden clusters (resolution 1) of 50 principal components: a k that favours no trial."""
    from diffvae.benchmark._link_methods import _pca
    from diffvae.tl import _partitions

    seed = _random.seed(rng, "number of clusters") % 2**31
    graph = _partitions.neighbor_graph(_pca(adata, rng), seed)
    return max(2, int(_partitions.leiden(graph, 1.0, seed).max()) + 1)
