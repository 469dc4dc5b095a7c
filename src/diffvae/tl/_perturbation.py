"""What a perturbation found: shares, cells, genes, and the changed cells themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from diffvae import _keys
from diffvae.tl._cells import Cells
from diffvae.tl._shift import Way

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae.model import CellStateClassifier, Model


@dataclass(frozen=True)
class Trajectory:
    """Cells moved along a way: probability of the target, and whether it is the most probable, steps x cells."""

    rows: np.ndarray
    way: Way
    probability: np.ndarray
    first: np.ndarray

    def converted(self, min_probability: float) -> np.ndarray:
        """Return which cells are called target, steps x cells."""
        return self.first & (self.probability >= min_probability)

    def resistance(self, grid: tuple[float, ...], min_probability: float) -> np.ndarray:
        """Return the smallest step from which on a cell stays converted; infinity where there is none."""
        stays = np.logical_and.accumulate(self.converted(min_probability)[::-1])[::-1]
        first = np.where(stays.any(0), stays.argmax(0), -1)
        return np.where(first >= 0, np.array(grid)[first], np.inf)


@dataclass(frozen=True)
class Perturbation:
    """Result of :func:`diffvae.tl.perturb`.

    Attributes
    ----------
    table
        One row per source, target, method and step: ``n_cells``, ``n_converted``, ``converted`` (share),
        ``converted_at_0``, ``null_mean``, ``null_low``, ``null_high`` (95 % of the random directions), ``excess``
        (converted less the larger of the share at 0 and the null's mean), ``p_value`` (one-sided, against the random
        directions), ``q_value`` (Benjamini-Hochberg over sources and targets), ``mean_probability``, ``n_dims``.
    trajectories
        (source, target, method) to the cells along that way.
    adata, model, classifier, groupby
        What was perturbed, and by what.
    data
        The cells as the models see them.
    n_sd
        The steps, 0 among them.
    min_probability
        Least probability of a conversion.
    methods
        The methods; the first is meant where none is named.

    Examples
    --------
    >>> import diffvae as dv
    >>> adata = dv.datasets.pbmc68k_reduced()
    >>> dv.pp.prepare(adata)
    >>> model = dv.model.PCA(n_latent=10).train(adata)
    >>> classifier = dv.model.CellStateClassifier().train(adata, "cell_type", max_epochs=5, progress=False)
    >>> found = dv.tl.perturb(
    ...     adata, model, classifier, source="CD34+", target="CD14+ Monocyte", n_random=5, progress=False
    ... )
    >>> found.sources, found.targets
    (('CD34+',), ('CD14+ Monocyte',))
    """

    table: pd.DataFrame
    trajectories: dict[tuple[str, str, str], Trajectory]
    adata: AnnData
    model: Model
    classifier: CellStateClassifier
    data: Cells
    groupby: str
    n_sd: tuple[float, ...]
    min_probability: float
    methods: tuple[str, ...]

    def __repr__(self) -> str:
        pairs = {(a, b) for a, b, _ in self.trajectories}
        return f"Perturbation({len(pairs)} pairs of types, n_sd={self.n_sd}, methods={self.methods})"

    @property
    def sources(self) -> tuple[str, ...]:
        """The source types."""
        return tuple(dict.fromkeys(a for a, _, _ in self.trajectories))

    @property
    def targets(self) -> tuple[str, ...]:
        """The target types."""
        return tuple(dict.fromkeys(b for _, b, _ in self.trajectories))

    def step(self, n_sd: float | None) -> int:
        """Return the number of a step in :attr:`n_sd`; None is the largest."""
        if n_sd is None:
            return len(self.n_sd) - 1
        if float(n_sd) not in self.n_sd:
            raise ValueError(f"n_sd is {n_sd}; this perturbation has {', '.join(f'{v:g}' for v in self.n_sd)}.")
        return self.n_sd.index(float(n_sd))

    def trajectory(self, target: str, source: str | None = None, method: str | None = None) -> Trajectory:
        """Return how the cells of a source went towards a target; the first source and method by default."""
        key = (self.sources[0] if source is None else source, target, self.methods[0] if method is None else method)
        if key not in self.trajectories:
            pairs = ", ".join(f"{a} to {b}" for a, b, m in self.trajectories if m == self.methods[0])
            raise ValueError(f"{key[0]} to {key[1]} by {key[2]!r} was not tried; there are: {pairs}.")
        return self.trajectories[key]

    def plasticity(self, n_sd: float | None = 1.0, *, value: str = "excess", method: str | None = None) -> pd.DataFrame:
        """Return the plasticity map: sources x targets, share converted beyond the null.

        Parameters
        ----------
        n_sd
            Step; None for the largest.
        value
            Column of :attr:`table`.
        method
            None for the first.
        """
        step = self.n_sd[self.step(n_sd)]
        method = self.methods[0] if method is None else method
        own = self.table[(self.table["n_sd"] == step) & (self.table["method"] == method)]
        return own.pivot(index="source", columns="target", values=value).reindex(self.sources, columns=self.targets)

    def cells(self, method: str | None = None) -> pd.DataFrame:
        """Return one row per source cell and target.

        ``resistance`` is the smallest n_sd from which on it stays converted, infinite if none does; ``converted_at``
        lists every step at which it is converted, ``"1, 1.5"``; beside them stand its probabilities of the target at 0
        and at the largest step.
        """
        method = self.methods[0] if method is None else method
        names = self.adata.obs_names.to_numpy()
        frames = [
            pd.DataFrame(
                {
                    "cell": names[t.rows],
                    "source": a,
                    "target": b,
                    "resistance": t.resistance(self.n_sd, self.min_probability),
                    "converted_at": [
                        ", ".join(f"{step:g}" for step, is_so in zip(self.n_sd, column, strict=True) if is_so)
                        for column in t.converted(self.min_probability).T
                    ],
                    "probability_at_0": t.probability[0],
                    "probability_at_most": t.probability[-1],
                }
            )
            for (a, b, m), t in self.trajectories.items()
            if m == method
        ]
        return pd.concat(frames, ignore_index=True)

    def changed(
        self, target: str, n_sd: float | None = 1.0, *, source: str | None = None, method: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return latent places and expression of the source's cells after the shift: cells x dimensions and genes."""
        t = self.trajectory(target, source, method)
        step = np.float32(self.n_sd[self.step(n_sd)])
        if (method or self.methods[0]) == "expression_mean":
            y = self.data.clip(self.data.x[t.rows] + step * t.way.x)
            return self.model._encode(y), y
        z = self.data.z[t.rows] + step * t.way.z
        return z, self.data.clip(self.model.decode(z))

    def effects(
        self,
        target: str,
        n_sd: float | None = 1.0,
        *,
        source: str | None = None,
        method: str | None = None,
        method_genes: str = "effect",
        converted_only: bool = False,
    ) -> pd.DataFrame:
        """Return what the shift does to each gene, largest change first.

        Parameters
        ----------
        target, n_sd, source, method
            Which perturbation.
        method_genes
            ``"effect"``: decode(z + shift) - decode(z). ``"paper"``: decode(z + shift) - x, in which the error of
            the reconstruction is mixed with the effect.
        converted_only
            Mean over the converted cells only.

        Returns
        -------
        One row per gene: ``gene``, ``effect`` (mean change on the scale of the training layer), ``log_effect`` (the
        same in units of the log-normalised values, where the scaling is known), ``agreement`` (share of the cells in
        which the change has this sign), ``direction`` ("up" or "down").
        """
        if method_genes not in ("effect", "paper"):
            raise ValueError(f"method_genes is {method_genes!r}; it is 'effect' or 'paper'.")
        t = self.trajectory(target, source, method)
        _, y = self.changed(target, n_sd, source=source, method=method)
        before = self.data.x[t.rows]
        if method_genes == "effect" and (method or self.methods[0]) != "expression_mean":
            before = self.data.clip(self.model.decode(self.data.z[t.rows]))
        kept = t.converted(self.min_probability)[self.step(n_sd)] if converted_only else np.ones(len(y), bool)
        change = (y - before)[kept]
        mean = change.mean(0) if len(change) else np.zeros(y.shape[1])
        features = self.model.features
        frame = pd.DataFrame({"gene": self.model.gene_names, "effect": mean})
        if features.minimum is not None and features.maximum is not None:
            frame["log_effect"] = mean * (features.maximum - features.minimum)
        frame["agreement"] = (np.sign(change) == np.sign(mean)).mean(0) if len(change) else np.nan
        frame["direction"] = np.where(mean >= 0, "up", "down")
        return frame.sort_values("effect", key=np.abs, ascending=False, kind="stable").reset_index(drop=True)

    def to_adata(
        self, target: str, n_sd: float | None = 1.0, *, source: str | None = None, method: str | None = None
    ) -> AnnData:
        """Return the changed cells, placed into the t-SNE map of the originals if there is one.

        Parameters
        ----------
        target, n_sd, source, method
            Which perturbation.

        Returns
        -------
        AnnData: the training layer in ``layers``, X on the log-normalised scale, ``obsm["X_diffvae"]``, in ``obs``
        ``cell``, ``source``, ``target``, ``n_sd``, ``probability`` and ``converted``.
        """
        t = self.trajectory(target, source, method)
        step = self.step(n_sd)
        z, y = self.changed(target, n_sd, source=source, method=method)
        obs = {
            "source": self.sources[0] if source is None else source,
            "target": target,
            "n_sd": self.n_sd[step],
            "probability": t.probability[step],
            "converted": t.converted(self.min_probability)[step],
        }
        return changed_adata(self.adata, self.model, t.rows, y, z, obs)


