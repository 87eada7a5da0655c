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

from lexp.model.mixer.recurrence import recur
from lexp.model.mixer.recurrent import (
    EPS,
    Recurrent,
    ShortConvolution,
    State,
    draw_rates,
    draw_steps,
    into_heads,
    normalised,
    out_of_heads,
    part_of,
    refuse_below_1,
    wide,
)


class GatedDeltaNet(Recurrent):
    """The gated delta rule; with keys half as wide as values, as many weights as attention.

    expand_k: width of a key over that of a value, head_dim. kernel: tokens of the convolution.
    """

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

    def initialise(self) -> None:
        """Draw rates A of 0 to 16 and steps of 0.001 to 0.1, as the authors do."""
        self.convolution.initialise()
        draw_rates(self.log_rate, 0.01, 16.0)
        draw_steps(self.step_bias)

    def read(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the outputs of x [B, T, d_model] and the state after it."""
        mixed, recent = self.convolution(self.qkv(x), state.recent if state else None)
        q, k, v = (into_heads(part, self.n_heads) for part in mixed.split(self.sizes, -1))
        strength = wide(self.write(x)).sigmoid().mT  # [B, H, T]
        steps = F.softplus(wide(self.step(x)) + self.step_bias)
        out, memory = recur(
            normalised(q) * q.shape[-1] ** -0.5, normalised(k), v,
            (-self.log_rate.exp() * steps).mT.unsqueeze(-1),
            write=strength, erase=strength, state=state.memory if state else None,
        )  # fmt: skip
        mixed = out_of_heads(self.norm(out)) * F.silu(self.gate(x))
        return self.out(mixed), State(memory, recent, x.shape[1] + (state.n_read if state else 0))
