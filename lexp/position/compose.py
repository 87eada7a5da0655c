"""Schemes made of schemes: several at once, or one after the other by layer."""

from torch import Tensor, nn

from lexp.position.base import AttentionWeights, Bias, Pair, Position


class Wrapper(Position):
    """A scheme that acts like `inner` in everything it does not change."""

    def __init__(self, inner: Position):
        super().__init__()
        if len(inner.layers()) > 1:
            raise ValueError(f"{type(self).__name__} goes inside Alternate, not around it")
        self.inner = inner
        self.shift_invariant = inner.shift_invariant
        self.relative = inner.relative
        self.has_bias = inner.has_bias
        self.by_distance = inner.by_distance
        self.by_token = inner.by_token
        self.has_attention_weights = inner.has_attention_weights
        self.has_scale = inner.has_scale
        self.samples_positions = inner.samples_positions
        self.splits = inner.splits
        self.per_layer = inner.per_layer
        self.n_earlier = inner.n_earlier
        self.max_len = inner.max_len
        self.max_span = inner.max_span

    def sample_positions(self, seq_len: int) -> Tensor | None:
        """As the inner scheme."""
        return self.inner.sample_positions(seq_len)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """As the inner scheme."""
        return self.inner.embed(x, positions)

    def transform_qk(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """As the inner scheme."""
        return self.inner.transform_qk(q, k)

    def scale(self, n_keys: Tensor) -> Tensor | None:
        """As the inner scheme."""
        return self.inner.scale(n_keys)

    def rotary_factors(self, q_pos: Tensor, k_pos: Tensor) -> tuple[Tensor, Tensor] | None:
        """As the inner scheme."""
        return self.inner.rotary_factors(q_pos, k_pos)

    def rotary_factors_ahead(self, q_pos: Tensor, k_pos: Tensor) -> tuple[Tensor, Tensor] | None:
        """As the inner scheme."""
        return self.inner.rotary_factors_ahead(q_pos, k_pos)

    def bias(self, x: Tensor) -> Bias | None:
        """As the inner scheme."""
        return self.inner.bias(x)

    def attention_weights(self, x: Tensor) -> AttentionWeights | None:
        """As the inner scheme."""
        return self.inner.attention_weights(x)


class Sum(Position):
    """Several schemes at once: biases are added, factors and scales multiplied.

    If one of them has parameters of its own in every layer, all of them do.
    """

    def __init__(self, schemes: list[Position]):
        super().__init__()
        schemes = [p for s in schemes for p in (s.parts if isinstance(s, Sum) else [s])]
        refuse_wholes("together", schemes)
        if any(p.per_layer for p in schemes) and any(acts_on_embeddings(p) for p in schemes):
            raise ValueError("together: embeddings have no layers, and one of the schemes has")
        if sum(part.has_attention_weights for part in schemes) > 1:
            raise ValueError("together: only one scheme can take the place of softmax")
        self.schemes = nn.ModuleList(schemes)
        self.shift_invariant = all(part.shift_invariant for part in schemes)
        self.relative = any(part.relative for part in schemes)
        self.has_bias = any(part.has_bias for part in schemes)
        self.by_distance = all(part.by_distance or not part.has_bias for part in schemes)
        self.by_token = all(part.by_token or not part.has_bias for part in schemes)
        self.has_attention_weights = any(part.has_attention_weights for part in schemes)
        self.has_scale = any(part.has_scale for part in schemes)
        self.two_sided = all(part.two_sided for part in schemes)
        self.splits = any(part.splits for part in schemes)
        self.per_layer = any(part.per_layer for part in schemes)
        self.n_earlier = max(part.n_earlier for part in schemes)
        self.max_len = min((p.max_len for p in schemes if p.max_len is not None), default=None)
        self.max_span = min((p.max_span for p in schemes if p.max_span is not None), default=None)

    def replace(self, schemes: list[Position]) -> None:
        """Take other schemes in the places of the present ones."""
        self._modules = {**self._modules, "schemes": nn.ModuleList(schemes)}
        self.max_span = min((p.max_span for p in schemes if p.max_span is not None), default=None)

    @property
    def parts(self) -> list[Position]:
        """The schemes, in order."""
        return [part for part in self.schemes if isinstance(part, Position)]

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """One embedding after the other."""
        for part in self.parts:
            x = part.embed(x, positions)
        return x

    def transform_qk(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """One after the other."""
        for part in self.parts:
            q, k = part.transform_qk(q, k)
        return q, k

    def scale(self, n_keys: Tensor) -> Tensor | None:
        """The product."""
        total = None
        for part in self.parts:
            found = part.scale(n_keys)
            if found is not None:
                total = found if total is None else total * found
        return total

    def rotary_factors(self, q_pos: Tensor, k_pos: Tensor) -> tuple[Tensor, Tensor] | None:
        """The products."""
        return product([part.rotary_factors(q_pos, k_pos) for part in self.parts])

    def rotary_factors_ahead(self, q_pos: Tensor, k_pos: Tensor) -> tuple[Tensor, Tensor] | None:
        """The products."""
        return product([part.rotary_factors_ahead(q_pos, k_pos) for part in self.parts])

    def bias(self, x: Tensor) -> Bias | None:
        """The sum."""
        functions = [b for part in self.parts if (b := part.bias(x)) is not None]
        if not functions:
            return None

        def added(pair: Pair) -> Tensor:
            total = functions[0](pair)
            for function in functions[1:]:
                total = total + function(pair)
            return total

        return added

    def attention_weights(self, x: Tensor) -> AttentionWeights | None:
        """That of the one scheme which has it."""
        return next(
            (w for part in self.parts if (w := part.attention_weights(x)) is not None), None
        )


class Alternate(Position):
    """Layers take the schemes in turns, the first layer the first one.

    If one of them has parameters of its own in every layer, all of them do.
    """

    def __init__(self, schemes: list[Position]):
        super().__init__()
        refuse_wholes("alternate", schemes)
        if any(acts_on_embeddings(part) for part in schemes):
            raise ValueError("alternate: schemes that act on the embeddings have no layer")
        self.schemes = nn.ModuleList(schemes)
        self.per_layer = any(part.per_layer for part in schemes)

    def layers(self) -> list[Position]:
        """The schemes in order."""
        return [part for part in self.schemes if isinstance(part, Position)]


def product(factors: list[tuple[Tensor, Tensor] | None]) -> tuple[Tensor, Tensor] | None:
    """Of the factors of those schemes that have any."""
    found = [pair for pair in factors if pair is not None]
    if not found:
        return None
    q, k = found[0]
    for q_more, k_more in found[1:]:
        q, k = q * q_more, k * k_more
    return q, k


def acts_on_embeddings(position: Position) -> bool:
    """Whether a scheme, or one inside it, changes the token embeddings."""
    inside = [part for part in position.modules() if isinstance(part, Position)]
    plain = (Position.embed, Wrapper.embed, Sum.embed)
    return any(type(part).embed not in plain for part in inside)


def refuse_wholes(name: str, schemes: list[Position]) -> None:
    """ValueError for parts that only make sense as the whole of a model's positions."""
    if len(schemes) < 2:
        raise ValueError(f"{name} needs two schemes or more")
    for part in schemes:
        if part.samples_positions or len(part.layers()) > 1:
            raise ValueError(f"{name}: {type(part).__name__} cannot be one of several schemes")
