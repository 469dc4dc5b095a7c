"""Old place of names of :mod:`diffvae.pl._style`."""

from diffvae.pl._style import array, finish, new_figure

__all__ = ["array", "finish", "new_figure"]
