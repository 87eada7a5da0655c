"""Means over all pairs at each distance, summed chunk by chunk."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass
class DistanceMeans:
    """Sums in float64 over the pairs at each distance i - j, of every layer and head.

    O(layers x heads x length) memory, whatever is added.
    """

    n_layers: int
    n_heads: int
    length: int
    sums: Tensor = field(init=False)
    counts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        shape = self.n_layers, self.n_heads, self.length
        self.sums = torch.zeros(shape, dtype=torch.float64)
        self.counts = torch.zeros(self.n_layers, self.length, dtype=torch.int64)

    def add(self, layer: int, values: Tensor, distance: Tensor, allowed: Tensor) -> None:
        """Add values [H, Q, K] of pairs at distance [Q, K] where allowed [Q, K]."""
        at = distance[allowed].cpu()
        # One head at a time: a float64 copy of one head's tile, not of all.
        for head, scores in enumerate(values):
            self.sums[layer, head].index_add_(0, at, scores[allowed].double().cpu())
        self.counts[layer] += torch.bincount(at, minlength=self.length)

    def means(self) -> Tensor:
        """Return the means [layers, heads, length], NaN at distances without a pair."""
        return self.sums / self.counts[:, None]


def spaced(length: int, per_octave: int = 8) -> list[int]:
    """Return distances of 0 .. length-1 for a log axis: all at first, then fewer and fewer."""
    n = max(2, int(np.log2(max(2, length)) * per_octave))
    steps = np.geomspace(1, max(1, length), n)
    return sorted({min(length, round(step)) - 1 for step in steps})
