"""ALiBi: attention with linear biases (Press et al. 2021, arXiv 2108.12409, section 3).

    score(i, j) = q_i . k_j / sqrt(d) - m_h |i - j|,  m_h a geometric series over heads

The bias is not divided by sqrt(d). The paper is about causal models, i >= j; the absolute value is
its authors' own suggestion for bidirectional ones (issue 5 of their repository).
"""

import torch
from torch import Tensor

from lexp.position.base import Bias, Position


def alibi_slopes(n_heads: int) -> list[float]:
    """Return the slopes: for 2^k heads the series with first term and ratio 2^(-8/n_heads).

    Other head counts take the series of the power of two below, then every second slope of the
    one above, as in the authors' released code.
    """
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (h + 1) / power) for h in range(power)]
    between = [2.0 ** (-8 * (h + 1) / (2 * power)) for h in range(0, 2 * power, 2)]
    return (slopes + between)[:n_heads]


class ALiBi(Position):
    """A penalty linear in the distance, one fixed slope per head."""

    relative = True
    two_sided = True
    by_distance = True

    def __init__(self, n_heads: int):
        super().__init__()
        if n_heads < 1:
            raise ValueError(f"alibi needs n_heads >= 1, got {n_heads}")
        slopes = torch.tensor(alibi_slopes(n_heads))
        self.slopes: Tensor
        self.register_buffer("slopes", slopes, persistent=False)

    def bias(self, x: Tensor) -> Bias:
        """Return -m_h |i - j|."""
        slopes = self.slopes
        return lambda pair: -slopes[pair.h] * (pair.q_pos - pair.k_pos).abs()
