"""FoX, the Forgetting Transformer (Lin et al. 2025, arXiv 2503.02130, equations 3 and 4).

    score(i, j) = q_i . k_j / sqrt(d) + sum_{l=j+1}^{i} log f_l,  f_l = sigmoid(w_h . x_l + b_h)

A gate per head and token: each token read later than j fades j by as much as its content decides.
No other position encoding. x is the (normed) input of the attention layer.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexp.position.base import Bias, Position


class FoX(Position):
    """Data-dependent forget gates, their own in every layer."""

    by_token = True
    per_layer = True

    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.gate = nn.Linear(d_model, n_heads)
        nn.init.normal_(self.gate.weight, std=0.02)
        nn.init.zeros_(self.gate.bias)

    def log_gates(self, x: Tensor) -> Tensor:
        """Return log f of every token, at most 0; [B, T, H]."""
        return F.logsigmoid(self.gate(x).float() if x.dtype != torch.float64 else self.gate(x))

    def bias(self, x: Tensor) -> Bias:
        """Return c_i - c_j, c the running sum of the log gates: in float64, as long sums cancel."""
        total = self.log_gates(x).double().cumsum(1).transpose(1, 2)  # [B, H, T]
        return lambda pair: total[pair.b, pair.h, pair.i] - total[pair.b, pair.h, pair.j]
