"""Equations as MathML, which browsers render without scripts and downloads."""

from __future__ import annotations

import html
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx


def drawn(latex: str, *, block: bool) -> str:
    r"""Return an equation as MathML.

    Examples
    --------
    >>> "<mfrac>" in drawn(r"\frac{1}{N}", block=False)
    True
    """
    return str(convert(latex, display="block" if block else "inline"))


def inline(self: Any, node: nodes.math) -> None:
    """Write an equation within a sentence."""
    self.body.append(f'<span class="math">{drawn(node.astext(), block=False)}</span>')
    raise nodes.SkipNode


def display(self: Any, node: nodes.math_block) -> None:
    """Write a display equation, with its LaTeX source for screen readers."""
    latex = node.astext()
    equation = drawn(latex, block=True)
    self.body.append(f'<div class="math" role="math" aria-label="{html.escape(latex)}">{equation}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer with Sphinx."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
