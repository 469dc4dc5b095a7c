"""Figures. Every function returns the Axes that it draws into.

Functions of one panel draw into the argument ``ax``, or into a new figure 6 inches wide (half a slide); functions of
several panels always make a new figure. Text is 9 points or larger.

As in scanpy, ``show=True`` shows a figure and ``save="path"`` writes it to a file and closes it. Otherwise a new figure
is the current one of pyplot: ``pyplot.savefig`` and ``pyplot.show`` find it, and a notebook shows it once, below its
cell. It stays open until ``pyplot.close`` or ``diffvae.pl.save(ax, "path")``. Runs and comparisons write their figures
apart from pyplot, and need no display.

rcParams stay unchanged: the style applies only while a function draws. A category has the same colour in all figures
that are coloured by the same column.
"""

from diffvae.pl._adjacency import adjacency
from diffvae.pl._commitment import commitment
from diffvae.pl._comparison import method_differences, method_scores
from diffvae.pl._conversion import conversion_curves, conversions, converted, plasticity
from diffvae.pl._dimensions import dimension_composition, latent_dimensions
from diffvae.pl._fates import fates
from diffvae.pl._genes import gene_heatmap
from diffvae.pl._history import history
from diffvae.pl._integration import integration
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
    "fates",
    "gene_counts",
    "gene_heatmap",
    "history",
    "importance",
    "integration",
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
