"""The base classes of extensions, which adapt trained models to longer texts."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from lexp.attention import layer_pairs
from lexp.model.transformer import Transformer
from lexp.pattern import Pattern
from lexp.position import Position
from lexp.position.compose import Wrapper
from lexp.system.errors import NotDefined
from lexp.system.text import label_of


@dataclass(frozen=True)
class Lengths:
    """Lengths, in tokens, that an extension is made for; longest: of the evaluation as a whole."""

    train_len: int
    length: int
    longest: int


# Token ids [n, length] of texts the model was trained on, for extensions that measure something.
Sample = Callable[[int, int], Tensor]


@dataclass(frozen=True)
class Extension:
    """A change of a trained model's positions; the base class changes nothing."""

    name: ClassVar[str] = "none"
    # Whether it multiplies scores and leaves positions as they are.
    only_scales: ClassVar[bool] = False

    @property
    def follows_length(self) -> bool:
        """Return whether the extended model depends on the length of the text at hand."""
        return False

    @property
    def label(self) -> str:
        """Return the name in tables, with values only where the user gave some."""
        return label_of(self.name, self)

    def filled(self, longest: int) -> "Extension":
        """Return the extension with lengths filled in that its label tells.

        longest: of the evaluation, in tokens.
        """
        return self

    def extend(
        self, model: Transformer, pattern: Pattern, lengths: Lengths, sample: Sample
    ) -> Transformer:
        """Return the model for texts of lengths.length tokens; NotDefined if there is none.

        pattern: with which the model then runs.
        """
        return model


def method_label(attention: str, extension: str) -> str:
    """Return the name of a method: its attention pattern, and its extension unless that is none."""
    return attention if extension == Extension.name else f"{attention} {extension}"


class Modified(Wrapper):
    """A wrapper that changes what hooks of the inner scheme give, and adds no hook to it."""

    def overrides(self, hook: str) -> bool:
        """Return whether the inner scheme does something of its own at a hook."""
        return self.inner.overrides(hook)


@dataclass(frozen=True)
class OfSchemes(Extension):
    """An extension that changes position schemes and nothing else.

    Where layers have different schemes, it changes those for which it is defined.
    """

    def change(self, position: Position, lengths: Lengths) -> Position:
        """Return the changed scheme; NotDefined with the reason if it has no meaning there."""
        raise NotImplementedError

    def refuse_unchanged(self, position: Position, pattern: Pattern, lengths: Lengths) -> None:
        """Raise NotDefined if the scheme would compute the same at any length with this pattern."""

    def extend(
        self, model: Transformer, pattern: Pattern, lengths: Lengths, sample: Sample
    ) -> Transformer:
        """Return the model with its schemes changed."""
        schemes = self.extend_schemes(model.schemes, model.attending, pattern, lengths)
        return with_schemes(model, schemes)

    def extend_schemes(
        self,
        given: list[Position],
        attending: list[bool],
        pattern: Pattern,
        lengths: Lengths,
    ) -> list[Position]:
        """Return a model's schemes, changed; NotDefined if none of them can be.

        given: those that layers take in turns; attending: of each, whether its layers attend.
        """
        if not any(attending):
            raise NotDefined(f"{self.name} changes attention, which no layer computes")
        schemes, problems = [], dict[str, int]()  # the first layer of each problem
        changed = dict[int, Position]()  # by scheme: layers that share one share the changed one
        for n, (own, position) in enumerate(layer_pairs(pattern, given)):
            schemes.append(position)
            if not attending[n]:
                continue
            self._refuse_closed(position)
            try:
                if id(position) not in changed:
                    changed[id(position)] = self.change(position, lengths)
                self.refuse_unchanged(position, own, lengths)
                schemes[n] = changed[id(position)]
            except NotDefined as problem:
                problems.setdefault(str(problem), n + 1)
        if not any(new is not old for new, old in zip(schemes, given, strict=True)):
            several = len(pattern.turns) > 1 or len(problems) > 1
            said = [f"{why} (layer {n})" if several else why for why, n in problems.items()]
            raise NotDefined("; ".join(said))
        return schemes

    def _refuse_closed(self, position: Position) -> None:
        """Raise NotDefined for a scheme of which no part may be changed."""
        if position.applied_inside and not self.only_scales:
            raise NotDefined(
                f"{self.name} changes positions, but the layers of {position.title} apply their own"
            )
        for part in position.parts:
            if part.samples_positions:
                raise NotDefined(f"{part.title} was trained at positions beyond the text's")
            if isinstance(part, Wrapper) and part.has_attention_weights:
                raise NotDefined(f"{self.name} does not reach into {part.title}")


@dataclass(frozen=True)
class OfParts(OfSchemes):
    """An extension that changes those parts of a scheme for which it is defined."""

    def change_part(self, position: Position, lengths: Lengths) -> Position:
        """Return the changed scheme; position: a scheme that is not made of several."""
        raise NotImplementedError

    def change(self, position: Position, lengths: Lengths) -> Position:
        """Return the changed scheme, or several with some of them changed."""
        return position.with_parts(
            some_changed(position.parts, lambda part: self.change_part(part, lengths))
        )


@dataclass(frozen=True)
class ByFactor(OfParts):
    """An extension with a factor s by which texts are longer than in training.

    factor: null for the longest length of the evaluation / train_len, one factor for all lengths
    as a deployed model has; "length" for each length's own; or a number. Never below 1.
    """

    factor: float | str | None = None

    def __post_init__(self) -> None:
        if self.factor is None or self.factor == "length":
            return
        if isinstance(self.factor, str) or not (1 <= self.factor < math.inf):
            raise ValueError(f"factor must be null, length or a number from 1, got {self.factor}")

    @property
    def follows_length(self) -> bool:
        return self.factor == "length"

    def factor_for(self, lengths: Lengths) -> float:
        """Return the factor s for a length."""
        if isinstance(self.factor, int | float):
            return float(self.factor)
        longest = lengths.length if self.factor == "length" else lengths.longest
        return max(1.0, longest / lengths.train_len)


def some_changed(schemes: list[Position], change: Callable[[Position], Position]) -> list[Position]:
    """Return the schemes, changed where possible; NotDefined with the first reason if none is."""
    changed, problems = [], []
    for position in schemes:
        try:
            changed.append(change(position))
        except NotDefined as problem:
            problems.append(problem)
            changed.append(position)
    if len(problems) == len(schemes):
        raise problems[0]
    return changed


def with_schemes(model: Transformer, schemes: list[Position]) -> Transformer:
    """Return a model with the same weights and other schemes; the given model stays as it is."""
    other = copy.copy(model)
    other._modules = {**model._modules, "positions": nn.ModuleList(schemes)}
    return other
