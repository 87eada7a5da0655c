"""An absolute embedding at positions that follow from the tokens: Abacus, position coupling.

    x_t + P[c_t + k],  c_t the position of token t, k drawn from 0 .. K for each row in training
    x_t + P[0]  for a token without a position

c is worked out from the tokens of the row (lexp.data.tasks.position_ids), k is 0 in evaluation.
McLeish et al. draw one k for each batch.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lexp.position.base import Position
from lexp.position.drawn import Drawn


@runtime_checkable
class PositionIds(Protocol):
    """A rule from tokens to positions, built from the task whose problems the tokens are."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the positions of token ids [B, T], from 1, at most T + 1; 0 for none.

        A token's position depends on the tokens up to it alone.
        """
        ...


class TokenPositions(Drawn):
    """An absolute embedding, such as a learned table, at the positions that a rule gives tokens.

    ids: the rule. train_len, max_offset: a table needs rows for both together, and two.
    """

    def __init__(self, inner: Position, ids: PositionIds, train_len: int, max_offset: int = 99):
        super().__init__(inner)
        if not inner.has_embedding:
            raise ValueError(f"{inner.title} adds no positions to the embeddings")
        if max_offset < 0:
            raise ValueError(f"max_offset={max_offset} (at least 0)")
        self.ids, self.max_offset, self.reads_tokens = ids, max_offset, True
        if inner.max_len is not None:
            self.max_len = inner.max_len - 2
            if self.max_len < train_len + max_offset:
                raise ValueError(
                    f"{self.title} needs {train_len + max_offset + 2} rows, train_len={train_len}, "
                    f"max_offset={max_offset} and 2, {inner.title} has {inner.max_len}"
                )

    @property
    def title(self) -> str:
        """Return the name of the rule."""
        return type(self.ids).__name__

    def embed(self, x: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
        """Apply the inner embedding at the tokens' positions, in training with an offset."""
        ids = self.ids(tokens)
        if self.training:
            shape = (len(tokens), 1)
            offset = torch.randint(self.max_offset + 1, shape, generator=self.generator())
            ids = torch.where(ids > 0, ids + offset.to(ids.device), ids)
        return self.inner.embed(x, ids, tokens)
