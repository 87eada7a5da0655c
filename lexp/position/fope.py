"""FoPE: Fourier position embedding (Hua et al. 2024, arXiv 2412.17739, equations 11 to 13).

    q_n -> q_n f(n),  k_m -> k_m f(m), for each head and channel pair c
    f_c(n) = exp(i theta_c n) + sum_k (a_kc cos(theta_k n) + i b_kc sin(theta_k n))
    f_c(n) = 1 where theta_c < 2 pi / train_len, the frequencies without a full turn in training

theta are RoPE's frequencies, k runs over those with a full turn, a and b are drawn from N(0, sigma)
and stay. Sines and cosines have coefficients of their own, so a score depends on n and m, not on
their distance alone: FoPE is not relative, and positions count from the text's first token.
sigma = 0.3 is the best of the paper's figure 6. Its listing differs from the equations, which are
followed here: coefficients drawn by Xavier's rule and divided by their sum over k, at most half of
the channel pairs turned, and a factor of 1 + i for the others.
"""

import math

import torch
from torch import Tensor

from lexp.position.base import Factors, Position
from lexp.position.rope import rotary_frequencies


class FoPE(Position):
    """Sums of rotations by fixed random coefficients, drawn anew for every layer and head."""

    shift_invariant = False
    two_sided = True
    per_layer = True

    def __init__(
        self, head_dim: int, n_heads: int, train_len: int, sigma: float = 0.3, base: float = 10000.0
    ):
        super().__init__()
        theta = rotary_frequencies(head_dim, base)
        theta = torch.where(theta < 2 * math.pi / train_len, 0, theta)
        n_turning = int(theta.count_nonzero())
        if sigma < 0 or not n_turning:
            raise ValueError(
                f"fope needs sigma >= 0 and a full turn in train_len, got {sigma} and {train_len}"
            )
        self.frequencies: list[float] = theta.tolist()
        self.cosine: Tensor  # a[h, k, c]
        self.sine: Tensor  # b[h, k, c]
        shape = (n_heads, n_turning, n_turning)
        self.register_buffer("cosine", sigma * torch.randn(shape))
        self.register_buffer("sine", sigma * torch.randn(shape))

    def rotary_factors(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors:
        """Return f of queries and keys alike, [H, ., D/2]."""
        return self._series(q_pos), self._series(k_pos)

    def _series(self, positions: Tensor) -> Tensor:
        n_turning = self.cosine.shape[-1]
        theta = torch.tensor(self.frequencies, dtype=torch.float64, device=positions.device)
        angle = positions[:, None] * theta
        turned = torch.exp(1j * angle)
        waves = angle[:, :n_turning]
        series = torch.complex(
            waves.cos() @ self.cosine.to(positions), waves.sin() @ self.sine.to(positions)
        )
        still = torch.zeros_like(series[..., :1]).expand(-1, -1, len(theta) - n_turning)
        return turned + torch.cat([series, still], dim=-1)
