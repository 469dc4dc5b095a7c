"""Figures: Axes in, Axes out. Nothing is computed here but what is drawn.

Every function takes ``ax`` and draws into it; without one it makes a figure 6 inches wide (half a slide)
whose text is 9 points or more. It returns the Axes. A figure of our own isn't registered with pyplot: none
stays open, it works without a display, and a notebook shows it when the returned Axes are the last line of
a cell. Elsewhere use ``diffvae.pl.save(ax, "path")`` or ``ax.figure.savefig``; to see it in a window, make
the Axes with ``pyplot.subplots(layout="constrained")`` and hand them in.

rcParams are left as they are: one style is applied while a function draws. A category keeps its colour in
all figures that are coloured by the same column.
"""

from diffvae.pl._adjacency import adjacency
from diffvae.pl._commitment import commitment
from diffvae.pl._comparison import method_scores
from diffvae.pl._conversion import conversion_curves, conversions, converted
from diffvae.pl._differences import method_differences
from diffvae.pl._dimensions import dimension_composition, latent_dimensions
from diffvae.pl._genes import gene_heatmap
from diffvae.pl._history import history
from diffvae.pl._link_table import link_table
from diffvae.pl._links import links
from diffvae.pl._minimal_genes import gene_counts, minimal_genes
from diffvae.pl._overlap import overlap
from diffvae.pl._passport import passport
from diffvae.pl._plasticity import plasticity
from diffvae.pl._save import save
from diffvae.pl._stability import stability
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
