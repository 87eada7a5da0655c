"""KERPLE: kernelized relative positions (Chi et al. 2022, arXiv 2205.09921, equations 3 and 4).

    log:    score(i, j) = q_i . k_j / sqrt(d) - r1 log(1 + r2 |i - j|),  r1, r2 > 0
    power:  score(i, j) = q_i . k_j / sqrt(d) - r1 |i - j|^r2,           r1 > 0, 0 < r2 <= 2

The paper divides the bias by sqrt(d) as well, the authors' code does not; we follow the code, which
made the published numbers. Initialisation and bounds are the code's too (chijames/KERPLE 25be3d7,
megatron/mpu/layers.py): before each use the parameters themselves are moved to their nearest bound,
outside of the graph, so a parameter at a bound keeps its gradient and can leave it again.
"""

import math
from types import MappingProxyType

import torch
from torch import Tensor, nn

from lexp.position.base import Bias, Pair, Position

LEAST, MOST_POWER = 1e-2, 2.0


class KerpleLog(Position):
    """A learned logarithmic penalty: two scalars per head, shared by all layers."""

    relative = True
    two_sided = True
    by_distance = True
    reads_inputs = False
    bounds = MappingProxyType({"r1": (LEAST, math.inf), "r2": (LEAST, math.inf)})

    def __init__(self, n_heads: int):
        super().__init__()
        self.r1 = nn.Parameter(torch.rand(n_heads) * 2)
        self.r2 = nn.Parameter(torch.rand(n_heads))

    def bias(self, x: Tensor) -> Bias:
        """Return -r1 log(1 + r2 |i - j|)."""
        self.move_into_bounds()
        r1, r2 = self.r1, self.r2

        def penalty(pair: Pair) -> Tensor:
            distance = (pair.q_pos - pair.k_pos).abs()
            return -r1[pair.h] * torch.log1p(r2[pair.h] * distance)

        return penalty


class KerplePower(Position):
    """A learned power of the distance as penalty: two scalars per head, shared by all layers."""

    relative = True
    two_sided = True
    by_distance = True
    reads_inputs = False
    bounds = MappingProxyType({"r1": (LEAST, math.inf), "r2": (LEAST, MOST_POWER)})

    def __init__(self, n_heads: int):
        super().__init__()
        self.r1 = nn.Parameter(torch.rand(n_heads))
        self.r2 = nn.Parameter(torch.rand(n_heads) * 2)

    def bias(self, x: Tensor) -> Bias:
        """Return -r1 |i - j|^r2."""
        self.move_into_bounds()
        r1, r2 = self.r1, self.r2

        def penalty(pair: Pair) -> Tensor:
            distance = (pair.q_pos - pair.k_pos).abs()
            return -r1[pair.h] * distance ** r2[pair.h]

        return penalty
