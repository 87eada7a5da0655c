"""RoPE: rotary position embedding (Su et al. 2021, arXiv 2104.09864, equation 34).

    q_n -> q_n exp(i theta n),  k_m -> k_m exp(i theta m),  theta_c = base^(-2c/d), c = 0 .. d/2-1

on adjacent channel pairs read as complex numbers (the paper's layout; some code pairs c with c+d/2,
which is the same up to a permutation of the trained weights).
"""

import torch
from torch import Tensor

from lexp.position.base import Factors, Position


def rotary_frequencies(head_dim: int, base: float) -> Tensor:
    """Return theta_c = base^(-2c/head_dim) in radians per token, float64 [head_dim/2]."""
    if head_dim % 2 or base <= 0:
        raise ValueError(
            f"rotary positions need an even head_dim and a base above 0, got {head_dim} and {base}"
        )
    return base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)


class RoPE(Position):
    """Rotates query and key pairs by an angle proportional to their position."""

    relative = True
    two_sided = True

    def __init__(self, head_dim: int, base: float = 10000.0):
        super().__init__()
        self.frequencies: list[float] = rotary_frequencies(head_dim, base).tolist()

    def rotary_factors(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors:
        """Return exp(i theta n) for queries and keys alike."""
        theta = torch.tensor(self.frequencies, dtype=torch.float64, device=q_pos.device)
        return unit_circle(q_pos[:, None] * theta), unit_circle(k_pos[:, None] * theta)


def unit_circle(angle: Tensor) -> Tensor:
    """Return exp(i angle), in a quarter of the time of a complex exponential on a CPU.

    Chunks of moved positions need it again for every chunk of every layer.
    """
    return torch.complex(angle.cos(), angle.sin())
