"""Name under which other modules import the principal components."""

from diffvae.benchmark._links import _pca as _pca
