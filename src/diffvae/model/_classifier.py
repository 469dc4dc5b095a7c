"""The classifier of cell types, with calibrated probabilities and an evaluation on held-out cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from torch import Tensor

from diffvae import _keys, _random, nn
from diffvae._core.runtime import torch_in_one_thread
from diffvae._core.validate import Number, Rule, Whole, check
from diffvae._errors import DataError
from diffvae.model._base import Estimator
from diffvae.model._config import Widths, plain
from diffvae.model._features import Matrix, dense, layer_matrix, read_features
from diffvae.nn._mlp import arrays_of, with_arrays
from diffvae.nn._shared_batch import uniform
from diffvae.train import RowSource, best_device, fit

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of a classifier on held-out cells.

    Attributes
    ----------
    accuracy
        Share of the held-out cells whose most probable type is the true one.
    baseline
        Accuracy of always predicting the most frequent type.
    balanced_accuracy
        Mean recall over types.
    calibration_error, uncalibrated_error
        Expected calibration error in 15 bins, with and without the temperature.
    temperature
        T.
    per_type
        One row per type: ``n_train``, ``n_test``, ``recall``, ``precision``.
    confusion
        Numbers of held-out cells, true types in rows, predicted types in columns.

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
            f"{self.baseline:.3f}), mean recall {self.balanced_accuracy:.3f}, lowest for {weakest} with "
            f"{self.per_type.loc[weakest, 'recall']:.2f}; calibration error {self.calibration_error:.3f} "
            f"({self.uncalibrated_error:.3f} without the temperature {self.temperature:.2f})."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation as numbers, lists and dictionaries."""
        numbers = {k: float(getattr(self, k)) for k in _NUMBERS}
        per_type = self.per_type.astype(object).where(self.per_type.notna(), None)  # JSON has no NaN
        return numbers | {"per_type": per_type.to_dict("split"), "confusion": self.confusion.to_dict("split")}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Return the evaluation from the result of :meth:`to_dict`."""
        tables = {k: pd.DataFrame(**stored[k]) for k in ("per_type", "confusion")}
        tables["per_type"] = tables["per_type"].astype({"recall": float, "precision": float})
        return cls(**{k: stored[k] for k in _NUMBERS}, **tables)


_NUMBERS = ("accuracy", "baseline", "balanced_accuracy", "calibration_error", "uncalibrated_error", "temperature")


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
    """Compare predicted with true types of cells that took no part in training."""
    predicted = logits.argmax(1)
    confusion = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(confusion, (codes, predicted), 1)
    correct, n_test, n_predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    recall = correct / np.maximum(n_test, 1)
    per_type = pd.DataFrame(
        {
            "n_train": n_train,
            "n_test": n_test,
            "recall": recall,
            "precision": np.divide(correct, n_predicted, out=np.full(len(correct), np.nan), where=n_predicted > 0),
        },
        index=list(classes),
    )
    return Evaluation(
        accuracy=float(correct.sum() / len(codes)),
        baseline=float((codes == n_train.argmax()).mean()),
        balanced_accuracy=float(recall.mean()),
        calibration_error=expected_calibration_error(softmax(logits / temperature, axis=1), codes),
        uncalibrated_error=expected_calibration_error(softmax(logits, axis=1), codes),
        temperature=temperature,
        per_type=per_type,
        confusion=pd.DataFrame(confusion, index=list(classes), columns=list(classes)),
    )


def stratified(codes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split the labelled cells of each type into 70 % for training, 10 % for validation and 20 % for testing."""
    train, validation, test = [], [], []
    for code in range(codes.max() + 1):
        rows = rng.permutation(np.flatnonzero(codes == code))
        n_test, n_validation = max(1, round(0.2 * len(rows))), max(1, round(0.1 * len(rows)))
        test.append(rows[:n_test])
        validation.append(rows[n_test : n_test + n_validation])
        train.append(rows[n_test + n_validation :])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(validation)), np.sort(np.concatenate(test))


