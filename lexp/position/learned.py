"""Learned absolute position embeddings (Radford et al. 2019, GPT-2).

x_t + P[t],  P a trained table with one row per trained position
"""

import torch
from torch import Tensor, nn

from lexp.position.base import Position


class Learned(Position):
    """One trained vector per position; nothing is defined past the last row of the table.

    max_len: rows of the table, normally the trained length. d_model: width of the model.
    """

    shift_invariant = False
    two_sided = True

    def __init__(self, max_len: int, d_model: int):
        super().__init__()
        if max_len < 1:
            raise ValueError(f"learned positions need max_len >= 1, got {max_len}")
        self.max_len = max_len
        # 0.02 is GPT-2's initialisation, and that of our token embeddings.
        self.table = nn.Parameter(torch.randn(max_len, d_model) * 0.02)

    def embed(self, x: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
        """Add the table's rows; positions [T] or [B, T] must be below `max_len`."""
        return x + self.table[positions.long()]
