"""Looking into a forward pass: every tile of scores of every layer, and what layers put out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from lexp.attention import (
    AttentionFunction,
    AttentionInput,
    Chunked,
    ChunkSizes,
    refuse_meaningless,
)
from lexp.attention.chunked import QueryChunk
from lexp.model.transformer import Transformer
from lexp.pattern import Pattern
from lexp.position import Position


class Seen(NamedTuple):
    """What a layer's attention works on: q, k, v [B, H, T, D], its input x [B, T, d_model]."""

    layer: int
    q: Tensor
    k: Tensor
    v: Tensor
    x: Tensor
    position: Position
    sampled: Tensor | None


@dataclass
class ScoreCapture(AttentionFunction):
    """Attention that is watched: called as any other `attend`, it shows each tile as it is made.

    Exact for every pattern and scheme, in float32 or float64; a tile is gone before the next one,
    so memory stays bounded. on_layer: told of each layer before its tiles. on_tile: of each tile.
    """

    pattern: Pattern
    seq_len: int
    schemes: Sequence[Position]
    on_tile: Callable[[Seen, QueryChunk], None] | None = None
    on_layer: Callable[[Seen], None] | None = None
    sizes: ChunkSizes = field(default_factory=ChunkSizes)
    layer: int = 0

    def __post_init__(self) -> None:
        refuse_meaningless(self.pattern, self.schemes)

    def attend(self, inputs: AttentionInput) -> Tensor:
        """Return the output [B, H, T, D]."""
        q, k, v, position, x, sampled = inputs
        seen = Seen(self.layer, q, k, v, x, position, sampled)
        self.layer += 1
        if self.on_layer is not None:
            self.on_layer(seen)
        chunked = Chunked(self.pattern, self.seq_len, position, q.device, self.sizes)
        outputs = []
        with torch.autocast(q.device.type, enabled=False):
            for tile in chunked.chunks(inputs):
                if self.on_tile is not None:
                    self.on_tile(seen, tile)
                outputs.append(tile.weights @ tile.values(v))
        return torch.cat(outputs, dim=2).to(v.dtype)


def watched(
    model: Transformer,
    tokens: Tensor,
    pattern: Pattern,
    on_tile: Callable[[Seen, QueryChunk], None] | None = None,
    on_layer: Callable[[Seen], None] | None = None,
    sizes: ChunkSizes | None = None,
) -> Tensor:
    """Final normed hidden states [B, T, d_model] of token ids [B, T], with attention watched."""
    watch = ScoreCapture(
        pattern, tokens.shape[1], model.schemes, on_tile, on_layer, sizes or ChunkSizes()
    )
    with torch.no_grad():
        return model.hidden(tokens, watch)


def hidden_states(
    model: Transformer, tokens: Tensor, pattern: Pattern, sizes: ChunkSizes | None = None
) -> list[Tensor]:
    """The residual stream [B, T, d_model] of token ids [B, T]: embedded, then after each block."""
    states: list[Tensor] = []
    with torch.no_grad():
        handles = [
            block.register_forward_hook(lambda block, given, out: states.append(out))
            for block in model.blocks
        ]
        handles.append(
            model.blocks[0].register_forward_pre_hook(lambda block, given: states.append(given[0]))
        )
        try:
            capture = ScoreCapture(
                pattern, tokens.shape[1], model.schemes, sizes=sizes or ChunkSizes()
            )
            model.hidden(tokens, capture)
        finally:
            for handle in handles:
                handle.remove()
    return states
