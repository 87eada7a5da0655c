"""What Gated DeltaNet and KDA share: the gated delta rule around a decay that a subclass gives.

    S_t = (I - b_t k_t k_t^T) diag(a_t) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(Dk)
    b_t = sigmoid(x_t W_b),  y_t = (norm(o_t) * gate(x_t)) W_o, norm within each head

What the key stood for is erased before the value is written. Queries, keys and values pass a short
convolution and SiLU; queries and keys then have length 1.
"""

from typing import ClassVar

from torch import Tensor, nn

from lexp.model.mixer.kernels import recur
from lexp.model.mixer.recurrent import (
    Mixed,
    Recurrent,
    ShortConvolution,
    State,
    draw_rates,
    draw_steps,
    normalised,
    out_of_heads,
    split_heads,
    wide,
)


class DeltaRule(Recurrent):
    """Base class; a subclass builds the parts below, in the order of its formula.

    sizes: channels of queries, of keys and of values. least_rate: the least that a rate A
    begins with.
    """

    least_rate: ClassVar[float]
    n_heads: int
    sizes: list[int]
    qkv: nn.Linear
    convolution: ShortConvolution
    write: nn.Linear
    step_bias: nn.Parameter
    log_rate: nn.Parameter
    norm: nn.RMSNorm

    def log_decay(self, x: Tensor) -> Tensor:
        """Return log a_t [B, H, T, 1 or Dk] of x [B, T, d_model]."""
        raise NotImplementedError

    def gates(self, x: Tensor) -> Tensor:
        """Return the factors of the outputs [B, T, n_heads * head_dim]."""
        raise NotImplementedError

    def initialise(self) -> None:
        """Draw rates A up to 16 and steps of 0.001 to 0.1, as the authors do."""
        self.convolution.initialise()
        draw_rates(self.log_rate, self.least_rate, 16.0)
        draw_steps(self.step_bias)

    def mix(self, x: Tensor, state: State) -> Mixed:
        """Return the outputs of x [B, T, d_model] before the last projection."""
        mixed, recent = self.convolution(self.qkv(x), state.recent)
        q, k, v = split_heads(mixed, self.sizes, self.n_heads)
        strength = wide(self.write(x)).sigmoid().mT  # [B, H, T]
        out, memory = recur(
            normalised(q) * q.shape[-1] ** -0.5, normalised(k), v, self.log_decay(x),
            write=strength, erase=strength, state=state.memory,
        )  # fmt: skip
        return Mixed(out_of_heads(self.norm(out)) * self.gates(x), memory, recent)
