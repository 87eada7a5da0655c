"""Multiplication of query and key channel pairs by complex factors."""

import torch
from torch import Tensor


def rotate(x: Tensor, factors: Tensor) -> Tensor:
    """x [..., T, D] times complex factors [T, D/2] on adjacent channel pairs; keeps x's dtype.

    The product is taken in float32, or float64 for float64 inputs: bfloat16 tables would damage
    every position past 256.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)).contiguous())
    dtype = torch.complex128 if x.dtype == torch.float64 else torch.complex64
    return torch.view_as_real(pairs * factors.to(dtype)).flatten(-2).to(x.dtype)
