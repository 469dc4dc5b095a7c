"""Scores: arrays in, numbers out."""

from diffvae.metrics._alignment import best_dimensions, dimension_alignment, dimension_auc
from diffvae.metrics._disentanglement import DCI, dci, mutual_information_gap
from diffvae.metrics._integration import (
    IsolatedTypes,
    batch_r2,
    batch_silhouette,
    ilisi,
    integration,
    isolated_types,
    kbet_acceptance,
)
from diffvae.metrics._links import expected_calibration_error, link_auc, link_average_precision
from diffvae.metrics._neighbourhood import knn_purity, silhouette
from diffvae.metrics._partition import (
    ExpectedOverlap,
    Overlap,
    adjusted_rand_index,
    expected_overlap,
    normalized_mutual_info,
    overlap,
)
from diffvae.metrics._realism import realism
from diffvae.metrics._reconstruction import active_dimensions, reconstruction_r2

__all__ = [
    "DCI",
    "ExpectedOverlap",
    "IsolatedTypes",
    "Overlap",
    "active_dimensions",
    "adjusted_rand_index",
    "batch_r2",
    "batch_silhouette",
    "best_dimensions",
    "dci",
    "dimension_alignment",
    "dimension_auc",
    "expected_calibration_error",
    "expected_overlap",
    "ilisi",
    "integration",
    "isolated_types",
    "kbet_acceptance",
    "knn_purity",
    "link_auc",
    "link_average_precision",
    "mutual_information_gap",
    "normalized_mutual_info",
    "overlap",
    "realism",
    "reconstruction_r2",
    "silhouette",
]
