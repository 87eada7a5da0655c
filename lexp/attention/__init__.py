"""Attention is one function of a pattern and a position scheme, made ready per length.

`Reference` is the specification, `Tiles` the fast path, `Chunked` the general one,
`BidirectionalAttention` that of bidirectional models, `Flex` one compiled for CUDA devices; called
`attend(q, k, v, position, x, sampled)` all give the same values.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from lexp.attention.bidirectional import BidirectionalAttention
from lexp.attention.chunked import Chunked
from lexp.attention.flex import Flex, refuse_beyond_flex
from lexp.attention.reference import Reference
from lexp.attention.tiles import Tiles
from lexp.pattern import Banded, Pattern, TwoSided
from lexp.position import Position, Sum
from lexp.system.errors import NotDefined

Attend = Callable[[Tensor, Tensor, Tensor, Position, Tensor, Tensor | None], Tensor]
# From a pattern, a length, the schemes of a model's layers and a device.
MakeAttend = Callable[[Pattern, int, Sequence[Position], torch.device], Attend]

__all__ = [
    "Attend",
    "BidirectionalAttention",
    "Chunked",
    "Flex",
    "MakeAttend",
    "Reference",
    "Tiles",
    "make_attend",
    "make_flex",
    "refuse_beyond_flex",
    "refuse_meaningless",
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
    make = partial(two_sided, lengths=lengths) if pattern.two_sided else tiles_or_strips
    return by_scheme(make, pattern, seq_len, positions, device)


def make_flex(
    pattern: Pattern, seq_len: int, positions: Sequence[Position], device: torch.device
) -> Attend:
    """The same by `Flex` alone; NotDefined, too, if that is not made for a pattern or scheme."""
    return by_scheme(Flex, pattern, seq_len, positions, device)


def two_sided(
    pattern: Pattern,
    seq_len: int,
    position: Position,
    device: torch.device,
    lengths: Tensor | None = None,
) -> BidirectionalAttention:
    """Of two-sided patterns."""
    assert isinstance(pattern, TwoSided), "asked of no other"
    return BidirectionalAttention(pattern, seq_len, position, device, lengths)


def tiles_or_strips(
    pattern: Pattern, seq_len: int, position: Position, device: torch.device
) -> Tiles | Chunked:
    """Tiles where they will do."""
    if isinstance(pattern, Banded) and not (
        position.has_attention_weights or position.samples_positions
    ):
        return Tiles(pattern, seq_len, position, device)
    return Chunked(pattern, seq_len, position, device)


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
        q: Tensor,
        k: Tensor,
        v: Tensor,
        position: Position,
        x: Tensor,
        sampled: Tensor | None = None,
    ) -> Tensor:
        return ready[table_key(position)](q, k, v, position, x, sampled)

    return attend


def refuse_meaningless(pattern: Pattern, positions: Sequence[Position]) -> None:
    """NotDefined if a pattern means nothing to the schemes of a model's layers."""
    if pattern.only_moves and not any(position.relative for position in positions):
        scheme = type(positions[0]).__name__
        raise NotDefined(f"{pattern.name} moves the positions of pairs, {scheme} has none to move")
    if any(branch.moves for branch in pattern.branches) and any(
        p.samples_positions for p in positions
    ):
        raise NotDefined(f"{pattern.name} moves positions, and these are drawn at random")
    one_sided = [one for p in positions for one in parts_of(p) if not one.two_sided]
    if pattern.two_sided and one_sided:
        scheme = type(one_sided[0]).__name__
        raise NotDefined(f"{scheme} is not defined for keys after the query: causal attention only")


def parts_of(position: Position) -> list[Position]:
    """The schemes that act at once in a layer."""
    return position.parts if isinstance(position, Sum) else [position]


def table_key(position: Position) -> object:
    """What tables are kept under: schemes of one class without factors need no own ones."""
    return (
        type(position) if type(position).rotary_factors is Position.rotary_factors else id(position)
    )
