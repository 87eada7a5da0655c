"""Positions drawn at random in training, so that no distance is new at test time.

RandomPositions: a sorted subset of 0 .. max_pos-1 (Ruoss et al. 2023, arXiv 2305.16843, section 3),
drawn anew for every batch, at test time as well.
RandomFloats: sorted reals, uniform over the trained length; at test time as many as are needed at
equal steps over the same stretch (Shimizu et al. 2026, RFS, arXiv 2602.14050).

Both go around any scheme. One draw serves the whole batch and, unlike in the first authors' code,
all layers.
"""

import torch
from torch import Tensor

from lexp.position.base import Position
from lexp.position.drawn import Drawn


class SampledPositions(Drawn):
    """A scheme at positions sampled in training, the same for all rows."""

    def __init__(self, inner: Position):
        super().__init__(inner)
        if inner.reads_indices:
            raise ValueError(
                f"{inner.title} reads indices, which are not sampled; FIRE reads positions with "
                "index: position"
            )


class RandomPositions(SampledPositions):
    """A sorted random subset of 0 .. max_pos-1; evaluation takes one subset per length."""

    def __init__(self, inner: Position, max_pos: int = 2048):
        super().__init__(inner)
        if max_pos < 1:
            raise ValueError(f"random positions need max_pos >= 1, got {max_pos}")
        self.max_len = min(max_pos, inner.max_len or max_pos)

    def sample_positions(self, seq_len: int) -> Tensor:
        """Return seq_len of the max_pos positions, ascending."""
        assert self.max_len is not None, "set by the constructor"
        chosen = torch.randperm(self.max_len, generator=self.generator())[:seq_len]
        return chosen.sort().values.double()


class RandomFloats(SampledPositions):
    """Sorted uniform reals in [0, train_len); evaluation takes the middles of equal steps.

    The paper draws from [0, 1); the multiplier is ours (its own could not be read): train_len gives
    neighbours a mean distance of 1.
    """

    def __init__(self, inner: Position, train_len: int):
        super().__init__(inner)
        if inner.max_len is not None:
            raise ValueError(f"{inner.title} is not defined between whole positions")
        self.train_len = train_len

    def sample_positions(self, seq_len: int) -> Tensor:
        """Return ascending reals [seq_len], in training uniform from 0 to train_len.

        In evaluation: (i + 1/2) train_len / max(train_len, seq_len).
        """
        if self.training:
            sampled = torch.rand(seq_len, generator=self.generator(), dtype=torch.float64)
            return sampled.sort().values * self.train_len
        middles = torch.arange(seq_len, dtype=torch.float64) + 0.5
        return middles * (self.train_len / max(self.train_len, seq_len))
