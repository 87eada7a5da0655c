"""SWAT: sliding window attention training (Fu et al. 2025, arXiv 2502.18845, equations 2 to 5).

    o_i = sum_{j in window} sigmoid( rope(q_i) . rope(k_j) / sqrt(d) + s_h (i - j) ) v_j

with no softmax, no normalisation and "balanced" slopes: s = -2^-k for half of the heads, which look
at what is recent, and +2^-k for the other half, k = 1 .. H/2. It is trained in a window (a model's
`pattern`). The released layer (Fzkuji/swat-attention 91e222e, fla/layers/swattn.py) computes
something else: softmax, RoPE and the slopes 2^(-8 h / H), h = 1 .. H, for every number of heads.
That is `swat_softmax` here.
"""

import torch
from torch import Tensor

from lexp.position.base import AttentionWeights, Bias, Pair
from lexp.position.rope import RoPE


class SWAT(RoPE):
    """RoPE with balanced slopes under a sigmoid in place of softmax."""

    by_distance = True
    two_sided = False
    reads_inputs = False

    def __init__(self, head_dim: int, n_heads: int, base: float = 10000.0):
        super().__init__(head_dim, base)
        if n_heads % 2:
            raise ValueError(f"swat needs an even number of heads, got {n_heads}")
        half = torch.arange(1, n_heads // 2 + 1)
        self.slopes: Tensor
        slopes = torch.cat([-(2.0**-half), 2.0**-half])
        self.register_buffer("slopes", slopes, persistent=False)

    def bias(self, x: Tensor) -> Bias:
        """Return s_h (i - j)."""
        slopes = self.slopes
        return lambda pair: slopes[pair.h] * (pair.q_pos - pair.k_pos)

    def attention_weights(self, x: Tensor) -> AttentionWeights:
        """Return the sigmoid of each score on its own."""

        def weights(scores: Tensor, q: Tensor, k: Tensor, pair: Pair, allowed: Tensor) -> Tensor:
            return scores.sigmoid().masked_fill(~allowed, 0)

        return weights
