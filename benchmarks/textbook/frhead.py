"""FR-Head's network is CTR-GCN's; its head takes part in training only."""

from textbook.ctrgcn import forward

__all__ = ["forward"]
