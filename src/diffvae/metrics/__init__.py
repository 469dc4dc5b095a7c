"""Scores: arrays in, numbers out."""

from diffvae.metrics._links import expected_calibration_error, link_auc, link_average_precision
from diffvae.metrics._neighbourhood import knn_purity, silhouette
from diffvae.metrics._overlap import ExpectedOverlap, Overlap, expected_overlap, overlap
from diffvae.metrics._partition import adjusted_rand_index, normalized_mutual_info

__all__ = [
    "ExpectedOverlap",
    "Overlap",
    "adjusted_rand_index",
    "expected_calibration_error",
    "expected_overlap",
    "knn_purity",
    "link_auc",
    "link_average_precision",
    "normalized_mutual_info",
    "overlap",
    "silhouette",
]
