"""Schemes made of schemes: several at once, or one changed by another."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from lexp.position.base import AttentionWeights, Bias, Factors, Pair, Position

Merge = Callable[[Iterable[Any]], Any]


def least(sizes: Iterable[int | None]) -> int | None:
    """Return the least of the sizes that are limits."""
    return min((size for size in sizes if size is not None), default=None)


# How a scheme made of several has each property that a scheme declares.
MERGED: dict[str, Merge] = {
    "shift_invariant": all,
    "by_length": any,
    "two_sided": all,
    "per_layer": any,
    "reads_indices": any,
    "reads_tokens": any,
    "applied_inside": any,
    "n_earlier": max,
    "max_len": least,
    "max_span": least,
}
# Those that say how something is read are merged over the parts that read it.
MERGED_OF_READERS: dict[str, Merge] = {"relative": all}
MERGED_OF_BIASES: dict[str, Merge] = {"by_distance": all, "by_token": all}
MERGED_OF_SCORES: dict[str, Merge] = {"reads_inputs": any}


def take_properties(whole: Position, parts: Sequence[Position]) -> None:
    """Give a scheme the properties that follow from those of its parts."""
    readers = [part for part in parts if part.reads_positions]
    biases = [part for part in parts if part.has_bias]
    scores = [part for part in parts if part.has_input_hooks]
    groups = (
        (parts, MERGED), (readers, MERGED_OF_READERS), (biases, MERGED_OF_BIASES),
        (scores, MERGED_OF_SCORES),
    )  # fmt: skip
    for some, merged in groups:
        for name, merge in merged.items():
            # As the base class has it where no part says anything.
            values = [getattr(part, name) for part in some] or [getattr(Position, name)]
            setattr(whole, name, merge(values))


class Wrapper(Position):
    """A scheme that acts like `inner` at every hook that a subclass does not override."""

    def __init__(self, inner: Position):
        super().__init__()
        self.inner = inner
        take_properties(self, [inner])

    @property
    def title(self) -> str:
        """Return the inner scheme's title: most wrappers are extensions with names of their own."""
        return self.inner.title

    def overrides(self, hook: str) -> bool:
        """Return whether a subclass overrides a hook, or else the inner scheme."""
        method = getattr(type(self), hook)
        if method is getattr(Wrapper, hook):
            return self.inner.overrides(hook)
        return method is not getattr(Position, hook)

    @property
    def counts_from_zero(self) -> bool:
        """Return whether attention has to count positions from the text's first token."""
        return self.inner.counts_from_zero

    def sample_positions(self, seq_len: int) -> Tensor | None:
        """Delegate to the inner scheme."""
        return self.inner.sample_positions(seq_len)

    def embed(self, x: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
        """Delegate to the inner scheme."""
        return self.inner.embed(x, positions, tokens)

    def transform_qk(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Delegate to the inner scheme."""
        return self.inner.transform_qk(q, k)

    def scale(self, n_keys: Tensor) -> Tensor | None:
        """Delegate to the inner scheme."""
        return self.inner.scale(n_keys)

    def rotary_factors(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors | None:
        """Delegate to the inner scheme."""
        return self.inner.rotary_factors(q_pos, k_pos, seq_len)

    def rotary_factors_ahead(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors | None:
        """Delegate to the inner scheme."""
        return self.inner.rotary_factors_ahead(q_pos, k_pos, seq_len)

    def sink_logits(self) -> Tensor | None:
        """Delegate to the inner scheme, unless a subclass has weights of its own."""
        own = type(self).attention_weights is not Wrapper.attention_weights
        return None if own else self.inner.sink_logits()

    def angles(self, x: Tensor) -> Tensor | None:
        """Delegate to the inner scheme."""
        return self.inner.angles(x)

    def log_decays(self, x: Tensor) -> Tensor | None:
        """Delegate to the inner scheme."""
        return self.inner.log_decays(x)

    def bias(self, x: Tensor) -> Bias | None:
        """Delegate to the inner scheme."""
        return self.inner.bias(x)

    def attention_weights(self, x: Tensor) -> AttentionWeights | None:
        """Delegate to the inner scheme."""
        return self.inner.attention_weights(x)


class Sum(Position):
    """Several schemes at once: biases are added, factors and scales multiplied.

    If one of them has parameters of its own in every layer, all of them do.
    """

    def __init__(self, schemes: list[Position]):
        super().__init__()
        schemes = [part for scheme in schemes for part in scheme.parts]
        if len(schemes) < 2:
            raise ValueError("together needs two schemes or more")
        for part in schemes:
            if part.samples_positions:
                raise ValueError(f"together: {part.title} cannot be one of several schemes")
        if any(p.per_layer for p in schemes) and any(p.has_embedding for p in schemes):
            raise ValueError("together: embeddings have no layers, and one of the schemes has")
        if sum(part.has_attention_weights for part in schemes) > 1:
            raise ValueError("together: only one scheme can take the place of softmax")
        decaying = next((part for part in schemes if part.has_log_decays), None)
        if decaying and any(part.has_rotary_factors or part.has_angles for part in schemes):
            # Channels of a pair decay by themselves: rotated first, scores would read the angle
            # from the origin, not the difference.
            raise ValueError(f"together: {decaying.title} cannot stand with a rotation")
        self.schemes = nn.ModuleList(schemes)
        take_properties(self, schemes)

    @property
    def parts(self) -> list[Position]:
        """Return the schemes, in order."""
        return [part for part in self.schemes if isinstance(part, Position)]

    def with_parts(self, parts: list[Position]) -> Position:
        """Return a copy with other schemes in the places of the present ones."""
        other = copy.copy(self)
        other._modules = {**self._modules, "schemes": nn.ModuleList(parts)}
        take_properties(other, parts)
        return other

    @property
    def title(self) -> str:
        """Return the titles of the parts."""
        return " + ".join(part.title for part in self.parts)

    def overrides(self, hook: str) -> bool:
        """Return whether one of the parts does something of its own at a hook."""
        return any(part.overrides(hook) for part in self.parts)

    @property
    def counts_from_zero(self) -> bool:
        """Return whether one of the parts needs positions counted from the text's first token."""
        return any(part.counts_from_zero for part in self.parts)

    def embed(self, x: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
        """Apply the embeddings of all parts, one after the other."""
        for part in self.parts:
            x = part.embed(x, positions, tokens)
        return x

    def transform_qk(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the transformations of all parts, one after the other."""
        for part in self.parts:
            q, k = part.transform_qk(q, k)
        return q, k

    def scale(self, n_keys: Tensor) -> Tensor | None:
        """Return the product of the scales."""
        total = None
        for part in self.parts:
            scale = part.scale(n_keys)
            if scale is not None:
                total = scale if total is None else total * scale
        return total

    def rotary_factors(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors | None:
        """Return the products of the factors."""
        return product([part.rotary_factors(q_pos, k_pos, seq_len) for part in self.parts])

    def rotary_factors_ahead(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors | None:
        """Return the products of the factors for keys after the query."""
        return product([part.rotary_factors_ahead(q_pos, k_pos, seq_len) for part in self.parts])

    def angles(self, x: Tensor) -> Tensor | None:
        """Return the sum of the angles."""
        return total([part.angles(x) for part in self.parts])

    def log_decays(self, x: Tensor) -> Tensor | None:
        """Return the sum of the logarithms."""
        return total([part.log_decays(x) for part in self.parts])

    def bias(self, x: Tensor) -> Bias | None:
        """Return the sum of the biases."""
        functions = [b for part in self.parts if (b := part.bias(x)) is not None]
        if not functions:
            return None

        def added(pair: Pair) -> Tensor:
            total = functions[0](pair)
            for function in functions[1:]:
                total = total + function(pair)
            return total

        return added

    def sink_logits(self) -> Tensor | None:
        """Return the logits of the one part that has weights, if it has any."""
        return next((p.sink_logits() for p in self.parts if p.has_attention_weights), None)

    def attention_weights(self, x: Tensor) -> AttentionWeights | None:
        """Return the weights of the one part that has some."""
        for part in self.parts:
            if (weights := part.attention_weights(x)) is not None:
                return weights
        return None


def total(summands: list[Tensor | None]) -> Tensor | None:
    """Return the sum of those that are there, or None."""
    present = [summand for summand in summands if summand is not None]
    return sum(present[1:], present[0]) if present else None


def product(factors: list[Factors | None]) -> Factors | None:
    """Return the products of the factors of those schemes that have any."""
    present = [pair for pair in factors if pair is not None]
    if not present:
        return None
    q, k = present[0]
    for q_more, k_more in present[1:]:
        q, k = q * q_more, k * k_more
    return q, k
