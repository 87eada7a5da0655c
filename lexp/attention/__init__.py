"""Attention is one function of a pattern and a position scheme, made ready per length.

`Reference` is the specification, `Tiles` the fast path, `Strips` the general one, `BothSides` that
of bidirectional models; called `attend(q, k, v, position, x, drawn)` all give the same values.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lexp.attention.both_sides import BothSides
from lexp.attention.reference import Reference
from lexp.attention.strips import Strips
from lexp.attention.tiles import Tiles
from lexp.errors import NotDefined
from lexp.pattern import Banded, Pattern, TwoSided
from lexp.position import Position, Together

Attend = Callable[[Tensor, Tensor, Tensor, Position, Tensor, Tensor | None], Tensor]

__all__ = [
    "Attend", "BothSides", "Reference", "Strips", "Tiles", "make_attend", "refuse_meaningless",
]  # fmt: skip


def make_attend(
    pattern: Pattern,
    seq_len: int,
    positions: Sequence[Position],
    device: torch.device,
    lengths: Tensor | None = None,
) -> Attend:
    """Attention for the schemes of a model's layers; NotDefined if the pattern means nothing there.

    Softmax over a band of keys goes over folded tiles and a fused kernel, over keys at both sides
    it has its own path, all else goes over strips.
    lengths [B]: tokens of each text of the batch, what follows being padding that no other token
    sees; None: all of them. Of two-sided patterns alone: a causal model never sees what follows.
    """
    refuse_meaningless(pattern, positions)
    ready: dict[object, Tiles | Strips | BothSides] = {}
    for position in positions:
        key = table_key(position)
        if key in ready:
            continue
        if isinstance(pattern, TwoSided):
            ready[key] = BothSides(pattern, seq_len, position, device, lengths)
        elif isinstance(pattern, Banded) and not (position.has_weigh or position.draws):
            ready[key] = Tiles(pattern, seq_len, position, device)
        else:
            ready[key] = Strips(pattern, seq_len, position, device)

    def attend(
        q: Tensor, k: Tensor, v: Tensor, position: Position, x: Tensor, drawn: Tensor | None = None
    ) -> Tensor:
        return ready[table_key(position)](q, k, v, position, x, drawn)

    return attend


def refuse_meaningless(pattern: Pattern, positions: Sequence[Position]) -> None:
    """NotDefined if a pattern means nothing to the schemes of a model's layers."""
    if pattern.only_moves and not any(position.relative for position in positions):
        scheme = type(positions[0]).__name__
        raise NotDefined(f"{pattern.name} moves the positions of pairs, {scheme} has none to move")
    if any(branch.moves for branch in pattern.branches) and any(p.draws for p in positions):
        raise NotDefined(f"{pattern.name} moves positions, and these are drawn at random")
    one_sided = [one for p in positions for one in parts_of(p) if not one.two_sided]
    if pattern.two_sided and one_sided:
        scheme = type(one_sided[0]).__name__
        raise NotDefined(f"{scheme} is not defined for keys after the query: causal attention only")


def parts_of(position: Position) -> list[Position]:
    """The schemes that act at once in a layer."""
    return position.parts if isinstance(position, Together) else [position]


def table_key(position: Position) -> object:
    """What tables are kept under: schemes of one class without factors need no own ones."""
    return type(position) if type(position).factors is Position.factors else id(position)
