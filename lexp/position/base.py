"""What a position scheme is: hooks into the model, each with a neutral default."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn


class Pair(NamedTuple):
    """A (query, key) pair, or a broadcastable grid of pairs.

    `b` and `h` are batch and head index, `i` and `j` the indices of query and key in the sequence,
    `q_pos` and `k_pos` the positions that the pair is given, counted from any origin (only their
    difference means something), `n_keys` how many keys the query sees, its own included.
    """

    b: Tensor
    h: Tensor
    i: Tensor
    j: Tensor
    q_pos: Tensor
    k_pos: Tensor
    n_keys: Tensor


Bias = Callable[[Pair], Tensor]
# From scores [B, H, Q, K] (bias included), the queries and keys they were made from [B, H, ., D],
# the pairs, and which of them are allowed, to attention weights [B, H, Q, K].
AttentionWeights = Callable[[Tensor, Tensor, Tensor, Pair, Tensor], Tensor]


class Position(nn.Module):
    """A position scheme; the base class is no scheme at all.

    A scheme sees positions, never sequence lengths, attention patterns or kernels. Attention may
    hand in positions counted from any origin, which keeps every scheme exact at any length.
    """

    # Promises, which the conformance tests check.
    shift_invariant: bool = True  # scores stay if both tokens move by the same distance
    relative: bool = False  # scores read q_pos - k_pos
    has_bias: bool = False  # bias() gives a function
    by_distance: bool = False  # which reads of a pair its head and q_pos - k_pos alone
    by_token: bool = False  # which is a number of the query's token less the same of the key's
    has_attention_weights: bool = False  # attention_weights() gives a function
    has_scale: bool = False  # scale() gives numbers
    samples_positions: bool = False  # sample_positions() gives positions
    two_sided: bool = False  # defined for keys later than the query too
    splits: bool = False  # those have factors of their own, rotary_factors_ahead()
    per_layer: bool = False  # every layer has parameters of its own
    n_earlier: int = 0  # inputs before a token that bias() and attention_weights() read for it
    max_len: int | None = None  # longest sequence the scheme is defined for; None: any
    max_span: int | None = None  # most positions that rotary_factors() takes at once; None: any

    def layers(self) -> "list[Position]":
        """The schemes that layers take in turns."""
        return [self]

    def sample_positions(self, seq_len: int) -> Tensor | None:
        """Positions of a sequence's tokens, float64 [T]; None: 0 .. T-1. Asked once a forward."""
        return None

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Add positions to the token embeddings: x [B, T, d_model], positions [T] from 0."""
        return x

    def transform_qk(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """What queries and keys become before anything else: [B, H, T, D] to [B, H, T, D']."""
        return q, k

    def scale(self, n_keys: Tensor) -> Tensor | None:
        """What the score of a query and its keys is multiplied by, before any bias.

        n_keys [T], float: how many keys each query sees. Gives [T], or [H, T] by head.
        """
        return None

    def rotary_factors(self, q_pos: Tensor, k_pos: Tensor) -> tuple[Tensor, Tensor] | None:
        """Complex numbers that multiply the (even, odd) channel pairs of queries and keys.

        Positions [Q] and [K] give complex128 factors [Q, D'/2] and [K, D'/2]; the score of a pair
        is then the real part of (q f_q) conj(k f_k), summed over channels. No learned parameters.
        """
        return None

    def rotary_factors_ahead(self, q_pos: Tensor, k_pos: Tensor) -> tuple[Tensor, Tensor] | None:
        """The factors of pairs whose key comes after the query; those of all others unless given.

        Asked of two-sided schemes alone.
        """
        return self.rotary_factors(q_pos, k_pos)

    def bias(self, x: Tensor) -> Bias | None:
        """A function from a Pair to what is added to its score, after the 1/sqrt(head_dim) scaling.

        It is also asked about pairs that are masked afterwards, keys later than the query included:
        values and gradients must be finite there too (clamp distances at 0 before a log or power).
        x [B, T, d_model] is the input of the attention layer, for schemes that look at content.
        Where differences of long sums need it, in a wider precision than the scores.
        """
        return None

    def attention_weights(self, x: Tensor) -> AttentionWeights | None:
        """What takes the place of softmax, for schemes that need whole rows of scores.

        Keys come in ascending order; weights of pairs that are not allowed must be exactly 0.
        """
        return None
