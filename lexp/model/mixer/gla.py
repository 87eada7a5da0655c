"""GLA: gated linear attention (Yang et al. 2023, arXiv 2312.06635, section 4).

    S_t = diag(a_t) S_{t-1} + k_t v_t^T,  o_t = S_t^T q_t / sqrt(Dk)
    a_t = sigmoid(x_t W1 W2 + b)^(1/16)
    y_t = (norm(o_t) * SiLU(x_t W_r + b_r)) W_o, norm within each head

A gate per key channel, of low rank. No short convolution and no positions.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from lexp.model.mixer.kernels import recur
from lexp.model.mixer.recurrent import (
    EPS,
    Mixed,
    Recurrent,
    State,
    into_heads,
    out_of_heads,
    part_of,
    refuse_below_1,
    split_heads,
    wide,
)


class GLA(Recurrent):
    """Gated linear attention; with keys half as wide as values, as many weights as attention.

    expand_k: width of a key over that of a value, head_dim. rank: of the gates' projection.
    temperature: the root that gates are taken to.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        head_dim: int,
        expand_k: float = 0.5,
        rank: int = 16,
        temperature: float = 16.0,
    ):
        super().__init__()
        refuse_below_1(rank=rank)
        if temperature <= 0:
            raise ValueError(f"temperature={temperature}: must be above 0")
        keys, values = n_heads * part_of(head_dim, expand_k, "expand_k"), n_heads * head_dim
        self.n_heads, self.temperature = n_heads, temperature
        self.sizes = [keys, keys, values]
        self.qkv = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.decay_in = nn.Linear(d_model, rank, bias=False)
        self.decay_out = nn.Linear(rank, keys)
        self.gate = nn.Linear(d_model, values)
        self.norm = nn.RMSNorm(head_dim, eps=EPS)
        self.out = nn.Linear(values, d_model, bias=False)

    def initialise(self) -> None:
        """Begin with biases of 0."""
        nn.init.zeros_(self.decay_out.bias)
        nn.init.zeros_(self.gate.bias)

    def mix(self, x: Tensor, state: State) -> Mixed:
        """Return the outputs of x [B, T, d_model] before the last projection."""
        q, k, v = split_heads(self.qkv(x), self.sizes, self.n_heads)
        gates = wide(into_heads(self.decay_out(self.decay_in(x)), self.n_heads))
        out, memory = recur(
            wide(q) * q.shape[-1] ** -0.5, k, v, F.logsigmoid(gates) / self.temperature,
            state=state.memory,
        )  # fmt: skip
        return Mixed(out_of_heads(self.norm(out)) * F.silu(self.gate(x)), memory)
