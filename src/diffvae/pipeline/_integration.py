"""Scores of integration as a step of a run: both sides, beside PCA without integration."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from diffvae import tl
from diffvae._core.anndata import result, results
from diffvae._core.runtime import StepLog
from diffvae._errors import DataError
from diffvae.pipeline._folder import Verdict, sentences
from diffvae.tl._integration import KEPT, MIXED

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from diffvae.model import Model

LOST = 0.02
"""Loss of kNN purity from which types count as lost."""

VERDICT: Verdict = (
    (
        lambda n: n["mixed"] <= n["mixed_pca"],
        "The batches are not mixed better than without integration: the mean score is {mixed:.2f}, and {mixed_pca:.2f} "
        "for PCA.",
    ),
    (
        lambda n: "purity" not in n,
        "Without label_key nobody knows whether the types were kept; a high mixing alone says little.",
    ),
    (
        lambda n: n.get("purity_pca", 0.0) - n.get("purity", 0.0) > LOST,
        "Types are kept less well than by PCA without integration: kNN purity is {purity:.2f}, and {purity_pca:.2f} "
        "for PCA. The cause is the integration or the model; a run without batch_key tells which.",
    ),
)
"""Conditions on the scores, and the sentences that they add."""


def measure(adata: AnnData, model: Model, label_key: str | None, seed: int, log: StepLog) -> dict[str, Any] | None:
    """Measure integration as a step of a run, and return its entry of the summary; None without batches."""
    results(adata).pop("integration", None)  # of an earlier run
    batch_key = model.columns.get("batch_key")
    if batch_key is None or batch_key not in adata.obs:
        return None
    with log.step("score integration against PCA"):
        try:
            table = tl.integration(adata, batch_key, label_key=label_key, rng=seed)
        except DataError as error:  # no two batches of enough cells
            log.warnings.append(f"Integration was not measured: {error}")
            return None
    about: dict[str, Any] = result(adata, "integration")["params"]
    return about | {"scores": json.loads(table.to_json(orient="records")), "verdict": verdict(table)}


def verdict(table: pd.DataFrame) -> list[str]:
    """Say if the batches are not mixed better, if types were lost, or if nobody knows.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = [(MIXED, "iLISI", 0.5, 0.4, 0.9), (KEPT, "kNN purity", 0.9, 0.9, 0.1)]
    >>> verdict(pd.DataFrame(rows, columns=["side", "score", "pca", "latent", "permuted"]))
    ['The batches are not mixed better than without integration: the mean score is 0.40, and 0.50 for PCA.']
    """
    mixed = table.loc[table["side"] == MIXED, ["pca", "latent"]].mean()
    numbers = {"mixed": mixed["latent"], "mixed_pca": mixed["pca"]}
    purity = table[(table["side"] == KEPT) & (table["score"] == "kNN purity")]
    if len(purity):
        numbers |= {"purity": purity["latent"].item(), "purity_pca": purity["pca"].item()}
    return sentences(VERDICT, numbers)
