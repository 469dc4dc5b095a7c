"""The last step of a run: what it found in one summary, and the folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _result
from diffvae._journal import Journal
from diffvae._result import Result
from diffvae._threads import versions

if TYPE_CHECKING:
    from anndata import AnnData

    from diffvae._atlas import Atlas
    from diffvae._changes import Changes
    from diffvae._linking import Links
    from diffvae.model import Model

GIVEN = "given in memory"
"""What a summary says of a parameter that is no plain value."""


def score(adata: AnnData, label_key: str | None, seed: int, journal: Journal) -> pd.DataFrame | None:
    """Score against the labels, where there are any."""
    if label_key is None:
        return None
    from diffvae import _scores

    with journal.step("score against labels and PCA"):
        return _scores.score(adata, label_key, rng=seed)


def finish(
    adata: AnnData,
    model: Model,
    about: dict[str, Any],
    parameters: dict[str, Any],
    journal: Journal,
    scores: pd.DataFrame | None,
    out: str | PathLike[str] | None,
    overwrite: bool,
    changes: Changes | None = None,
    links: Links | None = None,
    atlas: Atlas | None = None,
    *,
    command: str | None = None,
    placed: Callable[[], None] = lambda: None,
) -> Result:
    """Put the summary together and write the folder; ``placed`` is called when it is in its place."""
    from diffvae._scores import verdict

    clusters = _result.cluster_table(adata)
    if atlas is not None:
        clusters.insert(2, "n_all_cells", atlas.sizes)
        about = about | {"sample": atlas.about}
    stored = adata.uns[_keys.UNS]
    summary = about | {
        "command": command,
        "clusters": json.loads(clusters.to_json(orient="records")),
        "clustering": {k: _finite(v) for k, v in stored["cluster"].items() if not isinstance(v, pd.DataFrame)},
        "markers": stored["annotation_params"]["markers"],
        "scores": None if scores is None else json.loads(scores.to_json(orient="records")),
        "verdict": [] if scores is None else verdict(scores),
        "warnings": journal.warnings,
        "parameters": {k: v if _plain(v) else GIVEN for k, v in parameters.items() if k != "target"},
        "seconds": journal.seconds,
        "versions": versions(),
    }
    stored["run"] = {"source": about["source"], "seed": parameters["seed"], "version": summary["versions"]["diffvae"]}
    result = Result(adata, model, clusters, scores, summary, changes, links)
    if out is not None:
        journal.tell("write")
        label_key = parameters["label_key"]
        _result.write(result, out, label_key=label_key, overwrite=overwrite, atlas=atlas, placed=placed)
    return result


def _finite(value: Any) -> Any:
    """Return None for NaN, which JSON can't say."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
