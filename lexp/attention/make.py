"""Choose and prepare attention for a pattern, a length and the schemes of a model's layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from lexp.attention.bidirectional import BidirectionalAttention, BidirectionalSizes
from lexp.attention.branches import BranchSizes, FusedBranches, takes_branches
from lexp.attention.call import AttentionFunction, AttentionInput
from lexp.attention.chunked import Chunked, ChunkSizes
from lexp.attention.flex import Flex
from lexp.attention.tiles import Tiles, TileSizes, takes_tiles
from lexp.pattern import Banded, Pattern, Selecting, TwoSided
from lexp.position import Position
from lexp.system.errors import NotDefined


@dataclass(frozen=True)
class BlockSizes:
    """Limits on what each path of attention computes at once. Outputs differ by rounding alone."""

    tiles: TileSizes = field(default_factory=TileSizes)
    chunks: ChunkSizes = field(default_factory=ChunkSizes)
    bidirectional: BidirectionalSizes = field(default_factory=BidirectionalSizes)
    branches: BranchSizes = field(default_factory=BranchSizes)


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
    path of their own; softmax over several branches takes a fused kernel for each on a CPU; every
    other pattern or scheme takes chunks with dense scores.
    lengths [B]: tokens of each text of the batch, what follows being padding that no other token
    sees; None: all of them. For two-sided patterns alone: a causal model never sees what follows.
    NotDefined if the pattern means nothing to the schemes.
    """
    make = partial(make_layer, lengths=lengths, sizes=sizes)
    return make_per_layer(make, pattern, seq_len, positions, device)


def make_flex(
    pattern: Pattern, seq_len: int, positions: Sequence[Position], device: torch.device
) -> AttentionFunction:
    """Return attention by `Flex`; NotDefined also where `Flex` does not support the pattern."""
    return make_per_layer(Flex, pattern, seq_len, positions, device)


def make_moved(
    pattern: Pattern, seq_len: int, positions: Sequence[Position], device: torch.device
) -> AttentionFunction:
    """Return attention for rows whose positions come in with each call.

    Schemes that read positions take chunks with dense scores, all others what they always take.
    """

    def make(
        pattern: Pattern, seq_len: int, position: Position, device: torch.device
    ) -> AttentionFunction:
        if isinstance(pattern, Selecting) and pattern.recounts:
            raise NotDefined(
                f"{pattern.name} counts positions anew, the rows of this training have their own: "
                "use a pattern that only masks, or reading=usual"
            )
        if position.reads_positions:
            return Chunked(pattern, seq_len, position, device)
        return make_layer(pattern, seq_len, position, device, None, BlockSizes())

    return make_per_layer(make, pattern, seq_len, positions, device)


def make_layer(
    pattern: Pattern,
    seq_len: int,
    position: Position,
    device: torch.device,
    lengths: Tensor | None,
    sizes: BlockSizes,
) -> AttentionFunction:
    """Return attention of a pattern for one scheme: tiles where a causal pattern can take them."""
    if isinstance(pattern, TwoSided):
        return BidirectionalAttention(
            pattern, seq_len, position, device, lengths, sizes.bidirectional
        )
    if takes_tiles(pattern, position, device):
        assert isinstance(pattern, Banded), "tiles take no other"
        return Tiles(pattern, seq_len, position, device, sizes.tiles)
    chunked = Chunked(pattern, seq_len, position, device, sizes.chunks)
    if takes_branches(pattern, position, device):
        return FusedBranches(pattern, seq_len, position, device, chunked, sizes.branches)
    return chunked


class PerLayer(AttentionFunction):
    """Attention of a model's layers: a function for each of their position schemes.

    Layers are told apart by the scheme they hand in: those of entries with different patterns have
    schemes of their own (lexp.model.layers).
    """

    def __init__(self, positions: Sequence[Position], functions: Sequence[AttentionFunction]):
        self.positions = positions
        self.functions = {id(p): f for p, f in zip(positions, functions, strict=True)}

    def attend(self, inputs: AttentionInput) -> Tensor:
        """Return the output [B, H, T, D] of the layer."""
        return self.functions[id(inputs.position)].attend(inputs)


def make_per_layer(
    make: Callable[[Pattern, int, Position, torch.device], AttentionFunction],
    pattern: Pattern,
    seq_len: int,
    positions: Sequence[Position],
    device: torch.device,
) -> AttentionFunction:
    """Return attention of layers, made once for each pattern and kind of scheme."""
    refuse_meaningless(pattern, positions)
    made: dict[object, AttentionFunction] = {}
    functions = []
    pairs = [pair for pair in layer_pairs(pattern, positions) if pair[0].attends]
    for of_layer, position in pairs:
        key = of_layer, table_key(position)
        if key not in made:
            made[key] = make(of_layer, seq_len, position, device)
        functions.append(made[key])
    return PerLayer([position for _, position in pairs], functions)


def layer_pairs(pattern: Pattern, positions: Sequence[Position]) -> list[tuple[Pattern, Position]]:
    """Return the pattern of each scheme of a model's layers.

    positions: those that layers take in turns, or those of all layers.
    """
    turns = pattern.turns
    return [(turns[n % len(turns)], position) for n, position in enumerate(positions)]


def refuse_meaningless(pattern: Pattern, positions: Sequence[Position]) -> None:
    """Raise NotDefined if a pattern means nothing to the schemes of a model's layers."""
    pairs = layer_pairs(pattern, positions)
    for own, scheme in pairs:
        if scheme.applied_inside and own.moves:
            raise NotDefined(
                f"{own.name} changes positions, but the layers of {scheme.title} apply their own: "
                "use a pattern that only masks"
            )
        if scheme.has_log_decays and isinstance(own, Selecting) and own.recounts:
            raise NotDefined(
                f"{own.name} counts positions anew, {scheme.title} decays scores by the tokens in "
                "between: use a pattern that only masks"
            )
    if len({own.two_sided for own, _ in pairs}) > 1:
        raise NotDefined(f"{pattern.label}: some layers would be causal, others bidirectional")
    moved = [(n, p, scheme) for n, (p, scheme) in enumerate(pairs, 1) if p.only_moves]
    if moved and not any(scheme.reads_positions for _, _, scheme in moved):
        n, mover, scheme = moved[0]
        raise NotDefined(
            f"{mover.name} changes relative positions, but {scheme.title} "
            f"{of_layer(pattern, n)}has none: use a pattern that only masks"
        )
    for n, (own, scheme) in enumerate(pairs, 1):
        if scheme.samples_positions and own.moves:
            raise NotDefined(
                f"{own.name} changes positions, but this scheme samples them at random: "
                "use a pattern that only masks"
            )
        one_sided = [part for part in scheme.parts if not part.two_sided]
        if own.two_sided and one_sided:
            raise NotDefined(
                f"{one_sided[0].title} {of_layer(pattern, n)}is not defined for keys after the "
                "query: causal attention only"
            )


def of_layer(pattern: Pattern, n: int) -> str:
    """Return the words that name a layer, from 1, in a message; none where all are alike."""
    return f"(layer {n}) " if len(pattern.turns) > 1 else ""


def table_key(position: Position) -> object:
    """Return the key of a scheme's tables: schemes of one class without factors share them."""
    has_factors = type(position).rotary_factors is not Position.rotary_factors
    return id(position) if has_factors else (type(position), position.counts_from_zero)
