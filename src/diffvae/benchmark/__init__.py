"""Comparison of methods on held-out data: representations, predictors of links, stability, tuning, reproduction."""

from diffvae.benchmark._comparison import Comparison
from diffvae.benchmark._links import link_methods, link_summary, links
from diffvae.benchmark._methods import Method, configured, methods
from diffvae.benchmark._run import run
from diffvae.benchmark._statistics import compare, leave_one_out, summary
from diffvae.benchmark.reproduction._reproduce import Reproduction, reproduce
from diffvae.benchmark.stability._stability import Stability, stability
from diffvae.benchmark.tuning._tune import Tuned, tune

__all__ = [
    "Comparison",
    "Method",
    "Reproduction",
    "Stability",
    "Tuned",
    "compare",
    "configured",
    "leave_one_out",
    "link_methods",
    "link_summary",
    "links",
    "methods",
    "reproduce",
    "run",
    "stability",
    "summary",
    "tune",
]
