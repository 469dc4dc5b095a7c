"""One page with the whole story: a file that opens from disk, anywhere, and asks nothing of the network."""

from diffvae.report._page import page, write

__all__ = ["page", "write"]
