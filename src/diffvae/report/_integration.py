"""Section "Integration": both sides, and the cells coloured by batch beside those coloured by type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffvae import _keys

if TYPE_CHECKING:
    from anndata import AnnData


def data(summary: Mapping[str, Any], adata: AnnData) -> dict[str, Any] | None:
    """Return the scores by side, and the two columns that colour the cells; None without integration."""
    integration = summary.get("integration")
    if integration is None:
        return None
    sides: dict[str, list[dict[str, Any]]] = {}
    for row in integration["scores"]:
        sides.setdefault(row["side"], []).append(row)
    named = (adata.obs[_keys.CELL_TYPE].astype(str) != _keys.UNASSIGNED).any()
    types = summary["parameters"]["label_key"] or (_keys.CELL_TYPE if named else _keys.CLUSTER)
    colours = [key for key in (integration["batch_key"], types) if key in adata.obs]
    return {"sides": [{"title": title, "rows": rows} for title, rows in sides.items()], "colours": colours}