def changed_adata(
    adata: AnnData, model: Model, rows: np.ndarray, y: np.ndarray, z: np.ndarray, obs: dict[str, object]
) -> AnnData:
    """Return cells of ``adata`` with other expression, in the shape of every AnnData of ours."""
    import anndata as ad

    from diffvae import pp
    from diffvae.tl._tsne import tsne_transform

    features = model.features
    x = y
    var = pd.DataFrame(index=model.gene_names)
    if features.minimum is not None and features.maximum is not None:
        x = pp.from_unit(y, features.minimum, features.maximum).astype(np.float32)
        var[_keys.UNIT_MIN], var[_keys.UNIT_MAX] = features.minimum, features.maximum
    names = adata.obs_names.to_numpy()[rows]
    frame = pd.DataFrame({"cell": names, **obs}, index=[f"{n}_changed" for n in names])
    found = ad.AnnData(x, obs=frame, var=var, obsm={_keys.LATENT: z})
    if features.layer is not None:
        found.layers[features.layer] = y.astype(np.float32)
    map_ = adata.uns.get(_keys.UNS, {}).get("tsne", {})
    if _keys.TSNE in adata.obsm and map_.get("use_rep") == _keys.LATENT and len(rows):
        found.obsm[_keys.TSNE] = tsne_transform(adata, z)
    return found
