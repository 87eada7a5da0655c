"""Position interpolation (Chen et al. 2023, arXiv 2306.15595): positions squeezed, m to m / s."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lexp.extension.base import ByFactor, Lengths, Modified
from lexp.position import SHAPE, Learned, Pair, Position, Sinusoidal
from lexp.position.base import AttentionWeights, Bias, Factors
from lexp.system.errors import NotDefined


@dataclass(frozen=True)
class PI(ByFactor):
    """Positions divided by the factor, for any scheme that reads positions.

    Learned embeddings are read linearly between their rows. FIRE's index is divided too.
    """

    name = "pi"

    def change_part(self, position: Position, lengths: Lengths) -> Position:
        """Return the scheme at positions m / s."""
        s = self.factor_for(lengths)
        if isinstance(position, SHAPE):
            return self.change_part(position.inner, lengths)  # which it is in evaluation
        if isinstance(position, Learned):
            return BetweenRows(position, s)
        if not (position.reads_positions or isinstance(position, Sinusoidal)):
            raise NotDefined(f"pi divides positions, {position.title} has none to divide")
        return Interpolated(position, s)


class Interpolated(Modified):
    """A scheme at positions divided by s."""

    def __init__(self, inner: Position, s: float):
        super().__init__(inner)
        self.s = s
        self.max_span = None if inner.max_span is None else int(inner.max_span * s)

    def embed(self, x: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
        """Return the inner embedding at m / s."""
        return self.inner.embed(x, positions / self.s, tokens)

    def rotary_factors(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors | None:
        """Return the inner factors at m / s."""
        return self.inner.rotary_factors(q_pos / self.s, k_pos / self.s, seq_len)

    def rotary_factors_ahead(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors | None:
        """Return the inner factors for keys after the query, at m / s."""
        return self.inner.rotary_factors_ahead(q_pos / self.s, k_pos / self.s, seq_len)

    def bias(self, x: Tensor) -> Bias | None:
        """Return the inner bias at m / s."""
        inner = self.inner.bias(x)
        return None if inner is None else lambda pair: inner(self._squeezed(pair))

    def attention_weights(self, x: Tensor) -> AttentionWeights | None:
        """Return the inner weights at m / s."""
        inner = self.inner.attention_weights(x)
        if inner is None:
            return None

        def weights(scores: Tensor, q: Tensor, k: Tensor, pair: Pair, allowed: Tensor) -> Tensor:
            return inner(scores, q, k, self._squeezed(pair), allowed)

        return weights

    def _squeezed(self, pair: Pair) -> Pair:
        s = self.s
        return pair._replace(
            q_pos=pair.q_pos / s, k_pos=pair.k_pos / s, i=pair.i / s, j=pair.j / s,
            n_keys=1 + (pair.n_keys - 1) / s,
        )  # fmt: skip


class BetweenRows(Modified):
    """A learned table read at positions divided by s, linearly between its rows."""

    def __init__(self, inner: Learned, s: float):
        super().__init__(inner)
        self.s, self.table = s, inner.table
        self.max_len = int(len(inner.table) * s)

    def embed(self, x: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
        """Add the interpolated rows; past the last one, its own."""
        at = (positions / self.s).clamp(max=len(self.table) - 1)
        low = at.floor().long()
        high = (low + 1).clamp(max=len(self.table) - 1)
        share = (at - low)[..., None].to(self.table.dtype)
        return x + torch.lerp(self.table[low], self.table[high], share)
