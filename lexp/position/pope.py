"""PoPE: polar coordinate position embedding (Gopalakrishnan et al. 2025, arXiv 2509.10534, eq. 6).

    score(i, j) = sum_c mu(q_ic) mu(k_jc) cos((j - i) theta_c + delta_c) / sqrt(d)
    mu(x) = log(1 + e^x),  theta_c = base^(-c/d),  c = 0 .. d-1

What a channel holds sets a magnitude, where it stands sets an angle, and neither acts on the
other's part, as they do in RoPE. delta is learned per head and channel, clamped to [-2 pi, 0], and
starts at 0, the paper's choice for length generalisation. The authors' code could not be read.
1/sqrt(d) with d the head_dim is that of a published port (lucidrains/PoPE-pytorch 2b91cde), and so
is the clamp inside of the graph: a delta that a step has moved outside has no gradient there.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexp.position.base import Factors, Position
from lexp.position.rope import unit_circle


class PoPE(Position):
    """Magnitudes from content, angles from position; phases of its own in every layer."""

    relative = True
    two_sided = True
    per_layer = True

    def __init__(self, head_dim: int, n_heads: int, base: float = 10000.0):
        super().__init__()
        if base <= 0:
            raise ValueError(f"pope needs a base above 0, got {base}")
        channel = torch.arange(head_dim, dtype=torch.float64)
        self.frequencies: list[float] = (base ** (-channel / head_dim)).tolist()
        self.delta = nn.Parameter(torch.zeros(n_heads, head_dim))

    def transform_qk(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return magnitudes as complex numbers, the keys' turned by delta; D to 2 D channels."""
        delta = self.delta.clamp(-2 * math.pi, 0)[:, None]  # [H, 1, D]
        q, k = F.softplus(q), F.softplus(k)
        q_pairs = torch.stack([q, torch.zeros_like(q)], dim=-1)
        k_pairs = torch.stack([k * delta.cos(), k * delta.sin()], dim=-1)
        return q_pairs.flatten(-2), k_pairs.flatten(-2).to(q.dtype)

    def rotary_factors(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors:
        """Return exp(i theta n) for queries and keys alike."""
        theta = torch.tensor(self.frequencies, dtype=torch.float64, device=q_pos.device)
        return unit_circle(q_pos[:, None] * theta), unit_circle(k_pos[:, None] * theta)
