"""Proof: methods beside each other on what none of them has seen."""

from diffvae.benchmark._link_methods import LINK_METHODS
from diffvae.benchmark._links import link_summary, links

__all__ = ["LINK_METHODS", "link_summary", "links"]
