"""The patterns of a model whose layers differ, as one value; and how a method replaces them."""

from dataclasses import dataclass

from lexp.pattern.banded import Trained, WiderWindow, Window
from lexp.pattern.base import Pattern
from lexp.system.errors import NotDefined


@dataclass(frozen=True)
class InTurns(Pattern):
    """The patterns of a list of layers, taken in turns. Attention is computed with each alone."""

    patterns: tuple[Pattern, ...]

    name = "in_turns"

    def __post_init__(self) -> None:
        if not self.patterns:
            raise ValueError("patterns in turns are one or more, got none")

    @property
    def turns(self) -> tuple[Pattern, ...]:
        return self.patterns

    @property
    def two_sided(self) -> bool:  # type: ignore[override]  # a property of these patterns
        return any(pattern.two_sided for pattern in self.patterns)

    @property
    def attends(self) -> bool:
        return any(pattern.attends for pattern in self.patterns)

    @property
    def is_bounded(self) -> bool:
        return all(pattern.is_bounded for pattern in self.patterns)

    @property
    def label(self) -> str:
        return " / ".join(pattern.label for pattern in self.patterns)

    def fit(self, train_len: int, seq_len: int) -> "InTurns":
        return InTurns(tuple(pattern.fit(train_len, seq_len) for pattern in self.patterns))


def in_turns(patterns: tuple[Pattern, ...]) -> Pattern:
    """Return the patterns of a list of layers as one; plain attention if all have that."""
    first = patterns[0]
    return first if len(set(patterns)) == 1 and first.sees_all else InTurns(patterns)


def replaced(trained: Pattern, method: Pattern) -> Pattern:
    """Return the pattern of a model that runs under a method.

    trained: that of training. In a list of layers the method replaces plain attention alone: a
    layer that was trained to see fewer keys keeps its own pattern, and no method but WiderWindow
    widens it. Where a model has one pattern and no list, the method takes its place.
    """
    if isinstance(method, Trained):
        return trained
    if isinstance(method, WiderWindow) and isinstance(trained, Window):
        return method.of(trained)
    if not isinstance(trained, InTurns):
        return method
    of_layers = [replaced(p, method) if is_changed(p, method) else p for p in trained.turns]
    return in_turns(tuple(of_layers))


def is_changed(trained: Pattern, method: Pattern) -> bool:
    """Return True if a method changes a layer of a list, given its pattern of training."""
    return trained.sees_all or (isinstance(method, WiderWindow) and isinstance(trained, Window))


def is_replaceable(trained: Pattern) -> bool:
    """Return True if a model has a layer whose pattern a method may replace."""
    if not trained.attends:
        return False
    return not isinstance(trained, InTurns) or any(p.sees_all for p in trained.turns)


def refuse_nothing_replaced(trained: Pattern, method: Pattern) -> None:
    """Raise NotDefined if a method is for layers with plain attention and the model has none."""
    if isinstance(method, Trained) or is_replaceable(trained):
        return
    if any(is_changed(pattern, method) for pattern in trained.turns):
        return
    if not trained.attends:
        raise NotDefined(
            f"{method.name} is a pattern of attention, which no layer of this model computes; use "
            "attention=[trained]"
        )
    own = ", ".join(f"layer {n}: {p.label}" for n, p in enumerate(trained.turns, 1))
    raise NotDefined(
        f"{method.name} replaces full attention, which no layer was trained with ({own}); "
        "use attention=[trained]"
    )
