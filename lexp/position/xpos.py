"""xPos (Sun et al. 2022, "A Length-Extrapolatable Transformer", arXiv 2212.10554, section 2.2).

    q_n -> q_n exp((xi + i theta) n),  k_m -> k_m exp((-xi + i theta) m)
    score(n, m) contains zeta^(n-m),  zeta = exp(xi),  zeta_c = (2c/d + gamma) / (1 + gamma)

The paper prints zeta^n and leaves gamma open. The authors' code (torchscale) uses gamma = 0.4 and
zeta^(n / scale_base) with scale_base = 512; only with the latter does the paper's remark on fp16
hold, so that is our default and `scale_base=1` the printed formula.
The code centres positions on the middle of the sequence and overflows at 72k tokens in float32.
We promise shift invariance and a `max_span` instead: attention counts from each tile's first query
and keeps tiles that short, so keys far in the past underflow towards their true value, zero, and
nothing overflows at any length.

Bidirectional attention is what LEX leaves to later work, and what others found xPos to be of no use
for (lucidrains/rotary-embedding-torch, issue 3): for a key after its query zeta^(n-m) grows. Its
expectation g(n) = sum_c cos(n theta_c) zeta_c^n is made to fall with the distance n = |n-m| and its
cosines are even, so we keep the rotation as it is and let the decay follow the distance,

    score(n, m) contains zeta^|n-m| exp(i theta (n-m)),

which leaves causal attention as it was. No product of a query's and a key's part is that for both
signs, but two are: zeta^n zeta^-m for keys up to the query and zeta^-n zeta^m for those after it.
"""

import torch
from torch import Tensor

from lexp.position.base import Factors, Position
from lexp.position.rope import rotary_frequencies


class XPos(Position):
    """Rotation as in RoPE, with a per-channel exponential decay in the distance.

    gamma: flattens the decay (larger: slower). scale_base: tokens per unit of the exponent.
    """

    relative = True
    two_sided = True

    def __init__(
        self, head_dim: int, base: float = 10000.0, gamma: float = 0.4, scale_base: float = 512.0
    ):
        super().__init__()
        if gamma <= 0 or scale_base <= 0:
            raise ValueError(f"xpos needs gamma, scale_base > 0, got {gamma}, {scale_base}")
        self.frequencies: list[float] = rotary_frequencies(head_dim, base).tolist()
        fraction = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
        self.xi = (((fraction + gamma) / (1 + gamma)).log() / scale_base).tolist()
        # Factors stay within e^40, and their products within float32, over this many positions.
        self.max_span = max(1, int(40 / -min(self.xi)))

    def rotary_factors(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors:
        """Return exp((xi + i theta) n) for queries, exp((-xi + i theta) m) for keys."""
        return self._decaying(q_pos, k_pos, 1)

    def rotary_factors_ahead(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors:
        """Return exp((-xi + i theta) n) for queries, exp((xi + i theta) m) for keys after them."""
        return self._decaying(q_pos, k_pos, -1)

    def _decaying(self, q_pos: Tensor, k_pos: Tensor, sign: int) -> Factors:
        theta = torch.tensor(self.frequencies, dtype=torch.float64, device=q_pos.device)
        xi = sign * torch.tensor(self.xi, dtype=torch.float64, device=q_pos.device)
        q_rate, k_rate = torch.complex(xi, theta), torch.complex(-xi, theta)
        return torch.exp(q_pos[:, None] * q_rate), torch.exp(k_pos[:, None] * k_rate)


class XPosDecay(XPos):
    """xPos without its rotation: the decay alone, LEX's ablation (its Table 4)."""

    def __init__(self, head_dim: int, gamma: float = 0.4, scale_base: float = 512.0):
        super().__init__(head_dim, gamma=gamma, scale_base=scale_base)
        self.frequencies = [0.0] * len(self.frequencies)
