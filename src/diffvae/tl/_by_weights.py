"""Naming clusters by the genes of large decoder weight, the paper's own way."""

from __future__ import annotations

import pandas as pd
from scipy.stats import false_discovery_control, hypergeom

from diffvae import _keys
from diffvae.tl._marker_tables import match_genes

COLUMNS = ["by_weights", "by_weights_q", "by_weights_genes"]


def name_by_weights(
    high_weight: pd.DataFrame | None,
    markers: pd.DataFrame | None,
    names: pd.Index,
    symbols: pd.Index,
    groups: list[str],
    *,
    ranking: str = "weights",
    min_genes: int,
    max_q: float,
) -> pd.DataFrame:
    """Name groups by the overlap of their high-weight genes with markers.

    Hypergeometric test: of ``len(names)`` genes, those "up" in the group by the decoder's weights are drawn, if the
    cells themselves have more of them there (``confirmed``), and those among the type's markers counted;
    Benjamini-Hochberg over groups and types.

    Parameters
    ----------
    high_weight
        ``uns["diffvae"]["high_weight_genes"]``, or None if there is none.
    markers
        Table of markers as in :func:`load_markers`, or None if no table fits.
    names, symbols
        The genes that the model saw, as ``high_weight`` and as the markers name them.
    groups
        Groups to name.
    ranking
        Which ranking of genes to read: ``"weights"`` is the paper's.
    min_genes
        Markers that a type needs among ``names``.
    max_q
        Largest q-value that names a group.

    Returns
    -------
    By group: ``by_weights`` ("" where there are no high-weight genes for it), ``by_weights_q`` and
    ``by_weights_genes`` (the genes in common).
    """
    out = pd.DataFrame({"by_weights": "", "by_weights_q": float("nan"), "by_weights_genes": ""}, index=groups)
    if high_weight is None or markers is None:
        return out
    chosen = high_weight[
        (high_weight["ranking"] == ranking)
        & (high_weight["direction"] == "up")
        & high_weight["confirmed"].astype(bool)
        & high_weight["group"].astype(str).isin(groups)
    ]
    up = markers[markers["direction"] == "up"]
    position = match_genes(up["gene"], symbols)
    up = up.assign(found=names.to_numpy()[position.to_numpy()])[position >= 0]
    sets = {t: set(genes) for t, genes in up.groupby("cell_type", sort=False)["found"]}
    sets = {t: genes for t, genes in sets.items() if len(genes) >= min_genes}
    tests = []
    for group, rows in chosen.groupby(chosen["group"].astype(str), sort=False):
        drawn = [gene for gene in dict.fromkeys(rows["gene"].astype(str)) if gene in names]
        for cell_type, genes in sets.items():
            common = [gene for gene in drawn if gene in genes]
            p_value = hypergeom.sf(len(common) - 1, len(names), len(genes), len(drawn))
            tests.append((group, cell_type, p_value, ",".join(common)))
    if not tests:
        return out
    table = pd.DataFrame(tests, columns=["group", "cell_type", "p_value", "genes"])
    table["q_value"] = false_discovery_control(table["p_value"])
    best = table.loc[table.groupby("group")["p_value"].idxmin()].set_index("group")
    out.loc[best.index, "by_weights"] = best["cell_type"].where(best["q_value"] <= max_q, _keys.UNASSIGNED)
    out.loc[best.index, "by_weights_q"] = best["q_value"]
    out.loc[best.index, "by_weights_genes"] = best["genes"]
    return out


def disagreement(annotation: pd.DataFrame) -> str | None:
    """Say in how many clusters the two names agree; None where they agree in all, or none has both."""
    both = annotation["agree"].dropna()
    if both.all():
        return None
    return (
        f"Names by decoder weights agree with names by expression in {both.sum()} of {len(both)} clusters that have "
        "both; trust those by expression."
    )
