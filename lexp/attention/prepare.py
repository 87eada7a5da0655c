"""Transforms of queries and keys before their product: content map, query scale, rotation."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lexp.attention.heads import for_each_query
from lexp.position import Position
from lexp.position.base import Factors


def prepare(
    q: Tensor,
    k: Tensor,
    position: Position,
    n_keys: Tensor,
    x: Tensor,
    of_inputs: Callable[[Tensor], Factors] | None = None,
) -> tuple[Tensor, Tensor]:
    """Apply the scheme's content map, query scale and angles; q, k, x as in AttentionInput.

    n_keys [T]. of_inputs: from numbers of the inputs [B, H, T, .] to those of queries and of keys;
    None: both are of all inputs. A content map may differ by head: it gets a key for each query
    head, and so do angles.
    """
    if position.transforms_qk:
        q, k = position.transform_qk(q, for_each_query(k, q.shape[1]))
    scale = position.scale(n_keys)
    q = q if scale is None else (q * scale[..., None].to(q.device)).to(q.dtype)
    angles = position.angles(x)
    if angles is not None:
        factors = unit_factors(angles, torch.float64 if q.dtype == torch.float64 else torch.float32)
        of_q, of_k = (factors, factors) if of_inputs is None else of_inputs(factors)
        q, k = rotate(q, of_q), rotate(for_each_query(k, q.shape[1]), of_k)
    return q, k


def unit_factors(angles: Tensor, dtype: torch.dtype) -> Tensor:
    """Return cosines and sines of angles [..., D/2], float64, as parts [..., D/2, 2] in a dtype.

    Whole turns are taken off before the precision is: far from the origin nothing is lost.
    """
    turned = angles.remainder(2 * math.pi).to(dtype)
    return torch.stack([turned.cos(), turned.sin()], dim=-1)


def rotate(x: Tensor, factors: Tensor) -> Tensor:
    """Return x [B, H, T, D] times factors on adjacent channel pairs, in x's dtype.

    factors: complex numbers [T, D/2] or, by head, [H, T, D/2]; or their parts, [.., T, D/2, 2]. The
    product is taken in float32, or float64 for float64 inputs: bfloat16 tables would damage every
    position past 256.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    if torch.compiler.is_compiling():
        return rotate_by_parts(wide, factors).to(x.dtype)
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)).contiguous())
    dtype = torch.complex128 if x.dtype == torch.float64 else torch.complex64
    factors = factors if factors.is_complex() else torch.view_as_complex(factors)
    return torch.view_as_real(pairs * factors.to(dtype)).flatten(-2).to(x.dtype)


def rotate_keys(k: Tensor, factors: Tensor, n_heads: int) -> Tensor:
    """Return `rotate` of keys that n_heads queries share; for each query where factors differ."""
    by_head = factors.ndim == (3 if factors.is_complex() else 4) and len(factors) > 1
    return rotate(for_each_query(k, n_heads) if by_head else k, factors)


def rotate_by_parts(x: Tensor, factors: Tensor) -> Tensor:
    """Return the same in real numbers, which the compiler fuses; it has no code for complex ones.

    Uncompiled, on a CPU, this takes twice as long.
    """
    parts = torch.view_as_real(factors) if factors.is_complex() else factors
    cos, sin = parts.to(x.dtype).unbind(-1)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def table(factors: Factors, device: torch.device) -> Factors:
    """Return factors on a device, in the form in which `rotate` is fastest."""
    q, k = (torch.view_as_real(part.to(torch.complex64)).to(device) for part in factors)
    return q, k


class RotaryTable:
    """A scheme's rotary factors at the positions of one tile or text.

    Constants are made once and kept; learned factors are made at each call, so that they follow
    the parameters and gradients reach these. convert: what factors are turned into on the device.
    """

    def __init__(
        self,
        position: Position,
        q_pos: Tensor,
        k_pos: Tensor,
        seq_len: int,
        device: torch.device,
        convert: Callable[[Factors, torch.device], Factors] = table,
    ):
        self.device, self.convert, self.seq_len = device, convert, seq_len
        # In double precision on the CPU, which every machine has; then as the model computes.
        self.q_pos, self.k_pos = q_pos.double().cpu(), k_pos.double().cpu()
        self.is_learned = factors_are_learned(position, seq_len)
        self.constants: Factors | None = None
        if not self.is_learned:
            factors = position.rotary_factors(self.q_pos, self.k_pos, seq_len)
            self.constants = None if factors is None else convert(factors, device)

    def factors(self, position: Position) -> Factors | None:
        """Return the factors; None if the scheme has none."""
        if not self.is_learned:
            return self.constants
        q_pos, k_pos = self.q_pos.to(self.device), self.k_pos.to(self.device)
        factors = position.rotary_factors(q_pos, k_pos, self.seq_len)
        return None if factors is None else self.convert(factors, self.device)


def factors_are_learned(position: Position, seq_len: int) -> bool:
    """Return whether a parameter takes part in the scheme's rotary factors, by asking for one."""
    parameter = next((p for p in position.parameters() if p.requires_grad), None)
    if parameter is None or not position.has_rotary_factors:
        return False
    first = torch.zeros(1, dtype=torch.float64, device=parameter.device)
    with torch.inference_mode(False), torch.enable_grad():
        factors = position.rotary_factors(first, first, seq_len)
    return factors is not None and any(part.requires_grad for part in factors)
