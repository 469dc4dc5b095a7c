"""Figures: every function draws into Axes and returns them.

Every function takes ``ax`` and draws into it; without one it makes a figure 6 inches wide (half a slide) whose text is
9 points or larger. New figures aren't registered with pyplot, so none stays open and no display is needed; a notebook
shows a figure if the returned Axes are the last line of a cell. Elsewhere use ``diffvae.pl.save(ax, "path")`` or
``ax.figure.savefig``; to see it in a window, draw into Axes of
``pyplot.subplots(layout="constrained")``.

rcParams stay unchanged: the style holds only while a function draws. A category has the same colour in all figures that
are coloured by the same column.
"""

from diffvae.pl._adjacency import adjacency
from diffvae.pl._commitment import commitment
from diffvae.pl._comparison import method_differences, method_scores
from diffvae.pl._conversion import conversion_curves, conversions, converted, plasticity
from diffvae.pl._dimensions import dimension_composition, latent_dimensions
from diffvae.pl._genes import gene_heatmap
from diffvae.pl._history import history
from diffvae.pl._links import link_table, links
from diffvae.pl._minimal_genes import gene_counts, minimal_genes
from diffvae.pl._overlap import overlap
from diffvae.pl._passport import passport
from diffvae.pl._stability import stability
from diffvae.pl._style import save
from diffvae.pl._tsne import tsne
from diffvae.pl._tune import importance, tuning

__all__ = [
    "adjacency",
    "commitment",
    "conversion_curves",
    "conversions",
    "converted",
    "dimension_composition",
    "gene_counts",
    "gene_heatmap",
    "history",
    "importance",
    "latent_dimensions",
    "link_table",
    "links",
    "method_differences",
    "method_scores",
    "minimal_genes",
    "overlap",
    "passport",
    "plasticity",
    "save",
    "stability",
    "tsne",
    "tuning",
]
