"""Choose and prepare attention for a pattern, a length and the schemes of a model's layers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from lexp.attention.bidirectional import BidirectionalAttention, BidirectionalSizes
from lexp.attention.call import AttentionFunction, AttentionInput
from lexp.attention.chunked import Chunked, ChunkSizes
from lexp.attention.flex import Flex
from lexp.attention.tiles import Tiles, TileSizes
from lexp.pattern import Banded, Pattern, TwoSided
from lexp.position import Position
from lexp.system.errors import NotDefined


@dataclass(frozen=True)
class BlockSizes:
    """Limits on what each path of attention computes at once. Outputs differ by rounding alone."""

    tiles: TileSizes = field(default_factory=TileSizes)
    chunks: ChunkSizes = field(default_factory=ChunkSizes)
    bidirectional: BidirectionalSizes = field(default_factory=BidirectionalSizes)


def make_attend(
    pattern: Pattern,
    seq_len: int,
    positions: Sequence[Position],
    device: torch.device,
    lengths: Tensor | None = None,
    sizes: BlockSizes = BlockSizes(),
) -> AttentionFunction:
    """Return attention for the schemes of a model's layers.

    Softmax over a band of keys takes folded tiles and a fused kernel; keys at both sides take a
    path of their own; every other pattern or scheme takes chunks with dense scores.
    lengths [B]: tokens of each text of the batch, what follows being padding that no other token
    sees; None: all of them. For two-sided patterns alone: a causal model never sees what follows.
    NotDefined if the pattern means nothing to the schemes.
    """
    if pattern.two_sided:
        make = partial(make_two_sided, lengths=lengths, sizes=sizes.bidirectional)
    else:
        make = partial(make_causal, sizes=sizes)
    return make_per_scheme(make, pattern, seq_len, positions, device)


def make_flex(
    pattern: Pattern, seq_len: int, positions: Sequence[Position], device: torch.device
) -> AttentionFunction:
    """Return attention by `Flex`; NotDefined also where `Flex` does not support the pattern."""
    return make_per_scheme(Flex, pattern, seq_len, positions, device)


def make_two_sided(
    pattern: Pattern,
    seq_len: int,
    position: Position,
    device: torch.device,
    lengths: Tensor | None,
    sizes: BidirectionalSizes,
) -> AttentionFunction:
    """Return attention of a two-sided pattern for one scheme."""
    assert isinstance(pattern, TwoSided), "every pattern that is two_sided"
    return BidirectionalAttention(pattern, seq_len, position, device, lengths, sizes)


def make_causal(
    pattern: Pattern, seq_len: int, position: Position, device: torch.device, sizes: BlockSizes
) -> AttentionFunction:
    """Return attention of a causal pattern for one scheme: tiles where they can do it."""
    if isinstance(pattern, Banded) and not (
        position.has_attention_weights or position.samples_positions
    ):
        return Tiles(pattern, seq_len, position, device, sizes.tiles)
    return Chunked(pattern, seq_len, position, device, sizes.chunks)


class PerScheme(AttentionFunction):
    """Attention of a model whose layers have different schemes. functions: by `table_key`."""

    def __init__(self, functions: Mapping[object, AttentionFunction]):
        self.functions = functions

    def attend(self, inputs: AttentionInput) -> Tensor:
        """Return the output [B, H, T, D] under the scheme of the layer."""
        return self.functions[table_key(inputs.position)].attend(inputs)


def make_per_scheme(
    make: Callable[[Pattern, int, Position, torch.device], AttentionFunction],
    pattern: Pattern,
    seq_len: int,
    positions: Sequence[Position],
    device: torch.device,
) -> AttentionFunction:
    """Return attention that is made once for each scheme."""
    refuse_meaningless(pattern, positions)
    functions: dict[object, AttentionFunction] = {}
    for position in positions:
        key = table_key(position)
        if key not in functions:
            functions[key] = make(pattern, seq_len, position, device)
    return PerScheme(functions)


def refuse_meaningless(pattern: Pattern, positions: Sequence[Position]) -> None:
    """Raise NotDefined if a pattern means nothing to the schemes of a model's layers."""
    if pattern.only_moves and not any(position.reads_positions for position in positions):
        scheme = positions[0].title
        raise NotDefined(
            f"{pattern.name} changes relative positions, but {scheme} has none: "
            "use a pattern that only masks"
        )
    samples = any(position.samples_positions for position in positions)
    if samples and any(branch.moves for branch in pattern.branches):
        raise NotDefined(
            f"{pattern.name} changes positions, but this scheme samples them at random: "
            "use a pattern that only masks"
        )
    one_sided = [part for p in positions for part in p.parts if not part.two_sided]
    if pattern.two_sided and one_sided:
        scheme = one_sided[0].title
        raise NotDefined(f"{scheme} is not defined for keys after the query: causal attention only")


def table_key(position: Position) -> object:
    """Return the key of a scheme's tables: schemes of one class without factors share them."""
    has_factors = type(position).rotary_factors is not Position.rotary_factors
    return id(position) if has_factors else type(position)
