"""FoX, the Forgetting Transformer (Lin et al. 2025, arXiv 2503.02130, equations 3 and 4).

    score(i, j) = q_i . k_j / sqrt(d) + sum_{l=j+1}^{i} log f_l,  f_l = sigmoid(w_h . x_l + b_h)

A gate per head and token: each token read later than j fades j by as much as its content decides.
No other position encoding. x is the (normed) input of the attention layer.

Together with PaTH (PaTH-FoX) the authors of that paper divide the sum by sqrt(d) with the product
(fla-org/flash-linear-attention bc3b101, fla/ops/path_attn/naive.py and parallel_path_fwd.py); alone
it stands outside of the root in their code too. `head_dim` selects the former.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexp.position.base import Bias, Position


class FoX(Position):
    """Data-dependent forget gates, their own in every layer.

    head_dim: where given, the sum of log gates is divided by its square root.
    """

    by_token = True
    per_layer = True

    def __init__(self, d_model: int, n_heads: int, head_dim: int | None = None):
        super().__init__()
        self.root = math.sqrt(head_dim) if head_dim else 1.0
        self.gate = nn.Linear(d_model, n_heads)
        nn.init.normal_(self.gate.weight, std=0.02)
        nn.init.zeros_(self.gate.bias)

    def log_gates(self, x: Tensor) -> Tensor:
        """Return log f of every token, at most 0; [B, T, H]."""
        return F.logsigmoid(self.gate(x).float() if x.dtype != torch.float64 else self.gate(x))

    def bias(self, x: Tensor) -> Bias:
        """Return c_i - c_j, c the running sum of the log gates: in float64, as long sums cancel."""
        total = self.log_gates(x).double().cumsum(1).transpose(1, 2) / self.root  # [B, H, T]
        return lambda pair: total[pair.b, pair.h, pair.i] - total[pair.b, pair.h, pair.j]
