"""``diffvae datasets``: data sets to try."""

from __future__ import annotations

from diffvae.cli import _console

NAME = "datasets"
EXAMPLES = ("diffvae datasets",)


def command() -> None:
    """List the data sets that diffvae can load by name, and their sources."""
    from diffvae import datasets

    listed = datasets.list_datasets()
    _console.table("Data sets (diffvae.datasets)", list(listed.columns), listed.itertuples(index=False))
