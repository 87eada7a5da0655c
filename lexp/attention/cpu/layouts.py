"""How biases of causal attention are laid out in one tensor, and read a block of rows at a time.

A layout gives what is added to the scores of a block's queries and keys, the mask with it, and sums
the gradient of those scores into a gradient of its tensor. Shapes: B texts, H heads, R queries and
the K = left + R keys up to the last of them.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from lexp.attention.cpu.toeplitz import matrix


@dataclass(frozen=True)
class BiasBlock:
    """Queries start .. stop-1 of a tile of n_rows with `left` keys before its first, of `texts`.

    They see the first `n_keys` keys, the last queries of the block fewer. dtype: of the scores.
    """

    texts: slice
    start: int
    stop: int
    n_rows: int
    left: int
    dtype: torch.dtype

    @property
    def rows(self) -> slice:
        """The queries."""
        return slice(self.start, self.stop)

    @property
    def n_keys(self) -> int:
        """Keys up to the block's last query."""
        return self.left + self.stop


class Layout(Protocol):
    """One of the classes below."""

    def added(self, values: Tensor, block: BiasBlock) -> Tensor:
        """What the block's scores [texts, H, rows, n_keys] get, broadcastable; -inf: masked."""

    def collect(self, d_values: Tensor, d_scores: Tensor, block: BiasBlock) -> None:
        """Add the gradient of the block's scores to that of the values."""


class NoBias:
    """Nothing but the mask; what stands for values is not read."""

    def added(self, values: Tensor, block: BiasBlock) -> Tensor:
        """The same for all heads."""
        return masked(torch.zeros(1, 1, 1, dtype=block.dtype, device=values.device), block)

    def collect(self, d_values: Tensor, d_scores: Tensor, block: BiasBlock) -> None:
        """There is nothing to learn."""


class ToeplitzBias:
    """A row of by_distance.py, [H, R + K - 1]."""

    def added(self, values: Tensor, block: BiasBlock) -> Tensor:
        """The row's numbers, its queries put in order."""
        n_rows = block.stop - block.start
        # Copied first: of a view whose strides are equal flip makes a matrix that lies by columns,
        # and adding that takes seven times as long.
        return matrix(values, n_rows, block.n_keys, block.n_rows - block.stop).contiguous().flip(1)

    def collect(self, d_values: Tensor, d_scores: Tensor, block: BiasBlock) -> None:
        """Sums of equal distances."""
        sums = antidiagonal_sums(d_scores.sum(0).flip(1))
        d_values[:, block.n_rows - block.stop :][:, : sums.shape[1]] += sums


class CumulativeGateBias:
    """A number for each key, [B, H, K], float64: all that softmax sees of b(query) + c(key)."""

    def added(self, values: Tensor, block: BiasBlock) -> Tensor:
        """The same for all queries but for the mask; 0 at the block's first, so float32 will do."""
        values = values[block.texts, :, None, : block.n_keys]
        first = block.left + block.start
        return masked((values - values[..., first : first + 1]).to(block.dtype), block)

    def collect(self, d_values: Tensor, d_scores: Tensor, block: BiasBlock) -> None:
        """Sums over queries; less those over keys, which are 0 but for rounding.

        The values are sums over tokens: what rounding has left over would be summed as well.
        """
        d_values[block.texts, :, : block.n_keys] += d_scores.sum(2)
        d_values[block.texts, :, block.left + block.start : block.n_keys] -= d_scores.sum(3)


class PairwiseBias:
    """A number for each pair, [B, H, R, K], or the same ones for all texts, [1, H, R, K]."""

    def added(self, values: Tensor, block: BiasBlock) -> Tensor:
        """Those of the block."""
        return masked(values[self._texts(values, block), :, block.rows, : block.n_keys], block)

    def collect(self, d_values: Tensor, d_scores: Tensor, block: BiasBlock) -> None:
        """As they are, or sums over texts."""
        texts = self._texts(d_values, block)
        d_values[texts, :, block.rows, : block.n_keys] += d_scores.sum_to_size(
            len(d_values[texts]), *d_scores.shape[1:]
        )

    def _texts(self, values: Tensor, block: BiasBlock) -> slice:
        return block.texts if len(values) > 1 else slice(None)


def masked(values: Tensor, block: BiasBlock) -> Tensor:
    """Values [..., rows or 1, n_keys] with -inf for keys later than their query."""
    n_rows = block.stop - block.start
    later = torch.full((n_rows, n_rows), -math.inf, dtype=values.dtype, device=values.device)
    return values + pad(later.triu(1), (block.n_keys - n_rows, 0))


def antidiagonal_sums(x: Tensor) -> Tensor:
    """[H, R, K] to [H, R + K - 1]: sums of all x[h, r, c] with the same r + c."""
    n_rows, n_keys = x.shape[1:]
    # Each row one place further right than the one above, by reading padded rows a number shorter.
    skewed = pad(x, (0, n_rows)).flatten(1)[:, : n_rows * (n_rows + n_keys - 1)]
    return skewed.unflatten(1, (n_rows, n_rows + n_keys - 1)).sum(1)
