"""Wall Attention (Pai, Averbuch et al. 2026, blog.tilderesearch.com/blog/wall-attn).

    score(i, j) = sum_c q_ic k_jc exp(P_ic - P_jc) / sqrt(d),  P_tc = sum_{l<=t} log g_lc
    g_t = sigmoid(W x_t + b)

A forget gate for each channel of each query head: FoX forgets a key as a whole, Wall forgets what
its channels hold at speeds of their own. No other position encoding.
The authors' layer (fla-org/flash-linear-attention bc3b101, fla/layers/wall_attn.py) starts b at 8
and W at standard deviation 0.02, as here: gates of 0.9997, so nearly NoPE. Its optional gate for
the whole head is FoX in a `Sum`; its output gate and sinks are parts of a trunk and `SinkLogits`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexp.position.base import Position


class Wall(Position):
    """Data-dependent forget gates by channel, their own in every layer.

    gate_bias: where b starts.
    """

    per_layer = True

    def __init__(self, d_model: int, head_dim: int, n_heads: int, gate_bias: float = 8.0):
        super().__init__()
        self.n_heads = n_heads
        self.gate = nn.Linear(d_model, n_heads * head_dim)
        nn.init.normal_(self.gate.weight, std=0.02)
        nn.init.constant_(self.gate.bias, gate_bias)

    def log_decays(self, x: Tensor) -> Tensor:
        """Return the running sums of the log gates, [B, H, T, D]."""
        gates = self.gate(x)
        logs = F.logsigmoid(gates if gates.dtype == torch.float64 else gates.float())
        return logs.double().cumsum(1).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
