"""``diffvae report``: a result folder as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffvae.cli import _console
from diffvae.cli import _options as o

NAME = "report"
EXAMPLES = (
    "diffvae report results",
    "diffvae report results --out for_a_colleague.html",
    "diffvae report compared   (a folder that 'diffvae benchmark' wrote)",
)


def command(
    result: Annotated[
        Path, typer.Argument(help="Folder that 'diffvae run' or 'diffvae benchmark' wrote.", callback=o.existing)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="HTML file to write. Default: RESULT/report.html.")
    ] = None,
) -> None:
    """Write a result as one HTML page that opens in any browser and needs no network.

    The page shows cell types, perturbations, links, and a comparison in RESULT/benchmark, as far as the result has
    them. 'diffvae run', 'perturb' and 'links' write it as well.
    """
    from diffvae import report

    _console.say(f"Written to {report.write(result, out)}; open it in a browser.")
