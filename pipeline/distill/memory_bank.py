"""The memory bank (queue): the K embeddings that queries are compared with, first in, first out."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MemoryBank(nn.Module):
    """K rows of D features, filled with noise at first (MoCo, He et al. 2020, published code)."""

    rows: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int) -> None:
        """Draw K rows uniformly in plus or minus 1 / sqrt(D / 3), from torch's generator."""
        super().__init__()
        bound = (dim / 3) ** -0.5
        self.register_buffer("rows", torch.empty(size, dim).uniform_(-bound, bound))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def similarities(self, queries: Tensor) -> Tensor:
        """Dot products (B, K) of queries (B, D) with all rows, as the bank stands now.

        Enqueue only after the backward pass: it needs the rows that the queries met.
        """
        return queries @ self.rows.T

    @torch.no_grad()
    def enqueue(self, embeddings: Tensor) -> None:
        """Put a batch (B, D) in place of the oldest rows, wrapping round at the end."""
        size = len(self.rows)
        newest = embeddings[-size:]
        first = self.position + len(embeddings) - len(newest)
        places = (first + torch.arange(len(newest), device=self.rows.device)) % size
        self.rows[places] = newest.to(self.rows.dtype)
        self.position.copy_((self.position + len(embeddings)) % size)
