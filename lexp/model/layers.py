"""The list of a model's layers: its entries, which the layers take in turns.

Layer n takes entry n modulo their number, so that a model whose layers are all alike has one entry.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import TypeVar

from lexp.model.mixer import Mixer
from lexp.model.trunk import OutputGate, Trunk
from lexp.pattern import Full, Pattern
from lexp.position import NoPE, Position

T = TypeVar("T")


@dataclass(frozen=True)
class LayerEntry:
    """One entry: the scheme, the pattern of training and the mixer of the layers that take it.

    make_position: builds the scheme; the layers of an entry share it, unless a scheme of the model
    has parameters `per_layer`. pattern: which keys a query sees in training. make_mixer: builds a
    layer's mixer, anew for each layer; None: the trunk's attention. output_gate: of that attention;
    None: the trunk's.
    """

    make_position: Callable[[], Position] = NoPE
    pattern: Pattern = field(default_factory=Full)
    make_mixer: Callable[[], Mixer] | None = None
    output_gate: OutputGate | None = None

    def parts(self, trunk: Trunk) -> Trunk:
        """Return the parts of the layers that take the entry, on a trunk."""
        return replace(trunk, output_gate=self.output_gate) if self.output_gate else trunk

    def builds_as(self, other: "LayerEntry") -> bool:
        """Return True if the layers of both entries have the same weights but for their schemes."""
        mine, theirs = ((e.make_mixer, e.output_gate) for e in (self, other))
        return mine == theirs


def in_turns(entries: Sequence[T], n_layers: int) -> list[T]:
    """Return the entry of each layer."""
    return list(islice(cycle(entries), n_layers))


def make_positions(entries: Sequence[LayerEntry], n_layers: int) -> list[Position]:
    """Return the schemes that layers take in turns, those of entries without a layer left out.

    One for each entry, or one for each layer if one of them has parameters `per_layer`. ValueError
    for schemes that cannot be one of several.
    """
    taken = entries[:n_layers]
    positions = [entry.make_position() for entry in taken]
    if len(taken) > 1:
        refuse_wholes(positions)
    if any(position.per_layer for position in positions):
        others = in_turns(taken, n_layers)[len(taken) :]
        positions += [entry.make_position() for entry in others]
    return positions


def refuse_wholes(positions: Sequence[Position]) -> None:
    """Raise ValueError for schemes that only make sense as the whole of a model's positions."""
    for n, position in enumerate(positions):
        if position.has_embedding:
            raise ValueError(
                f"layers[{n}]: {position.title} acts on the embeddings, which have no layer"
            )
        if position.samples_positions:
            raise ValueError(
                f"layers[{n}]: {position.title} samples positions for all layers at once"
            )
