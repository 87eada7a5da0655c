"""SHAPE: shifted absolute position embeddings (Kiyono et al. 2021, arXiv 2109.05644, section 3).

    x_t + P[t + k],  k drawn from 0 .. K for each row of a batch in training, 0 in evaluation

A model that sees the same text at many offsets learns what does not depend on the offset, so that
an absolute embedding serves as a relative one. The released code (butsugiri/shape a2b04a2) draws
from 0 .. K-1 and evaluates at K; K is 500 there.
"""

import torch
from torch import Tensor

from lexp.position.base import Position
from lexp.position.drawn import Drawn


class SHAPE(Drawn):
    """An absolute embedding at positions that a random offset shifts, one for each row.

    train_len, max_shift: a table needs rows for both together.
    """

    def __init__(self, inner: Position, train_len: int, max_shift: int = 500):
        super().__init__(inner)
        if not inner.has_embedding:
            raise ValueError(f"{inner.title} adds no positions to the embeddings to be shifted")
        if max_shift < 1:
            raise ValueError(f"SHAPE needs max_shift >= 1, got {max_shift}")
        needed = train_len + max_shift
        if inner.max_len is not None and inner.max_len < needed:
            raise ValueError(
                f"SHAPE needs {needed} rows, train_len={train_len} and max_shift={max_shift}, "
                f"{inner.title} has {inner.max_len}"
            )
        self.max_shift = max_shift

    def embed(self, x: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
        """Apply the inner embedding, in training at positions shifted by a draw for each row."""
        if not self.training:
            return self.inner.embed(x, positions, tokens)
        shape = (len(x), 1)
        shift = torch.randint(self.max_shift + 1, shape, generator=self.generator())
        return self.inner.embed(x, positions + shift.to(positions.device), tokens)
