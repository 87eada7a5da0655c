"""Attention of a text that comes in pieces: the keys and values of a layer are kept.

Keys are kept as the layer made them, before a content map and before rotation, and their indices
in the text beside them. Each piece is then computed like the same queries of the whole text
(lexp.attention.chunked): with positions, distances and numbers of keys in sight that a pattern or
a scheme may count differently for every query. So decoding gives what scoring gives.
"""

import torch
from torch import Tensor

from lexp.attention.call import AttentionFunction, AttentionInput
from lexp.attention.chunked import ChunkSizes, LayerTensors, chunks_of, place_of
from lexp.attention.heads import weighted
from lexp.attention.prepare import prepare
from lexp.pattern import Pattern
from lexp.position import Position

# Past the end of any text.
FAR = 1 << 40


class CachedAttention(AttentionFunction):
    """Attention of one layer, called with one piece of a text after the other.

    pattern, seq_len: as for the text as a whole, of seq_len tokens. A key that no later query sees
    is dropped, so under a bounded pattern memory and the time of a token stay the same. A scheme
    that reads the layer's inputs (gates, mirrors) has those from its earliest key on kept too,
    with those of tokens between the first tokens and a band, which it reads although no query
    sees them.
    """

    def __init__(self, pattern: Pattern, seq_len: int):
        self.pattern, self.seq_len = pattern, seq_len
        self.n_read = self.first_input = 0
        self.kept: tuple[range, ...] = ()
        self.k = self.v = self.x = torch.empty(0)

    @property
    def n_kept(self) -> int:
        """Return the number of keys that are kept."""
        return sum(map(len, self.kept))

    def attend(self, inputs: AttentionInput) -> Tensor:
        """Return the output [B, H, T, D] for the next T tokens of the text."""
        position, first = inputs.position, self.n_read
        self.n_read += inputs.q.shape[2]
        self.kept = joined([*self.kept, range(first, self.n_read)])
        self.k, self.v = after(self.k, inputs.k, 2), after(self.v, inputs.v, 2)
        self.x = after(self.x, inputs.x, 1) if reads_inputs(position) else inputs.x
        v = self.v
        with torch.autocast(v.device.type, enabled=False):
            layer = self._layer(inputs, first)
            chunks = chunks_of(layer, self.pattern, ChunkSizes())
            outputs = [weighted(chunk.weights, chunk.values(v)) for chunk in chunks]
        self._drop(position)
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)).to(inputs.v.dtype)

    def _layer(self, inputs: AttentionInput, first: int) -> LayerTensors:
        """Return what the chunks of the queries from `first` on are cut from."""
        position = inputs.position
        wide = torch.float64 if inputs.q.dtype == torch.float64 else torch.float32
        q, k, x = (t.to(wide) for t in (inputs.q, self.k, self.x))
        n_keys = self.pattern.n_keys(torch.arange(first, self.n_read, device=q.device))

        def of_inputs(numbers: Tensor) -> tuple[Tensor, Tensor]:
            """Return the numbers [B, H, T, ...] of the queries, and of the keys."""
            of_keys = [
                numbers[:, :, r.start - self.first_input :][:, :, : len(r)] for r in self.kept
            ]
            return numbers[:, :, -q.shape[2] :], torch.cat(of_keys, dim=2)

        ready = prepare(q, k, position, n_keys.to(wide), x, of_inputs)
        decays = position.log_decays(x)
        of_q, of_k = (None, None) if decays is None else of_inputs(decays)
        return LayerTensors(
            *ready, q, k, position, of_q, of_k, position.bias(x), position.attention_weights(x),
            n_keys, inputs.sampled, self.seq_len, self.pattern.score_scale, first, self.kept,
            self.first_input,
        )  # fmt: skip

    def _drop(self, position: Position) -> None:
        """Drop what no query from n_read on reads."""
        kept = still_seen(self.pattern, self.n_read)
        if kept != self.kept:
            places = [place_of(r, self.kept) for r in kept]
            self.k, self.v = taken(self.k, places), taken(self.v, places)
            self.kept = kept
        if reads_inputs(position) and not position.reads_indices:
            first = max(0, min((r.start for r in kept), default=self.n_read) - position.n_earlier)
            self.x, self.first_input = self.x[:, first - self.first_input :], first


def reads_inputs(position: Position) -> bool:
    """Return whether the scores of a scheme read the inputs of its layer."""
    return position.reads_inputs and position.has_input_hooks


def taken(x: Tensor, places: list[slice]) -> Tensor:
    """Return some of the keys of x [B, H, K, D], without the memory of the others."""
    return torch.cat([x[:, :, :0], *(x[:, :, place] for place in places)], dim=2)


def after(kept: Tensor, new: Tensor, dim: int) -> Tensor:
    """Return both, one after the other; nothing is kept at first."""
    return torch.cat([kept, new], dim=dim) if kept.ndim > 1 else new


def still_seen(pattern: Pattern, n_read: int) -> tuple[range, ...]:
    """Return the keys, of the first n_read, that a query from n_read on may see."""
    ranges = []
    for branch in pattern.branches:
        first, last = branch.keys(n_read, FAR)
        ranges.append(range(min(first, n_read), min(last, n_read)))
    return joined(ranges)


def joined(ranges: list[range]) -> tuple[range, ...]:
    """Return the union of ranges: those that are not empty, ascending, apart from each other."""
    union: list[range] = []
    for part in sorted((r for r in ranges if r), key=lambda r: r.start):
        if union and part.start <= union[-1].stop:
            union[-1] = range(union[-1].start, max(union[-1].stop, part.stop))
        else:
            union.append(part)
    return tuple(union)
