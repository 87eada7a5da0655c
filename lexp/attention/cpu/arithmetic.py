"""How a CPU computes the products of a block of rows: in full precision, or in bfloat16 units.

Shapes: N is texts x heads of keys, and S query heads share each of those, as further rows of a
product; R queries and K keys of a block.
"""

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor


def scores_dtype(q: Tensor) -> torch.dtype:
    """Return the precision in which the scores of queries are computed."""
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def arithmetic_of(q: Tensor) -> "Arithmetic":
    """Return the arithmetic for queries of a precision."""
    return InBfloat16() if q.dtype == torch.bfloat16 else FullPrecision()


class Arithmetic(ABC):
    """The products of a block, and how much is computed together. n_rows: rows of a block."""

    n_rows: int

    @abstractmethod
    def n_texts(self, n_heads: int, n_keys: int) -> int:
        """Return how many texts are computed together, so that their scores stay in the cache."""

    @abstractmethod
    def precision(self) -> AbstractContextManager[None]:
        """Return the context that products are taken in."""

    @abstractmethod
    def scores(self, q: Tensor, k: Tensor, added: Tensor, scale: float) -> Tensor:
        """Return scale * q k^T + added: [N, S * R, K] of q [N, S * R, D] and k [N, K, D].

        added: broadcastable to [texts, heads, R, K], with at least three dimensions.
        """

    @abstractmethod
    def centred(self, grad: Tensor, v: Tensor, dots: Tensor) -> Tensor:
        """Return grad v^T - dots: [N, S * R, K] of grad [N, S * R, D], v [N, K, D] and dots."""


@dataclass(frozen=True)
class FullPrecision(Arithmetic):
    """In the precision of the scores: products are added to the summand, in one pass."""

    n_rows: int = 64
    max_scores: int = 1 << 19  # 2 MiB of float32

    def n_texts(self, n_heads: int, n_keys: int) -> int:
        """Return how many texts have max_scores scores in a block."""
        return max(1, self.max_scores // (n_heads * self.n_rows * n_keys))

    def precision(self) -> AbstractContextManager[None]:
        """Return no context."""
        return contextlib.nullcontext()

    def scores(self, q: Tensor, k: Tensor, added: Tensor, scale: float) -> Tensor:
        """Return scale * q k^T + added."""
        scores = q.new_empty(*q.shape[:2], k.shape[1])
        scores.view(-1, *added.shape[-3:]).copy_(added)
        return scores.baddbmm_(q, k.mT, alpha=scale)

    def centred(self, grad: Tensor, v: Tensor, dots: Tensor) -> Tensor:
        """Return grad v^T - dots."""
        return torch.baddbmm(dots, grad, v.mT, beta=-1)


@dataclass(frozen=True)
class InBfloat16(Arithmetic):
    """Of float32 numbers that were bfloat16, in the bfloat16 units; everything else in float32."""

    n_rows: int = 64
    max_heads: int = 32  # texts x heads

    def n_texts(self, n_heads: int, n_keys: int) -> int:
        """Return how many whole texts have max_heads heads."""
        return math.ceil(self.max_heads / n_heads)

    def precision(self) -> AbstractContextManager[None]:
        """Return the context of bfloat16 products."""
        return bfloat16_products(True)

    def scores(self, q: Tensor, k: Tensor, added: Tensor, scale: float) -> Tensor:
        """Return scale * q k^T + added.

        Scaled afterwards: scaled queries would be rounded, unlike those of the forward pass.
        """
        scores = torch.bmm(q, k.mT).mul_(scale)
        scores.view(-1, *added.shape[-3:]).add_(added)
        return scores

    def centred(self, grad: Tensor, v: Tensor, dots: Tensor) -> Tensor:
        """Return grad v^T - dots."""
        return torch.bmm(grad, v.mT).sub_(dots)


@contextlib.contextmanager
def bfloat16_products(enabled: bool) -> Iterator[None]:
    """Compute float32 products of the block in the bfloat16 units, with float32 sums.

    This loses nothing for numbers that came from bfloat16.
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    if enabled:
        matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
