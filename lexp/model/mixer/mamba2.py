"""Mamba-2 (Dao and Gu 2024, arXiv 2405.21060), whose recurrence is SSD, state space duality.

    h_t = exp(-A dt_t) h_{t-1} + dt_t B_t x_t^T,  o_t = h_t^T C_t + D x_t
    dt_t = softplus(x W_dt + c)
    y_t = norm(o_t * SiLU(z_t)) W_o, norm over all heads

One decay per head; all heads share B and C, the keys and queries of the recurrence. x, B and C pass
a short convolution with bias, and SiLU. In the paper a layer is this alone, twice as wide; here it
is as wide as attention and has a feed-forward part beside it, as attention has.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexp.model.mixer.kernels import recur
from lexp.model.mixer.recurrent import (
    EPS,
    Mixed,
    Recurrent,
    ShortConvolution,
    State,
    draw_rates,
    draw_steps,
    into_heads,
    out_of_heads,
    refuse_below_1,
    wide,
)


class Mamba2(Recurrent):
    """The selective state space model with one decay per head.

    state_dim: numbers of B and of C, the paper's N. kernel: tokens of the convolution.
    """

    def __init__(
        self, d_model: int, n_heads: int, head_dim: int, state_dim: int = 128, kernel: int = 4
    ):
        super().__init__()
        refuse_below_1(state_dim=state_dim, kernel=kernel)
        inner = n_heads * head_dim
        self.n_heads = n_heads
        self.sizes = [inner, state_dim, state_dim]
        self.xbc = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.convolution = ShortConvolution(sum(self.sizes), kernel, bias=True)
        self.step = nn.Linear(d_model, n_heads, bias=False)
        self.step_bias = nn.Parameter(torch.empty(n_heads))
        self.log_rate = nn.Parameter(torch.empty(n_heads))
        self.skip = nn.Parameter(torch.ones(n_heads))
        self.gate = nn.Linear(d_model, inner, bias=False)
        self.norm = nn.RMSNorm(inner, eps=EPS)
        self.out = nn.Linear(inner, d_model, bias=False)

    def initialise(self) -> None:
        """Draw rates A of 1 to 16 and steps of 0.001 to 0.1, as the authors do."""
        self.convolution.initialise()
        draw_rates(self.log_rate, 1.0, 16.0)
        draw_steps(self.step_bias)

    def mix(self, x: Tensor, state: State) -> Mixed:
        """Return the outputs of x [B, T, d_model] before the last projection."""
        mixed, recent = self.convolution(self.xbc(x), state.recent)
        inputs, b, c = mixed.split(self.sizes, -1)
        values = into_heads(inputs, self.n_heads)
        steps = F.softplus(wide(self.step(x)) + self.step_bias).mT  # [B, H, T]
        rates = self.log_rate.exp()[:, None]  # [H, 1]
        out, memory = recur(
            c.unsqueeze(1), b.unsqueeze(1), values, (-rates * steps).unsqueeze(-1),
            write=steps, state=state.memory,
        )  # fmt: skip
        out = out_of_heads(out + self.skip[:, None, None] * wide(values))
        return Mixed(self.norm(out * F.silu(wide(self.gate(x)))), memory, recent)
