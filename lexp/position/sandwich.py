"""Sandwich (Chi et al. 2022, "Dissecting Transformer Length Extrapolation", arXiv 2212.10356).

    score(i, j) = q_i . k_j / sqrt(d) + (s(i - j) - dim/2) / (8 h / H),  heads h = 1 .. H
    s(delta) = sum_{k=1}^{dim/2} cos(delta / 10000^(2k/dim))

the inner product of two sinusoidal embeddings, zero at distance 0, decaying
about as -log. No parameters.
"""

import torch
from torch import Tensor

from lexp.position.base import Bias, Pair, Position


class Sandwich(Position):
    """A fixed penalty made of cosines, compressed more in later heads.

    dim: of the imagined sinusoidal embeddings, even; it sets the scale of the penalty.
    """

    relative = True
    two_sided = True
    by_distance = True
    reads_inputs = False

    def __init__(self, n_heads: int, dim: int = 128, base: float = 10000.0):
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"sandwich needs an even dim >= 2, got {dim}")
        self.n_heads, self.dim, self.base = n_heads, dim, base

    def bias(self, x: Tensor) -> Bias:
        """Return (sum of cosines - dim/2) / (8 h / H)."""

        def penalty(pair: Pair) -> Tensor:
            distance = pair.q_pos - pair.k_pos
            total = torch.full_like(distance, -self.dim / 2)
            for k in range(1, self.dim // 2 + 1):  # one term at a time: no [Q, K, dim/2] tensor
                total = total + (distance / self.base ** (2 * k / self.dim)).cos()
            return total * self.n_heads / (8 * (pair.h + 1))

        return penalty
