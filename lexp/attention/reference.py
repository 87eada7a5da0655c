"""The specification: attention as one dense formula, in the precision of its inputs.

Every faster path is tested against this one, values and gradients, in float64. O(T^2) memory.
"""

import math

import torch
from torch import Tensor

from lexp.attention.rotate import rotate
from lexp.pattern import Pattern
from lexp.position import Position
from lexp.position.base import Pair


class Reference:
    """softmax over allowed j of (rotated q_i . rotated k_j / sqrt(d) + bias(i, j)), times v."""

    def __init__(self, pattern: Pattern, seq_len: int, position: Position, device: torch.device):
        index = torch.arange(seq_len, device=device)
        self.allowed = pattern.allowed(index[:, None], index[None, :])
        self.positions = index.double()
        self.factors = position.factors(self.positions, self.positions)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, position: Position, x: Tensor) -> Tensor:
        """q, k, v [B, H, T, D], the layer's input x [B, T, d_model]; the output [B, H, T, D]."""
        if self.factors is not None:
            q, k = rotate(q, self.factors[0]), rotate(k, self.factors[1])
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        bias = position.bias(x)
        if bias is not None:
            batch = torch.arange(q.shape[0], device=q.device)[:, None, None, None]
            heads = torch.arange(q.shape[1], device=q.device)[:, None, None]
            index = self.positions.long()
            pos = self.positions.to(q.dtype)
            grid = Pair(batch, heads, index[:, None], index[None, :], pos[:, None], pos[None, :])
            scores = scores + bias(grid)
        return scores.masked_fill(~self.allowed, -math.inf).softmax(-1) @ v
