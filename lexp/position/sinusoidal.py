"""Sinusoidal absolute positions (Vaswani et al. 2017, section 3.5).

    P[t, 2i] = sin(t / base^(2i/d)),  P[t, 2i+1] = cos(t / base^(2i/d))

As in section 3.4 of that paper the token embeddings are multiplied by sqrt(d_model) first:
ours start at standard deviation 0.02, and unscaled they would drown in waves of amplitude 1.
"""

import math

import torch
from torch import Tensor

from lexp.position.base import Position


class Sinusoidal(Position):
    """Fixed waves added to the token embeddings; defined at any position.

    d_model: width of the model, even. base: longest wavelength is 2 pi base.
    """

    shift_invariant = False
    two_sided = True

    def __init__(self, d_model: int, base: float = 10000.0):
        super().__init__()
        if d_model % 2:
            raise ValueError(f"sinusoidal positions need an even d_model, got {d_model}")
        self.d_model = d_model
        self.base = base

    def embed(self, x: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
        """Scale the embeddings and add the waves; angles in float64, exact at any position."""
        exponent = torch.arange(0, self.d_model, 2, dtype=torch.float64, device=positions.device)
        angle = positions.double()[..., None] * self.base ** (-exponent / self.d_model)
        waves = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)
        return x * math.sqrt(self.d_model) + waves.to(x.dtype)
