"""How well a classifier does on cells that it has not seen, and how much its probabilities can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax


@dataclass(frozen=True)
class Evaluation:
    """Figures on held-out cells.

    Attributes
    ----------
    accuracy
        Share of the held-out cells whose most probable type is theirs.
    baseline
        What always naming the most frequent type would score.
    balanced_accuracy
        Mean recall over types.
    calibration_error, uncalibrated_error
        Expected calibration error in 15 bins, with the temperature and without.
    temperature
        T.
    per_type
        One row per type: ``n_train``, ``n_test``, ``recall``, ``precision``.
    confusion
        Held-out cells, true types in rows, called types in columns.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> classifier = dv.model.CellStateClassifier().train(adata, "cell_type", max_epochs=5, progress=False)
    >>> classifier.evaluation.accuracy > classifier.evaluation.baseline
    True
    """

    accuracy: float
    baseline: float
    balanced_accuracy: float
    calibration_error: float
    uncalibrated_error: float
    temperature: float
    per_type: pd.DataFrame
    confusion: pd.DataFrame

    def __str__(self) -> str:
        n = int(self.confusion.to_numpy().sum())
        weakest = self.per_type["recall"].idxmin()
        return (
            f"Accuracy {self.accuracy:.3f} on {n:,} held-out cells (always the most frequent type: "
            f"{self.baseline:.3f}), mean recall {self.balanced_accuracy:.3f}, least {weakest} with "
            f"{self.per_type.loc[weakest, 'recall']:.2f}; calibration error {self.calibration_error:.3f} "
            f"({self.uncalibrated_error:.3f} without the temperature {self.temperature:.2f})."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return numbers, lists and dictionaries only."""
        numbers = {k: float(getattr(self, k)) for k in _NUMBERS}
        per_type = self.per_type.astype(object).where(self.per_type.notna(), None)  # JSON has no NaN
        return numbers | {"per_type": per_type.to_dict("split"), "confusion": self.confusion.to_dict("split")}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Return what :meth:`to_dict` was made from."""
        tables = {k: pd.DataFrame(**stored[k]) for k in ("per_type", "confusion")}
        tables["per_type"] = tables["per_type"].astype({"recall": float, "precision": float})
        return cls(**{k: stored[k] for k in _NUMBERS}, **tables)


_NUMBERS = (
    "accuracy",
    "baseline",
    "balanced_accuracy",
    "calibration_error",
    "uncalibrated_error",
    "temperature",
)


def fit_temperature(logits: np.ndarray, codes: np.ndarray) -> float:
    r"""Return the T that minimises :math:`-\sum_i \log softmax(l_i / T)_{c_i}`, between 1/10 and 10."""

    def nll(log_t: float) -> float:
        return -float(log_softmax(logits / np.exp(log_t), axis=1)[np.arange(len(codes)), codes].mean())

    return float(np.exp(minimize_scalar(nll, bounds=(np.log(0.1), np.log(10)), method="bounded").x))


def expected_calibration_error(probability: np.ndarray, codes: np.ndarray, n_bins: int = 15) -> float:
    r"""Return :math:`\sum_b \frac{n_b}{n} |accuracy_b - confidence_b|` over bins of the highest probability.

    References
    ----------
    Guo et al., On calibration of modern neural networks, ICML 2017, eq 3.

    Examples
    --------
    >>> expected_calibration_error(np.array([[0.75, 0.25]] * 4), np.array([0, 0, 0, 1]))
    0.0
    """
    confidence, right = probability.max(1), probability.argmax(1) == codes
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    gap = np.bincount(bins, right, n_bins) - np.bincount(bins, confidence, n_bins)
    return float(np.abs(gap).sum() / len(codes))


def evaluate(
    logits: np.ndarray, codes: np.ndarray, classes: Sequence[str], temperature: float, n_train: np.ndarray
) -> Evaluation:
    """Compare calls with the truth on cells that took no part in training."""
    called = logits.argmax(1)
    confusion = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(confusion, (codes, called), 1)
    own, n_test, n_called = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    recall = own / np.maximum(n_test, 1)
    per_type = pd.DataFrame(
        {
            "n_train": n_train,
            "n_test": n_test,
            "recall": recall,
            "precision": np.divide(own, n_called, out=np.full(len(own), np.nan), where=n_called > 0),
        },
        index=list(classes),
    )
    return Evaluation(
        accuracy=float(own.sum() / len(codes)),
        baseline=float((codes == n_train.argmax()).mean()),
        balanced_accuracy=float(recall.mean()),
        calibration_error=expected_calibration_error(softmax(logits / temperature, axis=1), codes),
        uncalibrated_error=expected_calibration_error(softmax(logits, axis=1), codes),
        temperature=temperature,
        per_type=per_type,
        confusion=pd.DataFrame(confusion, index=list(classes), columns=list(classes)),
    )


def stratified(codes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deal the labelled cells of each type out: 70 % to learn from, 10 % to watch, 20 % to test on."""
    parts: tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]] = ([], [], [])
    for code in range(codes.max() + 1):
        rows = rng.permutation(np.flatnonzero(codes == code))
        test, watched = max(1, round(0.2 * len(rows))), max(1, round(0.1 * len(rows)))
        for part, chosen in zip(parts, (rows[test + watched :], rows[test : test + watched], rows[:test]), strict=True):
            part.append(chosen)
    train, validation, held_out = (np.sort(np.concatenate(part)) for part in parts)
    return train, validation, held_out
