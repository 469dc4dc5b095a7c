"""The whole analysis in one call, and further analyses of an existing result."""

from diffvae.pipeline._identify import identify, identify_again
from diffvae.pipeline._links import Links, links
from diffvae.pipeline._perturb import Changes, perturb
from diffvae.pipeline._result import Result
from diffvae.pipeline._run import run

__all__ = ["Changes", "Links", "Result", "identify", "identify_again", "links", "perturb", "run"]
