"""What a position scheme is: hooks into the model, each with a neutral default."""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

from torch import Tensor, nn


class Pair(NamedTuple):
    """A (query, key) pair, or a broadcastable grid of pairs.

    `b` and `h` are batch and head index, `i` and `j` the indices of query and key in the sequence,
    `q_pos` and `k_pos` the positions that the pair is given, counted from any origin.
    """

    b: Tensor
    h: Tensor
    i: Tensor
    j: Tensor
    q_pos: Tensor
    k_pos: Tensor


Bias = Callable[[Pair], Tensor]


class Position(nn.Module):
    """A position scheme; the base class is no scheme at all.

    A scheme sees positions, never sequence lengths, attention patterns or kernels. Where
    `shift_invariant` is promised, attention may hand in positions counted from any origin,
    which is what keeps every scheme exact at any length.
    """

    shift_invariant: ClassVar[bool] = True
    has_bias: ClassVar[bool] = False
    per_layer: ClassVar[bool] = False  # True: every layer has parameters of its own
    max_len: int | None = None  # longest sequence the scheme is defined for; None: any
    max_span: int | None = None  # most positions `factors` may be asked for at once; None: any

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Add positions to the token embeddings: x [B, T, d_model], positions [T] from 0."""
        return x

    def factors(self, q_pos: Tensor, k_pos: Tensor) -> tuple[Tensor, Tensor] | None:
        """Complex numbers that multiply the (even, odd) channel pairs of queries and keys.

        Positions [Q] and [K] give complex128 factors [Q, head_dim/2] and [K, head_dim/2];
        the score of a pair is then the real part of (q f_q) conj(k f_k), summed over channels.
        """
        return None

    def bias(self, x: Tensor) -> Bias | None:
        """A function from a Pair to what is added to its score, after the 1/sqrt(head_dim) scaling.

        It is also asked about pairs that are masked afterwards, keys later than the query included:
        values and gradients must be finite there too (clamp distances at 0 before a log or power).
        x [B, T, d_model] is the input of the attention layer, for schemes that look at content.
        """
        return None
