"""The methods of a result as text for a paper, with the literature to cite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diffvae.report._encode import number

if TYPE_CHECKING:
    from diffvae.report._folder import Folder

LITERATURE = {
    "bica": "Bica et al. Unsupervised generative and graph representation learning for modelling cell differentiation. "
    "Sci. Rep. 10:9790 (2020).",
    "scanpy": "Wolf, Angerer, Theis. SCANPY: large-scale single-cell gene expression data analysis. Genome Biol. 19:15 "
    "(2018).",
    "leiden": "Traag, Waltman, van Eck. From Louvain to Leiden: guaranteeing well-connected communities. Sci. Rep. "
    "9:5233 (2019).",
    "tsne": "Poličar, Stražar, Zupan. openTSNE: a modular Python library for t-SNE dimensionality reduction and "
    "embedding. J. Stat. Softw. 109:3 (2024).",
    "graphite": "Grover, Zweig, Ermon. Graphite: iterative generative modeling of graphs. ICML (2019).",
    "cellrank": "Lange et al. CellRank for directed single-cell fate mapping. Nat. Methods 19:159 (2022).",
    "ledoit": "Ledoit, Wolf. A well-conditioned estimator for large-dimensional covariance matrices. J. Multivar. "
    "Anal. 88:365 (2004).",
}
NORMALISED = {
    "counts": "Counts were normalised to the median total of the cells and log-transformed",
    "normalised": "Normalised values were log-transformed",
    "log": "Log-normalised values were used as given",
}


def methods(folder: Folder, changes: Folder | None, links: Folder | None) -> tuple[list[str], list[str]]:
    """Return paragraphs that describe how the results were made, and the literature in the order of its numbers."""
    cited: list[str] = []

    def cite(*keys: str) -> str:
        cited.extend(key for key in keys if key not in cited)
        return "[" + ", ".join(str(cited.index(key) + 1) for key in keys) + "]"

    text = [_of_types(folder.summary, cite)]
    if changes is not None:
        text.append(_of_changes(changes.summary["parameters"]))
    if links is not None:
        text.append(_of_links(links.summary, cite))
        if links.summary.get("calls"):
            text.append(_of_fates(links.summary["parameters"], cite))
    return text, [LITERATURE[key] for key in cited]


def _of_types(summary: Mapping[str, Any], cite: Any) -> str:
    p, clusters = summary["parameters"], len(summary["clusters"])
    batch = f" with the batches in {p['batch_key']}" if p.get("batch_key") else ""
    said = [
        f"Cells were analysed with diffvae {summary['versions']['diffvae']} {cite('bica')} (seed {p['seed']}).",
        f"{NORMALISED.get(summary['kind'], 'Expression was used as given')}, and {_genes(summary)} {cite('scanpy')}.",
        f"DiffVAE, a variational autoencoder with a maximum mean discrepancy term, was trained{batch} with "
        f"{p['n_latent']} latent dimensions (preset {p['preset']}).",
    ]
    if p["cluster_method"] == "leiden":
        space = "the latent space" if p["cluster_on"] == "latent" else "the t-SNE map"
        said.append(f"Leiden clustering {cite('leiden')} of {space} gave {clusters} clusters.")
    else:
        said.append(f"Clustering ({p['cluster_method']}) gave {clusters} clusters.")
    said.append(f"The map is a t-SNE of the latent space {cite('tsne')}.")
    if summary.get("markers"):
        said.append(
            f"Clusters were named by the marker table {summary['markers']}, with random genes of the same expression "
            "as the null."
        )
    return " ".join(said)


def _genes(summary: Mapping[str, Any]) -> str:
    kept = number(summary["n_genes_kept"])
    return (
        f"all {kept} genes were used"
        if summary["n_genes_kept"] == summary["n_genes"]
        else f"{kept} variable genes were kept"
    )


def _of_changes(p: Mapping[str, Any]) -> str:
    sources = [p["source"]] if isinstance(p["source"], str) else list(p["source"])
    return (
        f"Cells of {_names(sources)} were moved through the latent space towards other types (method {p['method']}) "
        "and decoded. A neural classifier, a logistic regression and the nearest real cells named the result; "
        f"{p['n_random']} random directions with the same change of expression served as the null. Minimal gene sets "
        "were searched per cell on measured expression and compared with differentially expressed and random genes."
    )


def _of_links(summary: Mapping[str, Any], cite: Any) -> str:
    p, graph = summary["parameters"], summary["graph"]
    similar = "Pearson's correlation" if graph.get("metric") == "pearson" else "cosine of 50 principal components"
    return (
        f"Each cell was joined to its {graph.get('k', p['k'])} nearest cells ({similar}). Graph-DiffVAE {cite('bica')} "
        f"with the Graphite decoder {cite('graphite')} was trained on this graph with a tenth of the edges hidden. "
        "Link probabilities were fitted to these edges by isotonic regression. Links between types were compared with "
        "random graphs of the same degrees."
    )


def _of_fates(p: Mapping[str, Any], cite: Any) -> str:
    earlier = f" Types upstream of them were {_names(p['earlier'])}." if p.get("earlier") else ""
    later = f" Later types were {_names(p['target'])}." if p.get("target") else ""
    return (
        f"Fates of {p['source']} cells are absorption probabilities of random walks {cite('cellrank')} on the graph of "
        f"30 nearest cells in principal components that were whitened within types {cite('ledoit')}, with standard "
        f"errors from bootstraps of the cells. Committed cells were called by a mixture of an uncommitted core and "
        f"paths to other types, at an expected share of false calls of at most 10 %.{earlier}{later}"
    )


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
