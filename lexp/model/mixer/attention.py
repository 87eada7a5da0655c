"""Self-attention with one or several heads, the mixer of a layer unless its entry names another.

Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245): n_heads / n_kv_heads queries in a
row share a key and a value. QK-norm (Henry et al. 2020, arXiv 2010.04245) as in Qwen3 (Yang et al.
2025, arXiv 2505.09388): the queries and the keys of each head are normed before they are rotated,
with weights that the heads of a layer share. Output gate: Qiu et al. 2025, arXiv 2505.06708.
"""

from torch import Tensor, nn

from lexp.attention import Attend
from lexp.model.mixer.base import Mixer
from lexp.model.mixer.recurrent import into_heads, out_of_heads, wide
from lexp.model.trunk import Norm, OutputGate
from lexp.position import Position


class QKNorm(nn.Module):
    """The norms of queries and of keys, computed in float32 or more."""

    def __init__(self, norm: Norm, head_dim: int):
        super().__init__()
        self.q, self.k = norm.make(head_dim), norm.make(head_dim)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries [B, H, T, D] and keys [B, K, T, D] normed, in their dtypes."""
        return self.q(wide(q)).to(q.dtype), self.k(wide(k)).to(k.dtype)


class NoQKNorm(nn.Module):
    """Queries and keys as they are."""

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and keys."""
        return q, k


class SigmoidGate(nn.Module):
    """Outputs of heads times sigmoid(x W); n_rates: how many gates, a multiple of n_heads."""

    def __init__(self, d_model: int, n_heads: int, n_rates: int):
        super().__init__()
        self.n_heads = n_heads
        self.rates = nn.Linear(d_model, n_rates, bias=False)

    def forward(self, out: Tensor, x: Tensor) -> Tensor:
        """Return outputs [B, H, T, D] gated by the layer's input x [B, T, d_model]."""
        return out * into_heads(self.rates(x), self.n_heads).sigmoid()


class NoGate(nn.Module):
    """Outputs of heads as they are."""

    def forward(self, out: Tensor, x: Tensor) -> Tensor:
        """Return the outputs."""
        return out


class Attention(Mixer):
    """Self-attention; the pattern and the scheme come in with `attend`.

    n_kv_heads: heads of keys and values, a divisor of n_heads; None: n_heads. Attention repeats
    them only for schemes that turn the same key differently for each query head.
    """

    name = "attention"
    attends = True

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        head_dim: int,
        n_kv_heads: int | None = None,
        qk_norm: Norm | None = None,
        output_gate: OutputGate | None = None,
    ):
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        if n_kv_heads < 1 or n_heads % n_kv_heads:
            raise ValueError(f"n_kv_heads={n_kv_heads}: must divide n_heads={n_heads}")
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        inner, shared = n_heads * head_dim, n_kv_heads * head_dim
        self.sizes = [inner, shared, shared]
        self.qkv = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.qk_norm = QKNorm(qk_norm, head_dim) if qk_norm else NoQKNorm()
        self.output_gate: nn.Module = NoGate()
        if output_gate is not None:
            n_rates = output_gate.n_rates(n_heads, head_dim)
            self.output_gate = SigmoidGate(d_model, n_heads, n_rates)
        self.out = nn.Linear(inner, d_model, bias=False)

    def forward(
        self, x: Tensor, position: Position, attend: Attend, sampled: Tensor | None
    ) -> Tensor:
        """Map x [B, T, d_model] to the same shape."""
        q, k, v = self.qkv(x).split(self.sizes, dim=-1)
        k, v = into_heads(k, self.n_kv_heads), into_heads(v, self.n_kv_heads)
        if self.n_kv_heads < self.n_heads:
            # Of a view the backward pass would keep the queries and keys before their rotation too.
            v = v.contiguous()
        q, k = self.qk_norm(into_heads(q, self.n_heads), k)
        out = self.output_gate(attend(q, k, v, position, x, sampled), x)
        return self.out(out_of_heads(out))
