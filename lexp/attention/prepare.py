"""Transforms of queries and keys before their product: content map, query scale, rotation."""

import torch
from torch import Tensor

from lexp.position import Position

Table = tuple[Tensor, Tensor] | None


def prepare(q: Tensor, k: Tensor, position: Position, n_keys: Tensor) -> tuple[Tensor, Tensor]:
    """Apply the scheme's content map and query scale; q and k [B, H, T, D], n_keys [T]."""
    q, k = position.transform_qk(q, k)
    scale = position.scale(n_keys)
    return (q if scale is None else (q * scale[..., None].to(q.device)).to(q.dtype)), k


def rotate(x: Tensor, factors: Tensor) -> Tensor:
    """Return x [..., T, D] times factors on adjacent channel pairs, in x's dtype.

    factors: complex numbers [T, D/2], or their parts [T, D/2, 2]. The product is taken in float32,
    or float64 for float64 inputs: bfloat16 tables would damage every position past 256.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    if torch.compiler.is_compiling():
        return rotate_by_parts(wide, factors).to(x.dtype)
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)).contiguous())
    dtype = torch.complex128 if x.dtype == torch.float64 else torch.complex64
    factors = factors if factors.is_complex() else torch.view_as_complex(factors)
    return torch.view_as_real(pairs * factors.to(dtype)).flatten(-2).to(x.dtype)


def rotate_by_parts(x: Tensor, factors: Tensor) -> Tensor:
    """Return the same in real numbers, which the compiler fuses; it has no code for complex ones.

    Uncompiled, on a CPU, this takes twice as long.
    """
    parts = torch.view_as_real(factors) if factors.is_complex() else factors
    cos, sin = parts.to(x.dtype).unbind(-1)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def table(factors: tuple[Tensor, Tensor] | None, device: torch.device) -> Table:
    """Return a scheme's factors on a device, in the form in which `rotate` is fastest."""
    if factors is None:
        return None
    q, k = (torch.view_as_real(part.to(torch.complex64)).to(device) for part in factors)
    return q, k
