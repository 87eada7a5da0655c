"""Selective RoPE (Movahedi et al. 2025, arXiv 2511.17388): rotations by what the tokens say.

    q_n -> q_n exp(i Phi_n),  k_m -> k_m exp(i Phi_m),  Phi_t = sum_{l<=t} theta_c w_lc
    w_t = conv_4(B A n(x))_t,  theta_c = base^(-2c/d), c = 0 .. d/2-1

RoPE with w = 1: here each token turns what is compared by as much as its content decides, in either
direction. No other position encoding.
Read in the authors' code (timurcarstensen/selective-rope d12e825, modules/rotary.py): n divides
each head's part of x, d_model / n_heads channels, by its length; A and B are of low rank, 32 in its
configurations of language models; the convolution is causal and by channel; theta is fixed, with
base 500000; a sigmoid gate on w and a constant in it are options that its configurations leave off.
It starts all maps at standard deviation 0.02, at which angles are of size 1e-5; ours start as torch
does.
No package has that module, so no test runs it. It was compared once, at 1, 5 and 70 tokens, with
torch in place of the two functions of fla that it imports: scores and gradients differ from ours by
less than 1e-7 of the largest, as it rotates in float32.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexp.position.base import Position
from lexp.position.rope import rotary_frequencies

TAPS = 4  # of the convolution
LEAST_SQUARE = 1e-6  # added to a squared length before a division by it


class SelectiveRoPE(Position):
    """Rotations by running sums of a function of the tokens, its own in every layer.

    rank: of the map B A. base: of the frequencies theta.
    """

    per_layer = True
    n_earlier = TAPS - 1

    def __init__(
        self, d_model: int, head_dim: int, n_heads: int, rank: int = 32, base: float = 500000.0
    ):
        super().__init__()
        if rank < 1 or d_model % n_heads:
            raise ValueError(
                f"selective_rope needs rank >= 1 and a d_model that n_heads divides, got {rank}, "
                f"{d_model} and {n_heads}"
            )
        self.n_heads, inner = n_heads, n_heads * head_dim // 2
        self.theta: list[float] = rotary_frequencies(head_dim, base).tolist()
        self.into, self.out = nn.Linear(d_model, rank, bias=False), nn.Linear(rank, inner, False)
        self.conv = nn.Conv1d(inner, inner, TAPS, groups=inner, bias=False)

    def angles(self, x: Tensor) -> Tensor:
        """Return Phi, [B, H, T, D/2]."""
        by_head = x.unflatten(2, (self.n_heads, -1))
        squares = by_head.square().sum(-1, keepdim=True)
        wide = self.out(self.into((by_head * (squares + LEAST_SQUARE).rsqrt()).flatten(2)))
        turns = self.conv(F.pad(wide.mT, (TAPS - 1, 0))).unflatten(1, (self.n_heads, -1))
        theta = torch.tensor(self.theta, dtype=torch.float64, device=x.device)
        return turns.double().cumsum(3).mT * theta
