"""TISA: translation-invariant self-attention (Wennberg and Henter 2021, arXiv 2106.01950).

    score(i, j) = q_i . k_j / sqrt(d) + sum_s a_s exp(-|b_s| (j - i - c_s)^2)

with S learned bumps per head. The bias is not divided by sqrt(d), as in the authors' code
(ulmewennberg/tisa a3027ca, model/tisa.py), whose initialisation is ours: a ~ N(0.1, 0.01),
b ~ N(0.1, 0.01), c ~ N(0, 5). That code reads the offset i - j - 1 where the paper has j - i, so
its centres o are one token off: c = -(o + 1), a and b the same, maps its parameters to these.
The paper is about bidirectional models; in a causal one the bumps that start in the future (c > 0)
can only act by their tails. `fold=true` starts them at -|c| instead.
"""

import torch
from torch import Tensor, nn

from lexp.position.base import Bias, Pair, Position


class TISA(Position):
    """Learned Gaussian bumps over the offset j - i.

    n_kernels: the paper's S, bumps per head. fold: start all centres in the past. per_layer: bumps
    of their own in every layer, not shared by all.
    """

    relative = True
    two_sided = True
    by_distance = True
    reads_inputs = False

    def __init__(
        self, n_heads: int, n_kernels: int = 5, fold: bool = False, per_layer: bool = False
    ):
        super().__init__()
        self.per_layer = per_layer
        if n_kernels < 1:
            raise ValueError(f"tisa needs n_kernels >= 1, got {n_kernels}")
        shape = (n_kernels, n_heads)
        centre = torch.randn(shape) * 5
        self.amplitude = nn.Parameter(0.1 + 0.01 * torch.randn(shape))  # a
        self.sharpness = nn.Parameter(0.1 + 0.01 * torch.randn(shape))  # b
        self.centre = nn.Parameter(-centre.abs() if fold else centre)  # c

    def bias(self, x: Tensor) -> Bias:
        """Return sum_s a_s exp(-|b_s| (j - i - c_s)^2)."""
        amplitude, sharpness, centre = self.amplitude, self.sharpness.abs(), self.centre

        def bumps(pair: Pair) -> Tensor:
            offset = pair.k_pos - pair.q_pos
            kernels = zip(amplitude, sharpness, centre, strict=True)
            terms = [
                a[pair.h] * torch.exp(-b[pair.h] * (offset - c[pair.h]) ** 2) for a, b, c in kernels
            ]
            return torch.stack(terms).sum(0)

        return bumps
