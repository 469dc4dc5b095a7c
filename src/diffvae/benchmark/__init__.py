"""Proof: methods beside each other on what none of them has seen."""

from diffvae.benchmark._link_methods import link_methods
from diffvae.benchmark._links import link_summary, links

__all__ = ["link_methods", "link_summary", "links"]
