"""The layouts of the biases of one tile of queries in a tensor.

A layout reads its tensor one block of rows at a time: `added` returns what the block's scores get,
mask included; `collect` sums the gradient of those scores into the gradient of the tensor.
Shapes: B texts, H heads, R queries and the K = left + R keys up to the last of them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from lexp.attention.toeplitz import reversed_matrix


@dataclass(frozen=True)
class BiasBlock:
    """Queries start .. stop-1 of a tile of n_rows with `left` keys before its first, of `texts`.

    The block's last query sees the first `n_keys` keys, earlier queries see fewer.
    dtype: of the scores.
    """

    texts: slice
    start: int
    stop: int
    n_rows: int
    left: int
    dtype: torch.dtype

    @property
    def rows(self) -> slice:
        """Return the block's queries."""
        return slice(self.start, self.stop)

    @property
    def n_keys(self) -> int:
        """Return the number of keys up to the block's last query."""
        return self.left + self.stop


class Layout:
    """Base class of the layouts. A causal layout masks keys later than their query by itself."""

    def added(self, values: Tensor, block: BiasBlock) -> Tensor:
        """Return the summand of the block's scores, broadcastable to [texts, H, rows, n_keys].

        -inf marks masked pairs.
        """
        raise NotImplementedError

    def collect(self, d_values: Tensor, d_scores: Tensor, block: BiasBlock) -> None:
        """Add the gradient of the block's scores to d_values, the gradient of the tensor."""
        raise NotImplementedError


class NoBias(Layout):
    """Causal mask only; the tensor is not read."""

    def added(self, values: Tensor, block: BiasBlock) -> Tensor:
        """Return the mask, the same for all heads."""
        return masked(torch.zeros(1, 1, 1, dtype=block.dtype, device=values.device), block)

    def collect(self, d_values: Tensor, d_scores: Tensor, block: BiasBlock) -> None:
        """Do nothing: there is nothing to learn."""


class ToeplitzBias(Layout):
    """A bias by distance: the row [H, R + K - 1] of lexp.attention.toeplitz."""

    def added(self, values: Tensor, block: BiasBlock) -> Tensor:
        """Return the block's part of the row as a matrix, queries in order."""
        n_rows = block.stop - block.start
        view = reversed_matrix(values, n_rows, block.n_keys, block.n_rows - block.stop)
        # Copied first: of a view whose strides are equal, flip makes a column-major matrix, and
        # adding that takes seven times as long.
        return view.contiguous().flip(1)

    def collect(self, d_values: Tensor, d_scores: Tensor, block: BiasBlock) -> None:
        """Sum over the pairs of each distance."""
        sums = antidiagonal_sums(d_scores.sum(0).flip(1))
        d_values[:, block.n_rows - block.stop :][:, : sums.shape[1]] += sums


class CumulativeGateBias(Layout):
    """A bias b(query) + c(key): softmax sees c alone, [B, H, K], float64."""

    def added(self, values: Tensor, block: BiasBlock) -> Tensor:
        """Return c, 0 at the block's first query so that float32 is exact enough, and the mask."""
        values = values[block.texts, :, None, : block.n_keys]
        first = block.left + block.start
        return masked((values - values[..., first : first + 1]).to(block.dtype), block)

    def collect(self, d_values: Tensor, d_scores: Tensor, block: BiasBlock) -> None:
        """Sum over queries, less the sum over keys, which is 0 but for rounding.

        The values are sums over tokens, so the rounding error would be summed as well.
        """
        d_values[block.texts, :, : block.n_keys] += d_scores.sum(2)
        d_values[block.texts, :, block.left + block.start : block.n_keys] -= d_scores.sum(3)


class PairwiseBias(Layout):
    """A bias that reads more than the distance: [B, H, R, K], or [1, H, R, K] for all texts."""

    def added(self, values: Tensor, block: BiasBlock) -> Tensor:
        """Return the block's part and the mask."""
        return masked(values[self._texts(values, block), :, block.rows, : block.n_keys], block)

    def collect(self, d_values: Tensor, d_scores: Tensor, block: BiasBlock) -> None:
        """Add the gradient as it is, or summed over texts."""
        texts = self._texts(d_values, block)
        d_values[texts, :, block.rows, : block.n_keys] += d_scores.sum_to_size(
            len(d_values[texts]), *d_scores.shape[1:]
        )

    def _texts(self, values: Tensor, block: BiasBlock) -> slice:
        return block.texts if len(values) > 1 else slice(None)


class BandMask(Layout):
    """The mask of a bounded pattern, taken as a whole: bool [R, K], or [.., H, R, K] with biases.

    With biases the tensor holds them in floating point, and -inf where a pair is masked.
    """


def blocks(
    texts: slice, n_rows: int, left: int, size: int, dtype: torch.dtype
) -> Iterator[BiasBlock]:
    """Yield a tile's blocks of up to `size` rows, in order."""
    for start in range(0, n_rows, size):
        yield BiasBlock(texts, start, min(start + size, n_rows), n_rows, left, dtype)


def masked(values: Tensor, block: BiasBlock) -> Tensor:
    """Return values [..., rows or 1, n_keys] with -inf for keys later than their query."""
    n_rows = block.stop - block.start
    later = torch.full((n_rows, n_rows), -math.inf, dtype=values.dtype, device=values.device)
    return values + pad(later.triu(1), (block.n_keys - n_rows, 0))


def antidiagonal_sums(x: Tensor) -> Tensor:
    """Return the sums of all x[h, r, c] with the same r + c: [H, R, K] to [H, R + K - 1]."""
    n_rows, n_keys = x.shape[1:]
    # Each row is shifted one place further right than the row above it, by reading padded rows
    # that are one number shorter.
    skewed = pad(x, (0, n_rows)).flatten(1)[:, : n_rows * (n_rows + n_keys - 1)]
    return skewed.unflatten(1, (n_rows, n_rows + n_keys - 1)).sum(1)
