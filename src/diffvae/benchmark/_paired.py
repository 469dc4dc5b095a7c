"""Name under which other modules import :func:`compare`."""

from diffvae.benchmark._statistics import compare as compare
