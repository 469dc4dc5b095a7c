"""How far predicted links can be believed, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffvae import _keys

if TYPE_CHECKING:
    from diffvae._linking import Links

MANY = 0.3
"""Share of the called links at a hundredth of the cells that is worth a remark."""


def verdict(found: Links) -> list[str]:
    """Say in words how far the links can be believed, and where a trivial way does as well."""
    links = found.summary["links"]
    said = [f"Trained on {links['scheme']}."]
    if "validation_auc" in links:
        auc, pearson = links["validation_auc"], links["pearson_auc"]
        said.append(
            f"Edges hidden from the training are told from other pairs with AUC {auc:.3f}; Pearson's correlation, of "
            f"which the graph was made, has {pearson:.3f}. Links measured independently are the fairer "
            "test: diffvae.benchmark.links."
        )
        said.append(
            f"At the threshold {links['threshold']:.2g}, {links['recall']:.0%} of the graph's edges are called, and "
            f"{links['precision']:.0%} of all called pairs are edges; of those that were no known edges, "
            f"{links['precision_unknown']:.1%} were hidden ones."
        )
    if links.get("hub_share", 0) > MANY:
        said.append(
            f"{links['hub_share']:.0%} of the called links touch the most linked hundredth of the cells "
            f"({links['hub_share_input']:.0%} in the graph that went in): popular cells, often the deepest sequenced. "
            "diffvae.pp.cell_graph makes a graph with fewer of them with mutual=True or use_rep='X_pca'."
        )
    if links["n_components"] > links["n_components_input"]:
        said.append(
            f"The predicted links fall into {links['n_components']} pieces, the graph that went in into "
            f"{links['n_components_input']}: a pseudotime along them reaches one piece only."
        )
    if found.types is not None and (found.types["graph"] == _keys.CALLED_LINKS).any():
        predicted = found.types[found.types["graph"] == _keys.CALLED_LINKS]
        across = predicted[predicted["type_1"] != predicted["type_2"]]
        linked = across[(across["q_value"] < 0.05) & (across["z"] > 0)].sort_values("z", ascending=False)
        names = ", ".join(f"{r.type_1} - {r.type_2}" for r in linked.head(8).itertuples()) or "none"
        names += f" and {len(linked) - 8} more" if len(linked) > 8 else ""
        said.append(f"Different types linked beyond chance (degrees kept, q < 0.05): {names}.")
    if found.commitment is not None:
        calls = found.commitment
        n, of = int((calls["call"] != "uncommitted").sum()), len(calls)
        raw = int((calls["call_pearson"] != "uncommitted").sum())
        either = calls[(calls["call"] != "uncommitted") | (calls["call_pearson"] != "uncommitted")]
        both = int((either["call"] == either["call_pearson"]).sum())
        said.append(
            f"{n} of {of} progenitors are linked to a mature type beyond chance, {raw} by their Pearson neighbours "
            f"alone; of {len(either)} that either calls, they agree on {both}. In simulations a third of such calls "
            "were right, and a tenth of progenitors without any fate were called."
        )
    return said
