"""Transformer-XL relative positions (Dai et al. 2019, arXiv 1901.02860, section 3.3).

    score(i, j) = ((q_i + u_h) . k_j + (q_i + v_h) . W_h r_{i-j}) / sqrt(d)
    r_m = [sin(m f_0) .. sin(m f_{n-1}), cos(m f_0) .. cos(m f_{n-1})],  f_t = 10000^(-2t/d_model)

Sinusoids of the distance meet queries through a learned map. In the authors' code W belongs to each
layer and u, v are shared by all of them; here all three are each layer's own (their `untie_r`).
Only the positions are taken over, not the recurrence between segments.
"""

import math

import torch
from torch import Tensor, nn

from lexp.position.base import AttentionWeights, Pair, Position


class TransformerXL(Position):
    """A content-dependent bias by distance and two global ones, their own in every layer."""

    relative = True
    per_layer = True
    reads_inputs = False

    def __init__(self, d_model: int, head_dim: int, n_heads: int):
        super().__init__()
        if d_model % 2:
            raise ValueError(f"transformer_xl needs an even d_model, got {d_model}")
        self.n_heads, self.d_model = n_heads, d_model
        self.map = nn.Linear(d_model, n_heads * head_dim, bias=False)
        nn.init.normal_(self.map.weight, std=0.02)
        self.content_bias = nn.Parameter(torch.randn(n_heads, 1, head_dim) * 0.02)  # u
        self.position_bias = nn.Parameter(torch.randn(n_heads, 1, head_dim) * 0.02)  # v

    def sinusoids(self, distances: Tensor) -> Tensor:
        """Return r of distances [N]: float64 [N, d_model]."""
        steps = torch.arange(0, self.d_model, 2, device=distances.device) / self.d_model
        angles = distances.double()[:, None] * 10000 ** -steps.double()
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def attention_weights(self, x: Tensor) -> AttentionWeights:
        """Return the softmax of the scores with both biases."""

        def weights(scores: Tensor, q: Tensor, k: Tensor, pair: Pair, allowed: Tensor) -> Tensor:
            root = math.sqrt(q.shape[-1])
            # Each distance once, whatever positions a pattern has given to the pairs.
            distances = (pair.q_pos - pair.k_pos).clamp(min=0)
            values, place = distances.unique(return_inverse=True)
            r = self.map(self.sinusoids(values).to(q.dtype)).unflatten(-1, (self.n_heads, -1))
            by_distance = (q + self.position_bias) @ r.permute(1, 2, 0)  # [B, H, Q, values]
            by_pair = by_distance.gather(-1, place.expand_as(scores))
            by_key = self.content_bias @ k.transpose(-1, -2)
            total = scores + (by_pair + by_key) / root
            return total.masked_fill(~allowed, -math.inf).softmax(-1)

        return weights
