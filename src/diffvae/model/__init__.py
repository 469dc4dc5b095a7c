"""Models behind one protocol: ``train``, ``get_latent_representation``, ``decode``, ``sample``, ``save``, ``load``."""

from diffvae.model._autoencoders import VAE, AutoEncoder, DiffVAE
from diffvae.model._base import Model, load
from diffvae.model._calibration import Calibration
from diffvae.model._classifier import CellStateClassifier, Evaluation
from diffvae.model._diagnosis import Diagnosis
from diffvae.model._graph import GraphDiffVAE
from diffvae.model._neural import NeuralModel
from diffvae.model._pca import PCA

__all__ = [
    "PCA",
    "VAE",
    "AutoEncoder",
    "Calibration",
    "CellStateClassifier",
    "Diagnosis",
    "DiffVAE",
    "Evaluation",
    "GraphDiffVAE",
    "Model",
    "NeuralModel",
    "load",
]
