"""Name under which other modules import :func:`at`."""

from diffvae.benchmark._statistics import at as at
