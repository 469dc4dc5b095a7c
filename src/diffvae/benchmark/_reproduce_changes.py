"""Figure 3 for one training: which progenitors convert to what, beside chance, and how many genes it takes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from diffvae import _keys, tl
from diffvae._errors import DataError
from diffvae.benchmark._reproduce_subject import Subject
from diffvae.benchmark._reproduce_train import _records

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import DiffVAE

STEPS = (0.5, 1.0)
"""Lambda, in standard deviations."""
N_DIMS = 5
"""The top dimensions that are shifted."""
N_RANDOM, PER_TARGET = 200, 25
"""Random directions: as many as a single target among all needs to reach q < 0.05, and no fewer than the first."""
MIN_PROBABILITY = 0.5
EPOCHS = 300
"""Of the classifier, at most, as the paper has it."""
HOW = {
    "paper": {"direction": "plus", "sd_from": "all"},
    "code": {"direction": "plus", "sd_from": "group"},
    "default": {"direction": "signed", "sd_from": "all"},
}
"""Sign and standard deviation of the shift: the paper always shifts upwards, its code by the progenitors' spread."""
GENES = {"paper": "paper", "code": "paper", "default": "effect"}
"""What is copied into a cell: the decoded values themselves, or the effect of the shift."""


def change(
    trained: tuple[AnnData, DiffVAE], subject: Subject, preset: str, max_epochs: int | None, seed: int, places: bool
) -> dict[str, Any]:
    """Train the classifier, shift the progenitors towards every other type, and find the fewest genes.

    Returns
    -------
    ``classifier`` (accuracy on held-out cells), ``conversions`` (rows of :func:`diffvae.tl.perturb`), ``minimal`` (per
    target the number of genes of each converted cell), with ``places`` the ``trajectories`` that the maps are drawn
    from, and ``note`` if something could not be done.
    """
    from diffvae.model import CellStateClassifier

    adata, model = trained
    how = HOW[preset]
    assert subject.label_key is not None
    assert subject.source is not None
    found: dict[str, Any] = {"classifier": None, "conversions": [], "minimal": [], "trajectories": [], "note": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            classifier = CellStateClassifier().train(
                adata, subject.label_key, max_epochs=max_epochs or EPOCHS, rng=seed, progress=False
            )
            shifted = tl.perturb(
                adata, model, classifier, source=subject.source, target=subject.targets, n_sd=STEPS, n_dims=N_DIMS,
                method=("shift", "mean", "expression_mean"), n_random=n_random(subject), rng=seed, progress=False,
                min_probability=MIN_PROBABILITY, direction=how["direction"], sd_from=how["sd_from"],
            )  # fmt: skip
        except DataError as error:
            return found | {"note": f"Nothing was perturbed: {error}"}
        evaluation = classifier.evaluation
        found["classifier"] = {
            "accuracy": evaluation.accuracy,
            "balanced_accuracy": evaluation.balanced_accuracy,
            "baseline": evaluation.baseline,
        }
        found["conversions"] = _records(shifted.table)
        for target in shifted.targets:
            # no p-values of single genes are reported, so that one random direction is enough
            least = tl.minimal_genes(
                adata, model, classifier, source=subject.source, target=target, n_sd=max(STEPS), n_dims=N_DIMS,
                sd_from=how["sd_from"], min_probability=MIN_PROBABILITY,
                method_genes=GENES[preset], n_random=1, rng=seed, progress=False,
            )  # fmt: skip
            beside = least.baselines.set_index("genes")["flipped"]
            found["minimal"].append(
                {
                    "target": target,
                    "converted": least.counts["converted"],
                    "flipped": least.counts["flipped"],
                    "n_genes": [int(n) for n in least.cells["n_genes"]],
                    "flipped_by_de_genes": _number(beside["differentially expressed"]),
                    "flipped_by_random_genes": _number(beside["random"]),
                }
            )
    if places:
        found["trajectories"] = [
            {
                "target": target,
                "rows": shifted.trajectory(target).rows.tolist(),
                "probability": shifted.trajectory(target).probability.round(4).tolist(),
                "first": shifted.trajectory(target).first.tolist(),
            }
            for target in shifted.targets
        ]
        found["places"] = np.asarray(adata.obsm[_keys.TSNE]).round(3).tolist()
    return found


def n_random(subject: Subject) -> int:
    """Return the number of random directions per target."""
    return max(N_RANDOM, PER_TARGET * len(subject.targets))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
