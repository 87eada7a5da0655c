"""The base class of position schemes: hooks into the model, each with a neutral default."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor, nn


class Pair(NamedTuple):
    """A (query, key) pair, or a broadcastable grid of pairs.

    `b` and `h` are batch and head index, `i` and `j` the indices of query and key in the sequence,
    `q_pos` and `k_pos` their positions, `n_keys` how many keys the query sees, its own included.
    score_scale: what the pattern multiplies q . k by.
    """

    b: Tensor
    h: Tensor
    i: Tensor
    j: Tensor
    q_pos: Tensor
    k_pos: Tensor
    n_keys: Tensor
    score_scale: float = 1.0


# From a pair to what is added to its score.
Bias = Callable[[Pair], Tensor]
# From scores [B, H, Q, K] (bias included), the queries and keys they were made from [B, H, ., D],
# the pairs, and which of them are allowed, to attention weights [B, H, Q, K].
AttentionWeights = Callable[[Tensor, Tensor, Tensor, Pair, Tensor], Tensor]
# Rotary factors of queries and of keys.
Factors = tuple[Tensor, Tensor]


class Position(nn.Module):
    """A position scheme; the base class is no scheme at all.

    A scheme overrides the hooks it needs and declares the properties that follow. Attention hands
    in positions counted from any origin where a scheme is `shift_invariant` or `relative`, which
    keeps it exact at any length, and from the text's first token where it is neither.
    """

    # Properties that a class declares; compose.py says how schemes made of schemes have them.
    shift_invariant: bool = True  # scores stay if both tokens move by the same distance
    relative: bool = False  # scores read positions, and those as q_pos - k_pos alone
    by_distance: bool = False  # bias() reads of a pair its head and q_pos - k_pos alone
    by_token: bool = False  # bias() is a number of the query's token less the same of the key's
    by_length: bool = False  # rotary_factors() reads seq_len
    two_sided: bool = False  # defined for keys later than the query too
    per_layer: bool = False  # every layer has parameters of its own
    reads_indices: bool = False  # Pair.i, j or n_keys are read as positions
    reads_tokens: bool = False  # embed() reads token ids
    reads_inputs: bool = True  # hooks with x, if the scheme has any, read it
    applied_inside: bool = False  # a model's own layers apply it: nothing can move its positions
    n_earlier: int = 0  # inputs before a token that hooks with x read for it
    max_len: int | None = None  # longest sequence the scheme is defined for; None: any
    max_span: int | None = None  # most positions that rotary_factors() takes at once; None: any
    # The angle per token of each channel pair, fastest first, if that is what rotary_factors()
    # reads from here: extensions (NTK, YaRN, ...) replace these numbers in a copy of the scheme.
    frequencies: Sequence[float] = ()
    # Parameters, by name, that stay within a least and a most number: move_into_bounds().
    bounds: Mapping[str, tuple[float, float]] = MappingProxyType({})

    def move_into_bounds(self) -> None:
        """Move the numbers of parameters to their nearest bound, outside of the graph.

        A scheme with bounds calls it before it uses the parameters. They keep their gradients,
        which a clamp in the graph would stop for good where one is outside.
        """
        for name, (least, most) in self.bounds.items():
            # Through `data`: each layer saves a shared parameter for the backward pass, and a
            # change that autograd counts would make that copy invalid.
            self.get_parameter(name).data.clamp_(least, most)

    @property
    def parts(self) -> "list[Position]":
        """Return the schemes that act at once in a layer."""
        return [self]

    def with_parts(self, parts: "list[Position]") -> "Position":
        """Return the scheme with other schemes in the places of its parts."""
        (part,) = parts
        return part

    @property
    def title(self) -> str:
        """Return the scheme's name in messages: that of the class which the user chose."""
        return type(self).__name__

    def overrides(self, hook: str) -> bool:
        """Return whether the scheme does something of its own at a hook, given by name."""
        return getattr(type(self), hook) is not getattr(Position, hook)

    @property
    def samples_positions(self) -> bool:
        """Return whether sample_positions() gives positions."""
        return self.overrides("sample_positions")

    @property
    def has_embedding(self) -> bool:
        """Return whether embed() changes the token embeddings."""
        return self.overrides("embed")

    @property
    def transforms_qk(self) -> bool:
        """Return whether transform_qk() changes queries and keys."""
        return self.overrides("transform_qk")

    @property
    def has_scale(self) -> bool:
        """Return whether scale() gives numbers."""
        return self.overrides("scale")

    @property
    def has_rotary_factors(self) -> bool:
        """Return whether rotary_factors() gives factors."""
        return self.overrides("rotary_factors")

    @property
    def has_factors_ahead(self) -> bool:
        """Return whether keys later than the query have rotary factors of their own."""
        return self.overrides("rotary_factors_ahead")

    @property
    def has_angles(self) -> bool:
        """Return whether angles() gives numbers."""
        return self.overrides("angles")

    @property
    def has_log_decays(self) -> bool:
        """Return whether log_decays() gives numbers."""
        return self.overrides("log_decays")

    @property
    def has_bias(self) -> bool:
        """Return whether bias() gives a function."""
        return self.overrides("bias")

    @property
    def has_attention_weights(self) -> bool:
        """Return whether attention_weights() gives a function."""
        return self.overrides("attention_weights")

    @property
    def has_input_hooks(self) -> bool:
        """Return whether a hook that attention calls is given the inputs of the layer."""
        of_keys = self.has_angles or self.has_log_decays
        return of_keys or self.has_bias or self.has_attention_weights

    @property
    def replaces_softmax(self) -> bool:
        """Return whether weights are no softmax of the scores, a sink beside them or not."""
        return self.has_attention_weights and self.sink_logits() is None

    @property
    def counts_from_zero(self) -> bool:
        """Return whether attention has to count positions from the text's first token.

        Not for schemes that read differences of positions alone (FIRE, which reads indices too),
        nor for those that act on the embeddings alone.
        """
        if self.shift_invariant or self.relative:
            return False
        return self.has_rotary_factors or self.has_bias or self.has_attention_weights

    @property
    def reads_positions(self) -> bool:
        """Return whether attention reads positions, which patterns and extensions can then move."""
        return self.relative or self.counts_from_zero

    def sample_positions(self, seq_len: int) -> Tensor | None:
        """Return positions of a sequence's tokens, ascending, float64 [T]; None: 0 .. T-1.

        Asked once a forward pass.
        """
        return None

    def embed(self, x: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
        """Add positions to the token embeddings x [B, T, d_model] of token ids [B, T].

        positions [T] or [B, T].
        """
        return x

    def transform_qk(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Change queries and keys before anything else: [B, H, T, D] to [B, H, T, D']."""
        return q, k

    def scale(self, n_keys: Tensor) -> Tensor | None:
        """Return the multiplier of a query's scores, before any bias: [T], or [H, T] by head.

        n_keys [T], float: how many keys each query sees.
        """
        return None

    def rotary_factors(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors | None:
        """Return complex numbers that multiply the (even, odd) channel pairs of queries and keys.

        Positions, float64 [Q] and [K], of a sequence of seq_len tokens give factors [Q, D'/2] and
        [K, D'/2], or [H, Q, D'/2] and [H, K, D'/2] by head, on the positions' device; complex128
        unless learned. The score of a pair is then the real part of (q f_q) conj(k f_k), summed
        over channels. Where no parameter takes part they are made once and kept.
        """
        return None

    def rotary_factors_ahead(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors | None:
        """Return factors of pairs whose key comes after the query; by default those of all pairs.

        Asked of two-sided schemes alone.
        """
        return self.rotary_factors(q_pos, k_pos, seq_len)

    def angles(self, x: Tensor) -> Tensor | None:
        """Return the angle of each token's rotation, [B, H, T, D'/2], in radians.

        The (even, odd) channel pairs of queries and keys alike are turned by it, so that scores
        read differences: running sums over tokens of what x [B, T, d_model] says, from any origin,
        in float64, as long sums cancel.
        """
        return None

    def log_decays(self, x: Tensor) -> Tensor | None:
        """Return the logarithm of each channel's decay up to a token, [B, H, T, D'].

        Channel c then adds q_ic k_jc exp(l_ic - l_jc) to the score of a pair. Like angles(), these
        are running sums over tokens; they never rise, so that no pair's factor is above 1. Keys
        later than the query have no factor: not for two-sided schemes.
        """
        return None

    def bias(self, x: Tensor) -> Bias | None:
        """Return a function from a Pair to its bias, added to scores scaled by 1/sqrt(head_dim).

        It is also asked about pairs that are masked afterwards, keys later than the query included:
        values and gradients must be finite there too (clamp distances at 0 before a log or power).
        x [B, T, d_model] is the input of the attention layer, for schemes that look at content.
        Where differences of long sums need it, in a wider precision than the scores.
        """
        return None

    def sink_logits(self) -> Tensor | None:
        """Return one logit per head [H] if attention_weights() is softmax with that much added.

        The sum of exponentials then has one summand more, and no bias is learned: a kernel that
        returns its log-sum-exp can compute it.
        """
        return None

    def attention_weights(self, x: Tensor) -> AttentionWeights | None:
        """Return a function in place of softmax, for schemes that need whole rows of scores.

        Queries are consecutive tokens, keys of each span come in ascending order, and a key is the
        same at every call. Weights of pairs that are not allowed must be exactly 0.
        """
        return None
