"""The configuration of a run: its arguments, checked before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffvae import _keys
from diffvae._core.io import folders
from diffvae._core.io.folders import CheckpointPaths
from diffvae._core.validate import check
from diffvae.pipeline import _settings
from diffvae.pipeline._checks import RULES, check_identification
from diffvae.pipeline._settings import Config
from diffvae.pipeline._targets import one_or_several

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae._core.io.backed import OnDisk

NOT_PARAMETERS = ("data", "out", "progress", "overwrite", "backed", "subsample", "checkpoint_every", "resume", "n_jobs")
"""Arguments that do not change the result, or that have a place of their own in its summary."""
TRAINED_WITH = ("preset", "n_latent", "max_epochs", "batch_size", "lr", "patience")
"""Arguments that take precedence over the same settings of ``config``."""


@dataclass
class RunConfig:
    """The arguments of :func:`diffvae.pipeline.run`, with the same names.

    Attributes
    ----------
    model, training
        The untrained model, and the arguments of its ``train``.
    checkpoints
        The checkpoints beside the output folder.
    """

    data: AnnData | OnDisk | None
    out: str | PathLike[str] | None
    backed: bool | None
    subsample: int
    label_key: str | None
    markers: Any
    transpose: bool | None
    layer: str | None
    use_raw: bool
    gene_symbols: str | None
    genome: str | None
    values: str | None
    min_genes: int | None
    n_top_genes: int | None
    batch_key: str | None
    covariates: Sequence[str] | None
    config: Config | None
    preset: str | None
    n_latent: int | None
    max_epochs: int | None
    batch_size: int | None
    lr: float | None
    patience: int | None
    n_clusters: int | str
    cluster_method: str
    cluster_on: str
    n_dims: int
    n_genes: int
    source: str | Sequence[str] | None
    target: Sequence[str] | None
    earlier: Sequence[str] | None
    min_core: float | None
    links: bool
    k: int | None
    n_jobs: int | None
    device: str
    precision: str
    seed: int
    overwrite: bool
    checkpoint_every: int | None
    resume: bool
    progress: bool

    def __post_init__(self) -> None:
        check_identification(**self.identification)
        check(RULES, k=self.k, n_jobs=self.n_jobs, values=self.values, use_raw=self.use_raw, min_genes=self.min_genes)
        if self.data is None and self.transpose:
            raise ValueError("transpose is True, but the bundled data have cells in rows; leave it out or name a file.")
        self.refuse_contradictions()
        if self.out is not None:
            folders.refuse_folder(Path(self.out).expanduser().resolve(), self.overwrite)
        self.checkpoints = CheckpointPaths(self.out, self.checkpoint_every, self.resume, self.overwrite)
        given = {name: getattr(self, name) for name in TRAINED_WITH}
        self._settings = _settings.read(self.config) | {k: v for k, v in given.items() if v is not None}
        self.model = _settings.model_of(self._settings)
        patience, max_epochs = self._settings.get("patience"), self._settings.get("max_epochs")
        _settings.refuse_idle_patience(patience, max_epochs, self._settings.get("early_stopping"))
        self.training = {"batch_size": self.model.config.batch_size} | _settings.training_of(self._settings)
        self.covariates = list(self.covariates or ())
        for name, types in (("target", self.target), ("earlier", self.earlier)):
            if isinstance(types, str):
                raise ValueError(f"{name} is a list of types; write [{types!r}], not {types!r}.")
        self.earlier = list(dict.fromkeys(self.earlier or ()))
        self.source = None if self.source is None else one_or_several(self.source)
        if self.data is None and self.label_key is None:
            self.label_key = _keys.LABEL

    def refuse_contradictions(self) -> None:
        """Refuse pairs of arguments that ask for two things at once."""
        if self.use_raw and self.layer is not None:
            raise ValueError(
                f"use_raw is True, but layer is {self.layer!r}: adata.raw has no layers; give one of both."
            )
        if self.data is None:
            for name, value, why in (
                ("use_raw", self.use_raw or None, "have no adata.raw"),
                ("layer", self.layer, "have no layers"),
                ("gene_symbols", self.gene_symbols, "are named by symbol"),
                ("genome", self.genome, "are of one species"),
                ("values", self.values if self.values != "counts" else None, "are counts"),
            ):
                if value is not None:
                    raise ValueError(f"{name} is {value!r}, but the bundled data {why}; leave it out or name a file.")
        if self.label_key is not None and self.label_key in (self.batch_key, *(self.covariates or ())):
            other = "batch_key" if self.label_key == self.batch_key else "a covariate"
            raise ValueError(
                f"label_key is {self.label_key!r}, and {other} as well: the model would remove the very types; "
                "name another column."
            )

    @property
    def identification(self) -> dict[str, Any]:
        """Arguments of :func:`diffvae.pipeline.identify`."""
        names = ("markers", "n_clusters", "cluster_method", "cluster_on", "n_dims", "n_genes", "seed")
        return {name: getattr(self, name) for name in names}

    @property
    def preparation(self) -> dict[str, Any]:
        """Arguments of :func:`diffvae.pp.prepare` that prepared cells must have been prepared with."""
        return {name: getattr(self, name) for name in ("n_top_genes", "layer", "batch_key")} | {"kind": self.values}

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of ``obs`` that the model sees."""
        return {"batch_key": self.batch_key, "covariates": self.covariates}

    @property
    def parameters(self) -> dict[str, Any]:
        """The arguments as the summary has them: those left at None are replaced by what the training used."""
        names = [name for name in self.__dataclass_fields__ if name not in NOT_PARAMETERS]
        parameters = {name: getattr(self, name) for name in names}
        parameters |= {name: self._settings.get(name) for name in TRAINED_WITH} | self.training
        parameters |= {"preset": self.model.preset, "n_latent": self.model.n_latent}
        return parameters | {"config": str(self.config) if isinstance(self.config, str | PathLike) else self.config}
