"""Attention is one function of a pattern and a position scheme, made ready per length.

`Reference` is the specification, `Tiles` the fast path, `Strips` the general one and `Flex` one
compiled for CUDA devices; all are called `attend(q, k, v, position, x, drawn)` and give the same
values.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lexp.attention.flex import Flex, refuse_beyond_flex
from lexp.attention.reference import Reference
from lexp.attention.strips import Strips
from lexp.attention.tiles import Tiles
from lexp.errors import NotDefined
from lexp.pattern import Banded, Pattern
from lexp.position import Position

Attend = Callable[[Tensor, Tensor, Tensor, Position, Tensor, Tensor | None], Tensor]
# From a pattern, a length, the schemes of a model's layers and a device.
MakeAttend = Callable[[Pattern, int, Sequence[Position], torch.device], Attend]

__all__ = [
    "Attend", "Flex", "MakeAttend", "Reference", "Strips", "Tiles", "make_attend", "make_flex",
    "refuse_beyond_flex", "refuse_meaningless",
]  # fmt: skip


def make_attend(
    pattern: Pattern, seq_len: int, positions: Sequence[Position], device: torch.device
) -> Attend:
    """Attention for the schemes of a model's layers; NotDefined if the pattern means nothing there.

    Softmax over a band of keys goes over folded tiles and a fused kernel, all else over strips.
    """
    return by_scheme(tiles_or_strips, pattern, seq_len, positions, device)


def make_flex(
    pattern: Pattern, seq_len: int, positions: Sequence[Position], device: torch.device
) -> Attend:
    """The same by `Flex` alone; NotDefined, too, if that is not made for a pattern or scheme."""
    return by_scheme(Flex, pattern, seq_len, positions, device)


def tiles_or_strips(
    pattern: Pattern, seq_len: int, position: Position, device: torch.device
) -> Tiles | Strips:
    """Tiles where they will do."""
    if isinstance(pattern, Banded) and not (position.has_weigh or position.draws):
        return Tiles(pattern, seq_len, position, device)
    return Strips(pattern, seq_len, position, device)


def by_scheme(
    make: Callable[[Pattern, int, Position, torch.device], Attend],
    pattern: Pattern,
    seq_len: int,
    positions: Sequence[Position],
    device: torch.device,
) -> Attend:
    """Attention that is made once for each scheme and takes the one of the layer it serves."""
    refuse_meaningless(pattern, positions)
    ready: dict[object, Attend] = {}
    for position in positions:
        key = table_key(position)
        if key not in ready:
            ready[key] = make(pattern, seq_len, position, device)

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


def table_key(position: Position) -> object:
    """What tables are kept under: schemes of one class without factors need no own ones."""
    return type(position) if type(position).factors is Position.factors else id(position)
