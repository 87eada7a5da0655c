"""Capture the scores of every layer, chunk by chunk, and the hidden states of a forward pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lexp.attention import (
    AttentionFunction,
    AttentionInput,
    Chunked,
    ChunkSizes,
    layer_pairs,
    make_attend,
    refuse_meaningless,
)
from lexp.attention.chunked import QueryChunk
from lexp.attention.heads import for_each_query
from lexp.model.transformer import Transformer
from lexp.pattern import Pattern, Selecting
from lexp.position import Position
from lexp.system.errors import NotDefined


@dataclass(frozen=True)
class LayerInputs:
    """Inputs of attention in layer `index`: q, k, v [B, H, T, D], the layer input x [B, T, d].

    pattern: the layer's own.
    """

    index: int
    q: Tensor
    k: Tensor
    v: Tensor
    x: Tensor
    position: Position
    sampled: Tensor | None
    pattern: Pattern


@dataclass
class ScoreCapture(AttentionFunction):
    """Attention that hands over its scores: an `attend` that calls back with each query chunk.

    Exact for every pattern and scheme, in float32 or float64. A chunk is freed before the next one,
    so memory stays bounded. on_layer: called with each layer before its chunks. on_chunk: called
    with each chunk.
    """

    pattern: Pattern
    seq_len: int
    schemes: Sequence[Position]
    on_chunk: Callable[[LayerInputs, QueryChunk], None] | None = None
    on_layer: Callable[[LayerInputs], None] | None = None
    sizes: ChunkSizes = field(default_factory=ChunkSizes)
    layer: int = 0

    def __post_init__(self) -> None:
        refuse_meaningless(self.pattern, self.schemes)
        if self.on_chunk is not None:
            refuse_selecting(self.pattern)
        self.patterns = {id(p): own for own, p in layer_pairs(self.pattern, self.schemes)}

    def attend(self, inputs: AttentionInput) -> Tensor:
        """Return the output [B, H, T, D]."""
        q, k, v, position, x, sampled = inputs
        k, v = for_each_query(k, q.shape[1]), for_each_query(v, q.shape[1])
        pattern = self.patterns[id(position)]
        layer = LayerInputs(self.layer, q, k, v, x, position, sampled, pattern)
        self.layer += 1
        if self.on_layer is not None:
            self.on_layer(layer)
        chunked = Chunked(pattern, self.seq_len, position, q.device, self.sizes)
        outputs = []
        with torch.autocast(q.device.type, enabled=False):
            for chunk in chunked.chunks(inputs):
                if self.on_chunk is not None:
                    self.on_chunk(layer, chunk)
                outputs.append(chunk.weights @ chunk.values(v))
        return torch.cat(outputs, dim=2).to(v.dtype)


def refuse_selecting(pattern: Pattern) -> None:
    """Raise NotDefined for a pattern whose pairs differ from text to text."""
    for own in pattern.turns:
        if isinstance(own, Selecting):
            raise NotDefined(
                f"{own.name} chooses keys by content, this instrument compares pairs that every "
                "text has: use attention=[full]"
            )


def refuse_without_attention(model: Transformer) -> None:
    """Raise NotDefined for a model with a recurrent layer: it has no scores."""
    if not all(model.attending):
        layer = model.attending.index(False)
        raise NotDefined(
            f"layer {layer + 1} of this model is recurrent and has no attention scores: use an "
            "instrument of hidden states or gradients (position_probe, vectors, receptive)"
        )


def capture_scores(
    model: Transformer,
    tokens: Tensor,
    pattern: Pattern,
    on_chunk: Callable[[LayerInputs, QueryChunk], None] | None = None,
    on_layer: Callable[[LayerInputs], None] | None = None,
    sizes: ChunkSizes | None = None,
) -> Tensor:
    """Run the model on token ids [B, T], calling back with the scores of every layer.

    on_chunk, on_layer: see ScoreCapture. Returns the final normed hidden states [B, T, d_model].
    """
    refuse_without_attention(model)
    capture = ScoreCapture(
        pattern, tokens.shape[1], model.schemes, on_chunk, on_layer, sizes or ChunkSizes()
    )
    with torch.no_grad():
        return model.hidden(tokens, capture)


def hidden_states(model: Transformer, tokens: Tensor, pattern: Pattern) -> list[Tensor]:
    """Return the residual stream [B, T, d_model] of token ids [B, T]: embedding, then blocks."""
    states: list[Tensor] = []

    def before(block: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if not states:
            states.append(arguments[0])

    with torch.no_grad():
        # Layers may share one block, which then runs once for each of them.
        handles = [
            block.register_forward_hook(lambda block, arguments, out: states.append(out))
            for block in dict.fromkeys(model.blocks)
        ]
        handles.append(model.blocks[0].register_forward_pre_hook(before))
        try:
            model.hidden(
                tokens, make_attend(pattern, tokens.shape[1], model.schemes, tokens.device)
            )
        finally:
            for handle in handles:
                handle.remove()
    return states
