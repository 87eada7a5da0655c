"""RetNet: retention (Sun et al. 2023, arXiv 2307.08621, equations 5 to 8).

    S_n = g S_{n-1} + k_n v_n^T,  o_n = S_n^T q_n / sqrt(Dk),  g_h = 1 - 2^(-5 - h), h = 0 .. H-1
    y_n = (norm(o_n) * SiLU(x_n W_G)) W_O, norm within each head, without parameters

A fixed decay per head; queries and keys are rotated as in RoPE. Keys are half as wide as values, as
in the paper, and values as wide as the model (there twice as wide, with a narrower feed-forward
part). The norm is RMSNorm, which needs none of the paper's rescaling of rows: it undoes any factor.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexp.model.mixer.kernels import recur
from lexp.model.mixer.recurrent import (
    EPS,
    Mixed,
    Recurrent,
    State,
    out_of_heads,
    part_of,
    split_heads,
    wide,
)
from lexp.position.rope import rotary_frequencies


class RetNet(Recurrent):
    """Multi-scale retention.

    expand_k: width of a key over that of a value, head_dim. base: of the rotation.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        head_dim: int,
        expand_k: float = 0.5,
        base: float = 10000.0,
    ):
        super().__init__()
        key_dim = part_of(head_dim, expand_k, "expand_k")
        keys, values = n_heads * key_dim, n_heads * head_dim
        self.n_heads = n_heads
        self.key_dim, self.base = key_dim, base
        rotary_frequencies(key_dim, base)  # ValueError where there are none
        self.sizes = [keys, keys, values]
        self.qkv = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.gate = nn.Linear(d_model, values, bias=False)
        self.out = nn.Linear(values, d_model, bias=False)

    def mix(self, x: Tensor, state: State) -> Mixed:
        """Return the outputs of x [B, T, d_model] before the last projection."""
        n_tokens = x.shape[1]
        q, k, v = split_heads(self.qkv(x), self.sizes, self.n_heads)
        turns = self._turns(state.n_read, n_tokens, x)
        heads = torch.arange(self.n_heads, device=x.device, dtype=wide(x).dtype)
        log_decay = torch.log1p(-(2.0 ** (-5 - heads))).view(1, -1, 1, 1)
        out, memory = recur(
            rotated(q, turns) * q.shape[-1] ** -0.5, rotated(k, turns), v,
            log_decay.expand(len(x), -1, n_tokens, 1), state=state.memory,
        )  # fmt: skip
        normed = F.rms_norm(out, out.shape[-1:], eps=EPS)
        return Mixed(out_of_heads(normed) * F.silu(self.gate(x)), memory)

    def _turns(self, first: int, n_tokens: int, x: Tensor) -> Tensor:
        """Return exp(i theta n) for the tokens from `first` on, complex [T, Dk/2].

        Angles are computed in float64: at a million tokens float32 is off by 0.06 radians.
        """
        index = torch.arange(first, first + n_tokens, dtype=torch.float64, device=x.device)
        rates = rotary_frequencies(self.key_dim, self.base).to(x.device)
        angles = index[:, None] * rates
        turns = torch.polar(torch.ones_like(angles), angles)
        return turns if x.dtype == torch.float64 else turns.to(torch.complex64)


def rotated(x: Tensor, turns: Tensor) -> Tensor:
    """Return x [B, H, T, D] with adjacent channels turned as complex numbers."""
    pairs = torch.view_as_complex(wide(x).unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns).flatten(-2)