BLOCK = 8192
"""Cells per pass of a prediction."""
GENE_DROPOUT = 0.3
"""Share of the genes of a cell that training sets to zero, so that no type hangs on a few genes."""
N_COMPONENTS, COMPONENT_CELLS = 30, 20_000
"""Principal components from which the first layer starts, and most training cells that give them."""
MIN_CELLS = 10
"""Fewest cells of a type; two of them are for testing."""
RULES: dict[str, Rule] = {
    "hidden": Widths(),
    "min_cells": Whole(MIN_CELLS),
    "min_probability": Number("[0, 1)"),
}


@torch.no_grad()
def _start_from_components(
    first: torch.nn.Linear, matrix: Matrix, rows: np.ndarray, scale: Tensor, rng: np.random.Generator
) -> None:
    """Make the first layer random combinations of principal components, on the scale of log-normalised expression."""
    from sklearn.decomposition import PCA

    if len(rows) > COMPONENT_CELLS:
        rows = np.sort(rng.choice(rows, COMPONENT_CELLS, replace=False))
    values = dense(matrix[rows]) * scale.cpu().numpy()
    n = min(N_COMPONENTS, len(rows) - 1, values.shape[1])
    pca = PCA(n, svd_solver="randomized", random_state=int(rng.integers(2**31))).fit(values)
    mixture = 2 * rng.standard_normal((first.out_features, n)) / np.sqrt(n * max(pca.explained_variance_[0], 1e-12))
    weight = (mixture @ pca.components_).astype(np.float32)
    first.weight.copy_(torch.from_numpy(weight))
    first.bias.copy_(torch.from_numpy(-weight @ pca.mean_.astype(np.float32)))


