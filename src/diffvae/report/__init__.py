"""One HTML page of a result folder, which opens from disk and needs no network."""

from diffvae.report._page import page, write

__all__ = ["page", "write"]
