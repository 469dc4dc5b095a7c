"""Old place of names of :mod:`diffvae.pl._style`."""

from diffvae.pl._style import CATEGORIES, GREY, INK

__all__ = ["CATEGORIES", "GREY", "INK"]
