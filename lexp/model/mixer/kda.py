"""KDA: Kimi Delta Attention (Kimi Team 2025, arXiv 2510.26692, equation 1).

    S_t = (I - b_t k_t k_t^T) diag(a_t) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(Dk)
    a_t = exp(-A softplus(x_t W1 W2 + c)) per channel,  b_t = sigmoid(x_t W_b)
    y_t = (norm(o_t) * sigmoid(x_t W3 W4)) W_o, norm within each head

Gated DeltaNet with a decay per key channel, and with gates of low rank. Queries, keys and values
pass a short convolution and SiLU; queries and keys then have length 1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexp.model.mixer.delta_rule import DeltaRule
from lexp.model.mixer.recurrent import EPS, ShortConvolution, into_heads, refuse_below_1, wide


class KDA(DeltaRule):
    """The delta rule with decays per channel; kernel: tokens of the convolution."""

    least_rate = 1.0

    def __init__(self, d_model: int, n_heads: int, head_dim: int, kernel: int = 4):
        super().__init__()
        refuse_below_1(kernel=kernel)
        inner = n_heads * head_dim
        self.n_heads, self.sizes = n_heads, [inner] * 3
        self.qkv = nn.Linear(d_model, 3 * inner, bias=False)
        self.convolution = ShortConvolution(3 * inner, kernel)
        self.write = nn.Linear(d_model, n_heads, bias=False)
        self.step_in = nn.Linear(d_model, head_dim, bias=False)
        self.step_out = nn.Linear(head_dim, inner, bias=False)
        self.step_bias = nn.Parameter(torch.empty(inner))
        self.log_rate = nn.Parameter(torch.empty(n_heads))
        self.gate_in = nn.Linear(d_model, head_dim, bias=False)
        self.gate_out = nn.Linear(head_dim, inner, bias=False)
        self.norm = nn.RMSNorm(head_dim, eps=EPS)
        self.out = nn.Linear(inner, d_model, bias=False)

    def log_decay(self, x: Tensor) -> Tensor:
        """Return a log decay per key channel, [B, H, T, head_dim]."""
        steps = F.softplus(wide(self.step_out(self.step_in(x))) + self.step_bias)
        rates = self.log_rate.exp()[:, None, None]  # [H, 1, 1]
        return -rates * into_heads(steps, self.n_heads)

    def gates(self, x: Tensor) -> Tensor:
        """Return sigmoid(x W3 W4)."""
        return self.gate_out(self.gate_in(x)).sigmoid()
