"""Gated DeltaNet (Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464, equation 10).

    S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(Dk)
    a_t = exp(-A softplus(x_t W_a + c)),  b_t = sigmoid(x_t W_b)
    y_t = (norm(o_t) * SiLU(x_t W_g)) W_o, norm within each head

A decay and a writing strength per head: what the key stood for is erased before the value is
written. Queries, keys and values pass a short convolution and SiLU; queries and keys then have
length 1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexp.model.mixer.delta_rule import DeltaRule
from lexp.model.mixer.recurrent import EPS, ShortConvolution, part_of, refuse_below_1, wide


class GatedDeltaNet(DeltaRule):
    """The gated delta rule; with keys half as wide as values, as many weights as attention.

    expand_k: width of a key over that of a value, head_dim. kernel: tokens of the convolution.
    """

    least_rate = 0.01  # the authors' 0 has no logarithm

    def __init__(
        self, d_model: int, n_heads: int, head_dim: int, expand_k: float = 0.5, kernel: int = 4
    ):
        super().__init__()
        refuse_below_1(kernel=kernel)
        keys, values = n_heads * part_of(head_dim, expand_k, "expand_k"), n_heads * head_dim
        self.n_heads = n_heads
        self.sizes = [keys, keys, values]
        self.qkv = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.convolution = ShortConvolution(sum(self.sizes), kernel)
        self.write = nn.Linear(d_model, n_heads, bias=False)
        self.step = nn.Linear(d_model, n_heads, bias=False)
        self.step_bias = nn.Parameter(torch.empty(n_heads))
        self.log_rate = nn.Parameter(torch.empty(n_heads))
        self.gate = nn.Linear(d_model, values, bias=False)
        self.norm = nn.RMSNorm(head_dim, eps=EPS)
        self.out = nn.Linear(values, d_model, bias=False)

    def log_decay(self, x: Tensor) -> Tensor:
        """Return one log decay per head, [B, H, T, 1]."""
        steps = F.softplus(wide(self.step(x)) + self.step_bias)
        return (-self.log_rate.exp() * steps).mT.unsqueeze(-1)

    def gates(self, x: Tensor) -> Tensor:
        """Return SiLU(x W_g)."""
        return F.silu(self.gate(x))
