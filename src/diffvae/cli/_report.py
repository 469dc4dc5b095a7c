"""``diffvae report``: one page of what is in a result folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffvae.cli import _console

NAME = "report"
EXAMPLE = (
    "Examples:  diffvae report results   ·   diffvae report results --out for_a_colleague.html   ·   "
    "diffvae report compared   (a folder that 'diffvae benchmark' wrote)"
)


def command(
    result: Annotated[Path, typer.Argument(help="Folder that 'diffvae run' or 'diffvae benchmark' wrote.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File for the page; RESULT/report.html by default.")
    ] = None,
) -> None:
    """Write one page with the whole story: a file that opens in any browser and needs no network.

    Shows whatever is there: cell types, changed states, links, and a comparison in RESULT/benchmark. 'diffvae run',
    'perturb' and 'links' write it themselves.
    """
    from diffvae import report

    _console.say(f"Written to {report.write(result, out)}; open it in a browser.")
