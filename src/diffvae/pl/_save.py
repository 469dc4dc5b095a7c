"""Figures to files."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkstemp

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffvae.pl._style import styled

# Dates and random ids would make two files of one figure differ.
_DATELESS = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "ps": {"CreationDate": None},
    "eps": {},
    "png": {},
}


@styled
def save(
    figure: Axes | Figure,
    path: str | os.PathLike[str],
    *,
    formats: Sequence[str] = ("png", "svg"),
    dpi: float = 200,
) -> list[Path]:
    """Write a figure, one file per format, and close it.

    The same figure gives the same bytes (no dates, no random ids). Files are there as a whole or not at all:
    they are written beside their places and then moved there.

    Parameters
    ----------
    figure
        The figure, or any Axes in it.
    path
        Path without a suffix; its folder is made.
    formats
        Of "png", "svg", "pdf", "ps", "eps".
    dpi
        Resolution of png files and of the dots (which are pixels in all files). In svg and pdf files text is
        outlines, so that it looks the same on every machine.

    Returns
    -------
    The files.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> import diffvae as dv
    >>> ax = dv.pl.history(pd.DataFrame({"train_loss": [3.0, 2.0]}))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [file.name for file in dv.pl.save(ax, f"{folder}/loss")]
    ['loss.png', 'loss.svg']
    """
    drawn = figure.figure.figure if isinstance(figure, Axes) else figure
    if not isinstance(drawn, Figure):
        raise ValueError(f"figure is a {type(figure).__name__}; give a matplotlib Axes or Figure.")
    formats = [formats] if isinstance(formats, str) else list(formats)
    wrong = [f for f in formats if f not in _DATELESS]
    if wrong or not formats:
        raise ValueError(f"formats has {wrong or 'nothing'}; give some of {', '.join(_DATELESS)}.")
    path = Path(path)
    if path.suffix.lstrip(".") in _DATELESS:
        raise ValueError(f"path is {str(path)!r}; give it without a suffix, and the suffix in formats.")
    path.parent.mkdir(parents=True, exist_ok=True)

    done: dict[Path, Path] = {}
    try:
        for kind in formats:
            handle, name = mkstemp(prefix=f".{path.name}-", suffix=f".{kind}", dir=path.parent)
            os.close(handle)
            done[path.with_name(f"{path.name}.{kind}")] = temporary = Path(name)
            with rc_context({"svg.hashsalt": "diffvae", "svg.fonttype": "path", "pdf.fonttype": 42}):
                drawn.savefig(temporary, format=kind, dpi=dpi, bbox_inches="tight", metadata=_DATELESS[kind])
            os.chmod(temporary, 0o666 & ~_umask())
        for target, temporary in done.items():
            os.replace(temporary, target)
    finally:
        for temporary in done.values():
            temporary.unlink(missing_ok=True)
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close(drawn)
    return list(done)


def _umask() -> int:
    """Return the mask that ordinary files are made with; mkstemp's are for their owner alone."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
