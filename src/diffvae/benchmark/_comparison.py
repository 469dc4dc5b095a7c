"""What a benchmark found: every run in one table, and what can be said of it."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from diffvae import _random
from diffvae._errors import DataError

if TYPE_CHECKING:
    from diffvae.benchmark._findings import Findings

REFERENCE = "DiffVAE"


@dataclass
class Comparison:
    """Result of :func:`diffvae.benchmark.run`.

    Attributes
    ----------
    table
        One row per run: ``dataset``, ``method``, ``n_latent``, ``seed`` (of the training), ``clustering_seed``,
        ``space``, ``clusterer``, ``k_given``, every measure, seconds and versions.
    types
        One row per run and reference type: ``type``, ``n_cells``, ``recall``, ``precision``.
    path
        The folder, if one was written.
    command
        The command or call that made it, which the report repeats.

    Examples
    --------
    >>> import diffvae as dv
    >>> cells = dv.datasets.simulate_differentiation(200, 200)
    >>> found = dv.benchmark.run({"tree": cells}, {"PCA": dv.model.PCA(), "again": dv.model.PCA()},
    ...     label_key="cell_type", n_latent=10, clusterers=["kmeans"], spaces=["latent"], metrics=["ari"],
    ...     n_trainings=2, n_clusterings=2, progress=False)
    >>> found.compare("PCA")[["method", "difference", "ties"]].values.tolist()
    [['again', 0.0, 1]]
    """

    table: pd.DataFrame
    types: pd.DataFrame
    path: Path | None = None
    command: str | None = None

    def summary(self, metric: str = "ari") -> pd.DataFrame:
        """Return mean and spread of a measure: :func:`diffvae.benchmark.summary` of the table."""
        from diffvae.benchmark._statistics import summary

        return summary(self.table, metric)

    def compare(self, reference: str | None = None, metric: str = "ari", **options: Any) -> pd.DataFrame:
        """Return paired differences between methods: :func:`diffvae.benchmark.compare` of the table.

        Without a reference it is DiffVAE, or the first method if DiffVAE isn't among them.
        """
        from diffvae.benchmark._paired import compare

        return compare(self.table, self._reference(reference), metric, **options)

    def report(self, reference: str | None = None, *, n_bootstrap: int = 2000, rng: _random.Rng = 0) -> str:
        """Return the report in Markdown: what was found in words, tables with spread, paired differences.

        Parameters
        ----------
        reference
            Method with which the others are compared; None for DiffVAE, or the first method if it isn't there.
        n_bootstrap
            Draws of each interval.
        rng
            Seed of the draws.
        """
        from diffvae.benchmark._report import report

        return report(self._findings(reference, n_bootstrap, rng), self.types, command=self.command)

    def write(
        self,
        path: str | PathLike[str] | None = None,
        *,
        overwrite: bool = False,
        reference: str | None = None,
        n_bootstrap: int = 2000,
        rng: _random.Rng = 0,
    ) -> Path:
        """Write the report, its tables and its figures into a folder, each file whole or not at all.

        ``report.md``, ``summary.json`` (what was found, versions), ``runs.csv``, ``types.csv``, ``summary.csv``,
        ``paired.csv``, ``paired_by_dataset.csv``, and ``figures`` as png and svg.

        Parameters
        ----------
        path
            Folder: a new one, an empty one, or the ``out`` of :func:`diffvae.benchmark.run`, whose finished pieces stay
            as they are. None for the one that the comparison came from.
        overwrite
            Replace an earlier report.
        reference, n_bootstrap, rng
            See :meth:`report`.

        Returns
        -------
        The folder.

        Raises
        ------
        OutputError
            Before anything is written, if the folder is not diffvae's or has a report already.
        """
        from diffvae.benchmark import _comparison_folder

        where = self.path if path is None else path
        if where is None:
            raise ValueError("The comparison has no folder; give the path of one.")
        found = self._findings(reference, n_bootstrap, rng)
        self.path = _comparison_folder.write(self, found, where, overwrite=overwrite)
        return self.path

    def main_settings(self) -> list[dict[str, Any]]:
        """Return the settings that a reader looks at first: k-means and Leiden on the latent, of 50 dimensions."""
        return self._findings(None, 1, 0).settings

    def _reference(self, reference: str | None) -> str:
        names = [str(name) for name in self.table["method"].unique()]
        if not names:
            raise DataError("The comparison has no runs: every training failed, and its warnings say why.")
        if reference is None:
            return REFERENCE if REFERENCE in names else names[0]
        if reference not in names:
            raise ValueError(f"reference is {reference!r}; the methods are {', '.join(map(repr, names))}.")
        return reference

    def _findings(self, reference: str | None, n_bootstrap: int, rng: _random.Rng) -> Findings:
        from diffvae.benchmark._bootstrap import Bootstrap
        from diffvae.benchmark._findings import Findings

        return Findings(self.table, self._reference(reference), Bootstrap(n_bootstrap, rng=rng))