class CellStateClassifier(Estimator):
    r"""Softmax network from the expression of a cell to its type, calibrated by a temperature.

    .. math:: p(c \mid x) = softmax(l(x) / T)_c, \qquad l = W_3 ReLU(W_2 ReLU(W_1 ReLU(W_0 x)))

    Every type is a class, progenitors included. Without progenitors every cell would be called mature, and unchanged
    cells would count as converted. The training sees log-normalised expression (the scaling of the layer is taken
    back), starts from principal components, and sets 30 % of the genes of each cell to zero. A cell has the
    weight :math:`1 / \sqrt{n}` for a type of n cells. The temperature T is chosen on validation cells, and accuracy is
    measured on further cells that took no part in the training.

    Parameters
    ----------
    hidden
        Widths of the hidden layers (the paper's 256, 512, 256).
    min_cells
        Types with fewer cells are left out; :attr:`dropped` lists them.

    References
    ----------
    Bica et al. 2020, Methods ("Changing cell states"); Guo et al., On calibration of modern neural networks, ICML 2017.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> classifier = dv.model.CellStateClassifier().train(adata, "cell_type", max_epochs=5, progress=False)
    >>> classifier.predict_proba(adata).shape == (700, len(classifier.classes))
    True
    """

    def __init__(self, hidden: Sequence[int] = (256, 512, 256), *, min_cells: int = MIN_CELLS) -> None:
        super().__init__()
        self.hidden: tuple[int, ...] = plain(hidden)
        check(RULES, hidden=self.hidden, min_cells=min_cells)
        self.min_cells = int(min_cells)
        self.classes: tuple[str, ...] = ()
        self.groupby = ""
        self.dropped: dict[str, int] = {}
        self.temperature = 1.0
        self._evaluation: Evaluation | None = None
        self._module: nn.MLP | None = None

    def __repr__(self) -> str:
        state = f"{len(self.classes)} types of {self.groupby!r}" if self.is_trained else "not trained"
        return f"CellStateClassifier(hidden={self.hidden}; {state})"

    @property
    def module(self) -> nn.MLP:
        """The torch module, in evaluation mode; its output is l, not divided by the temperature."""
        if self._module is None:
            raise self._not_trained()
        return self._module

    @property
    def evaluation(self) -> Evaluation:
        """Accuracy, recall per type, calibration and confusion on held-out cells."""
        if self._evaluation is None:
            raise self._not_trained()
        return self._evaluation

    def get_params(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"hidden": self.hidden, "min_cells": self.min_cells}

    def train(
        self,
        adata: AnnData,
        groupby: str = _keys.CELL_TYPE,
        *,
        layer: str | None = _keys.UNIT,
        max_epochs: int = 300,
        patience: int = 20,
        batch_size: int = 128,
        lr: float = 1e-3,
        device: str = "auto",
        rng: _random.Rng = 0,
        progress: bool = True,
    ) -> Self:
        """Train on the types in ``adata.obs[groupby]``. A second call trains again from random weights.

        The cells of each type are split: 70 % for training, 10 % for early stopping and the temperature, and 20 % for
        :attr:`evaluation`.

        Parameters
        ----------
        adata
            Cells; those without a label or with the label "unassigned" are left out.
        groupby
            Key in ``obs``.
        layer
            Expression values; the layer of the model whose cells are to be classified.
        max_epochs, patience
            Stop after ``patience`` epochs without improvement, and keep the best weights.
        batch_size, lr
            Of Adam.
        device
            ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        rng
            Seed of the split, the initial weights and the order of cells.
        progress
            Show a bar on a terminal.

        Returns
        -------
        The classifier itself.

        Raises
        ------
        DataError
            If ``groupby`` or the layer is missing, or fewer than two types have ``min_cells`` cells.
        """
        matrix = layer_matrix(adata, layer)
        codes, classes, dropped = self._read_labels(adata, groupby)
        train_rows, validation_rows, test_rows = stratified(codes, _random.generator(rng, "classifier split"))
        features = read_features(adata, layer, matrix)
        target = best_device(device)
        with _random.torch_seeded(rng, "classifier weights"):
            module = nn.MLP(matrix.shape[1], self.hidden, len(classes)).to(target)
        source = RowSource(matrix, target)
        known = torch.from_numpy(codes).to(target)
        scale = torch.ones(matrix.shape[1], device=target)
        if features.minimum is not None and features.maximum is not None:
            scale = torch.from_numpy((features.maximum - features.minimum).astype(np.float32)).to(target)
        first = module.linears[0]
        _start_from_components(first, matrix, train_rows, scale, _random.generator(rng, "classifier start"))
        size = np.bincount(codes[train_rows], minlength=len(classes))
        weight = torch.from_numpy((np.sqrt(size.mean() / size)).astype(np.float32)).to(target)

        def cross_entropy(module: Any, x: Tensor, rows: np.ndarray, generator: Any) -> dict[str, Tensor]:
            if module.training:
                x = x * (uniform(x.shape, generator, target) >= GENE_DROPOUT) / (1 - GENE_DROPOUT)
            logits = module(x * scale).float()
            return {"loss": F.cross_entropy(logits, known[torch.from_numpy(rows).to(target)], weight=weight)}

        history = fit(
            module,
            source,
            cross_entropy,
            train_rows=train_rows,
            validation_rows=validation_rows,
            max_epochs=max_epochs,
            batch_size=batch_size,
            lr=lr,
            patience=patience,
            rng=rng,
            progress=progress,
            description="training classifier",
        )
        with torch.no_grad():
            first.weight.mul_(scale)  # from now on it takes the values of the layer
        self._module, self._features, self._history, self._training_matrix = module, features, history, matrix
        self.classes, self.groupby, self.dropped = classes, groupby, dropped
        self.temperature = fit_temperature(self.logits(matrix[validation_rows]), codes[validation_rows])
        self._evaluation = evaluate(
            self.logits(matrix[test_rows]), codes[test_rows], classes, self.temperature, np.bincount(codes[train_rows])
        )
        return self

    def _read_labels(self, adata: AnnData, groupby: str) -> tuple[np.ndarray, tuple[str, ...], dict[str, int]]:
        if groupby not in adata.obs:
            raise DataError(f"adata.obs[{groupby!r}] is missing; the columns are: {', '.join(adata.obs) or 'none'}.")
        labels = adata.obs[groupby].astype("string").replace(_keys.UNASSIGNED, pd.NA)
        sizes = labels.value_counts().sort_index()
        kept = sizes.index[sizes >= self.min_cells]
        if len(kept) < 2:
            raise DataError(
                f"adata.obs[{groupby!r}] has {len(kept)} types of {self.min_cells} cells or more, and a classifier "
                "needs two; give another column."
            )
        codes = pd.Categorical(labels, categories=kept).codes.astype(np.int64)
        return codes, tuple(map(str, kept)), {str(k): int(v) for k, v in sizes[sizes < self.min_cells].items()}

    @torch_in_one_thread
    @torch.no_grad()
    def logits(self, matrix: Matrix) -> np.ndarray:
        """Return l for cells on the scale of the training layer, genes in the order of :attr:`gene_names`."""
        device = next(self.module.parameters()).device
        source = RowSource(matrix, device, resident_limit=0)
        blocks = [self.module(source.rows(b)).float().cpu().numpy() for b in source.blocks(BLOCK)]
        return np.concatenate(blocks) if blocks else np.zeros((0, len(self.classes)), np.float32)

    def predict_proba(self, cells: AnnData | np.ndarray | None = None, *, max_missing: float = 0.2) -> np.ndarray:
        """Return the calibrated probability of each type.

        Parameters
        ----------
        cells
            AnnData (genes matched by name, scaled by the training scaling), or an array of cells x genes on the scale
            of the training layer; None for the training cells.
        max_missing
            Share of the genes that an AnnData may lack.

        Returns
        -------
        Cells x types, in the order of :attr:`classes`.
        """
        if isinstance(cells, np.ndarray):
            if cells.ndim != 2 or cells.shape[1] != len(self.gene_names):
                raise DataError(f"The cells have shape {cells.shape}; the classifier has {len(self.gene_names)} genes.")
            matrix = cells
        else:
            matrix = self._matrix(cells, max_missing)
        return self.probabilities(self.logits(matrix))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return softmax(l / T)."""
        return softmax(logits / self.temperature, axis=1)

    def predict(
        self, cells: AnnData | np.ndarray | None = None, *, min_probability: float = 0.5, max_missing: float = 0.2
    ) -> np.ndarray:
        """Return the most probable type of each cell, or "unassigned" where its probability is below a minimum.

        Parameters
        ----------
        cells, max_missing
            As in :meth:`predict_proba`.
        min_probability
            Smallest calibrated probability of a type that is returned.

        Returns
        -------
        Array of names.
        """
        check(RULES, min_probability=min_probability)
        probability = self.predict_proba(cells, max_missing=max_missing)
        names = np.array(self.classes, dtype=object)[probability.argmax(1)]
        return np.where(probability.max(1) >= min_probability, names, _keys.UNASSIGNED)

    def code(self, name: str) -> int:
        """Return the column of a type in :meth:`predict_proba`."""
        if name in self.classes:
            return self.classes.index(name)
        if name in self.dropped:
            raise DataError(
                f"{name!r} has {self.dropped[name]} cells, fewer than the {self.min_cells} that the classifier needs."
            )
        raise DataError(f"{name!r} is not a type of the classifier; its types are {', '.join(self.classes)}.")

    def _arrays(self) -> dict[str, np.ndarray]:
        return arrays_of(self.module)

    def _set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        n_genes, n_classes = len(self.features.gene_names), len(self.classes)
        self._module = with_arrays(lambda: nn.MLP(n_genes, self.hidden, n_classes), arrays)

    def _state(self) -> dict[str, Any]:
        return {
            "classes": self.classes,
            "groupby": self.groupby,
            "dropped": self.dropped,
            "temperature": self.temperature,
            "evaluation": self.evaluation.to_dict(),
        }

    def _set_state(self, state: Mapping[str, Any]) -> None:
        self.classes, self.groupby = tuple(state["classes"]), state["groupby"]
        self.dropped, self.temperature = dict(state["dropped"]), float(state["temperature"])
        self._evaluation = Evaluation.from_dict(state["evaluation"])
