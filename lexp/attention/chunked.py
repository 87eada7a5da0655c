"""Attention over chunks of query rows with dense scores: any pattern, any scheme.

Each branch of the pattern gives a chunk of queries one span of keys with positions of its own; the
spans of a chunk are laid side by side, and softmax (or what the scheme has in its place) goes over
all of them at once. Where a pattern selects keys, a chunk has the scores of all earlier keys first,
and those that are not chosen are masked. Scores are in float32 and exist for one chunk at a time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lexp.attention.call import AttentionFunction, AttentionInput
from lexp.attention.decays import decayed_scores
from lexp.attention.heads import for_each_query, scores_of, weighted
from lexp.attention.prepare import prepare, rotate, rotate_keys
from lexp.attention.recounted import Unrotated, recounted
from lexp.pattern import Branch, Pattern, Selecting
from lexp.position import Position
from lexp.position.base import AttentionWeights, Bias, Pair
from lexp.system.errors import NotDefined
from lexp.system.malloc import give_back


@dataclass(frozen=True)
class ChunkSizes:
    """Limits on the query rows that are computed at once, in a chunk.

    max_rows, min_rows: rows of a chunk. cpu_rows: about so many on a CPU, where more leave the
    cache (512 take up to twice the time of 128).
    cpu_scores, other_scores: scores of a chunk, over batch and heads. On a CPU they stay in its
    cache (2^20 floats are 4 MiB; at 256 tokens CoPE and DAPE take 0.55 of the time); elsewhere
    they keep a GPU busy. cpu_least_scores: a CPU does not cut a text into chunks of fewer, whose
    calls take longer than what is saved (64 tokens in two: up to 1.8 of the time).
    give_back_scores: freed memory goes back to the system whenever so many scores have been
    computed (256 MiB of float32).
    """

    max_rows: int = 512
    min_rows: int = 32
    cpu_rows: int = 128
    cpu_scores: int = 1 << 20
    cpu_least_scores: int = 1 << 18
    other_scores: int = 1 << 24
    give_back_scores: int = 1 << 26

    def most_rows(self, q: Tensor) -> int:
        """Return the largest number of rows of a chunk of queries [B, H, Q, D].

        A CPU computes a short text in two: in one, half of the pairs would be of later keys. Chunks
        are of about the same size, so that none of a few rows is left.
        """
        if q.device.type != "cpu":
            return self.max_rows
        batch, n_heads, n_queries, _ = q.shape
        fewest = self.cpu_least_scores // (batch * n_heads * n_queries)
        rows = max(self.min_rows, fewest, min(self.cpu_rows, -(-n_queries // 2)))
        return min(self.max_rows, -(-n_queries // max(1, round(n_queries / rows))))

    def max_scores(self, device: torch.device) -> int:
        """Return the largest number of scores of a chunk on a device."""
        return self.cpu_scores if device.type == "cpu" else self.other_scores

    def max_laid_out(self, device: torch.device) -> int:
        """Return the largest number of numbers of keys that are laid out for each query at once."""
        return 4 * self.max_scores(device)


class Chunked(AttentionFunction):
    """Attention of any pattern and scheme. sizes: how the work is cut."""

    def __init__(
        self,
        pattern: Pattern,
        seq_len: int,
        position: Position,
        device: torch.device,
        sizes: ChunkSizes = ChunkSizes(),
    ):
        self.pattern, self.seq_len, self.sizes = pattern, seq_len, sizes
        self.n_keys = pattern.n_keys(torch.arange(seq_len, device=device))

    def attend(self, inputs: AttentionInput) -> Tensor:
        """Return the output [B, H, T, D]."""
        v = inputs.v
        # Autocast would round scores to bfloat16 between the two products, which no kernel does.
        with torch.autocast(v.device.type, enabled=False):
            outputs = [weighted(chunk.weights, chunk.values(v)) for chunk in self.chunks(inputs)]
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)).to(v.dtype)

    def chunks(self, inputs: AttentionInput, first: int = 0) -> Iterator["QueryChunk"]:
        """Yield scores and weights of the queries from `first` on, chunk by chunk.

        Each is freed before the next is made.
        """
        q, k, _, position, x, sampled = inputs
        wide = torch.float64 if q.dtype == torch.float64 else torch.float32
        with torch.autocast(q.device.type, enabled=False):
            q, k, x = (t.to(wide) for t in (q, k, x))
            ready_q, ready_k = prepare(q, k, position, self.n_keys.to(wide), x)
            decays = position.log_decays(x)
            layer = LayerTensors(
                ready_q[:, :, first:], ready_k, q[:, :, first:], k, position,
                None if decays is None else decays[:, :, first:], decays, position.bias(x),
                position.attention_weights(x), self.n_keys[first:], sampled, self.seq_len,
                self.pattern.score_scale, first,
            )  # fmt: skip
        yield from chunks_of(layer, self.pattern, self.sizes)


class LayerTensors(NamedTuple):
    """The tensors that one layer's chunks are cut from: q and k prepared, and as they came in.

    q_decays, k_decays: the scheme's log decays of the queries and of the keys at hand, if any.
    n_keys: of each query. first: index of the first query. kept: indices of the keys, ascending;
    None: all from 0 on. first_input: index of the first input that bias and attention_weights were
    made from.
    """

    q: Tensor
    k: Tensor
    q_raw: Tensor
    k_raw: Tensor
    position: Position
    q_decays: Tensor | None
    k_decays: Tensor | None
    bias: Bias | None
    attention_weights: AttentionWeights | None
    n_keys: Tensor
    sampled: Tensor | None
    seq_len: int
    score_scale: float
    first: int = 0
    kept: tuple[range, ...] | None = None
    first_input: int = 0

    @property
    def rows(self) -> range:
        """Return the indices of the queries."""
        return range(self.first, self.first + self.q.shape[2])

    def place(self, keys: slice) -> slice:
        """Return where keys of these indices, all of them kept, are in k."""
        return keys if self.kept is None else place_of(keys, self.kept)

    @property
    def root(self) -> float:
        """Return the divisor of scores.

        That is sqrt(head_dim), before transform_qk() has changed it, over the pattern's scale.
        """
        return math.sqrt(self.q_raw.shape[-1]) / self.score_scale


def place_of(keys: slice | range, kept: tuple[range, ...]) -> slice:
    """Return where an unbroken stretch of indices, all of them in kept, is among those in kept."""
    start = sum(min(r.stop, keys.start) - r.start for r in kept if r.start < keys.start)
    return slice(start, start + keys.stop - keys.start)


def chunks_of(layer: LayerTensors, pattern: Pattern, sizes: ChunkSizes) -> Iterator["QueryChunk"]:
    """Yield scores and weights of a layer's queries chunk by chunk."""
    kind = layer.q.device.type
    start, n_scores = layer.first, 0
    while start < layer.rows.stop:
        end = min(start + n_rows(layer, pattern, sizes, start), layer.rows.stop)
        with torch.autocast(kind, enabled=False):
            chunk = make_chunk(layer, pattern, sizes, start, end)
        n_scores += chunk.scores.numel()
        yield chunk
        start = end
        if kind == "cpu" and n_scores >= sizes.give_back_scores:
            del chunk
            give_back()
            n_scores = 0


def n_rows(layer: LayerTensors, pattern: Pattern, sizes: ChunkSizes, start: int) -> int:
    """Return the number of query rows of the chunk that begins at `start`."""
    q, most = layer.q, sizes.most_rows(layer.q)
    first = min(branch.keys(start, start + 1)[0] for branch in pattern.branches)
    end = min(start + most, layer.rows.stop)
    n_keys = max(keys_of(layer, branch, start, end).stop for branch in pattern.branches) - first
    n_scores = q.shape[0] * q.shape[1] * n_keys
    fitting = max(sizes.min_rows, sizes.max_scores(q.device) // n_scores)
    return min(most, fitting, layer.position.max_span or most)


def keys_of(layer: LayerTensors, branch: Branch, start: int, end: int) -> slice:
    """Return the keys that queries start .. end-1 may see in a branch, to the end of the text."""
    first, last = branch.keys(start, end)
    return slice(first, min(last, layer.seq_len))


class QueryChunk(NamedTuple):
    """Queries start .. start + Q - 1 and the keys that they may see: indices keys [K], in spans.

    spans: where they are among the keys at hand.
    scores [B, H, Q, K]: before softmax, biases added; meaningless where allowed [Q, K] is not, or
    [B, H or 1, Q, K] where a pattern selects keys.
    weights [B, H, Q, K]: what values are multiplied by, 0 there.
    """

    start: int
    spans: list[slice]
    keys: Tensor
    scores: Tensor
    allowed: Tensor
    weights: Tensor

    def values(self, v: Tensor) -> Tensor:
        """Return the keys' part of v [B, heads, T, D], in the precision of the weights."""
        return take_spans(v, self.spans).to(self.weights.dtype)


class CandidateScores(NamedTuple):
    """The scores of a chunk's queries with the keys [K] of its spans, before any bias.

    scores [B, H, Q, K]; allowed, q_pos, k_pos [Q, K], with texts and heads before them where a
    pattern selects keys; n_keys [Q, 1] or [B, 1, Q, 1]: keys that a query sees.
    """

    scores: Tensor
    allowed: Tensor
    q_pos: Tensor
    k_pos: Tensor
    n_keys: Tensor
    keys: Tensor
    spans: list[slice]


def make_chunk(
    layer: LayerTensors, pattern: Pattern, sizes: ChunkSizes, start: int, end: int
) -> QueryChunk:
    """Return the chunk of queries start .. end-1."""
    if isinstance(pattern, Selecting) and pattern.recounts:
        candidates = score_recounted(layer, pattern, sizes, start, end)
    else:
        candidates = score_branches(layer, pattern, start, end)
    scores, allowed, q_pos, k_pos, n_keys, j, spans = candidates
    rows = slice(start - layer.first, end - layer.first)
    i = torch.arange(start, end, device=layer.q.device)
    batch, n_heads = scores.shape[:2]
    pair = Pair(
        b=torch.arange(batch, device=i.device)[:, None, None, None],
        h=torch.arange(n_heads, device=i.device)[:, None, None],
        i=i[:, None] - layer.first_input,
        j=j - layer.first_input,
        q_pos=q_pos,
        k_pos=k_pos,
        n_keys=n_keys,
        score_scale=layer.score_scale,
    )
    if layer.bias is not None:
        scores = scores + layer.bias(pair).to(scores.dtype)
    if layer.attention_weights is not None:
        keys = for_each_query(take_spans(layer.k_raw, spans), n_heads)
        weights = layer.attention_weights(scores, layer.q_raw[:, :, rows], keys, pair, allowed)
    else:
        weights = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    return QueryChunk(start, spans, j, scores, allowed, weights)


def score_branches(layer: LayerTensors, pattern: Pattern, start: int, end: int) -> CandidateScores:
    """Return the scores of queries start .. end-1 in the positions of each of the branches."""
    spans = [(branch, keys_of(layer, branch, start, end)) for branch in pattern.branches]
    nonempty = [(branch, keys) for branch, keys in spans if keys.start < keys.stop]
    parts_by_span = [
        score_span(layer, branch, slice(start, end), keys) for branch, keys in nonempty
    ]
    columns = zip(*parts_by_span, strict=True)
    scores, allowed, q_pos, k_pos, j = (
        parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1) for parts in columns
    )
    if isinstance(pattern, Selecting):
        with torch.no_grad():
            allowed = pattern.seen(scores)
    n_keys = layer.n_keys[start - layer.first : end - layer.first, None]
    places = [layer.place(keys) for _, keys in nonempty]
    return CandidateScores(scores, allowed, q_pos, k_pos, n_keys, j, places)


def score_recounted(
    layer: LayerTensors, pattern: Selecting, sizes: ChunkSizes, start: int, end: int
) -> CandidateScores:
    """Return the scores of queries start .. end-1 in positions counted among the keys they see."""
    rows, keys = slice(start - layer.first, end - layer.first), layer.place(slice(0, end))
    tensors = Unrotated(
        layer.q_raw[:, :, rows], layer.k_raw[:, :, keys], layer.q[:, :, rows], layer.k[:, :, keys]
    )
    most = sizes.max_laid_out(layer.q.device)
    scores, seen, q_pos, k_pos = recounted(tensors, pattern, layer.position, layer.seq_len, most)
    scores, j = scores / layer.root, torch.arange(end, device=scores.device)
    q_pos, k_pos = q_pos.to(scores.dtype), k_pos.to(scores.dtype)
    return CandidateScores(scores, seen, q_pos, k_pos, q_pos + 1, j, [keys])


def take_spans(x: Tensor, spans: list[slice]) -> Tensor:
    """Return the keys [B, H, K, D] of spans; of a single span a view, which indexing never is."""
    parts = [x[:, :, keys] for keys in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def score_span(
    layer: LayerTensors, branch: Branch, queries: slice, keys: slice
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return scores [B, H, Q, K]; allowed, q_pos, k_pos [Q, K]; and the key indices [K]."""
    i, j = (torch.arange(s.start, s.stop, device=layer.q.device) for s in (queries, keys))
    if layer.sampled is not None:
        q_pos, k_pos = layer.sampled[i], layer.sampled[j]
    else:
        q_pos, k_pos = branch.q_map(i).double(), branch.k_map(j).double()
    if not layer.position.counts_from_zero:
        # Counted from the earliest query, so that nothing overflows and float32 is exact.
        origin = q_pos.min()
        q_pos, k_pos = q_pos - origin, k_pos - origin
    most, farthest = layer.position.max_span, k_pos if branch.ahead else q_pos
    if most is not None and farthest.max() > most:
        name = layer.position.title
        raise NotDefined(
            f"{name} overflows beyond {most} positions, this pattern needs more at once"
        )
    rows = slice(queries.start - layer.first, queries.stop - layer.first)
    q, k = layer.q[:, :, rows], layer.k[:, :, layer.place(keys)]
    position = layer.position
    factors_of = position.rotary_factors_ahead if branch.ahead else position.rotary_factors
    factors = factors_of(q_pos, k_pos, layer.seq_len)
    if factors is not None:
        q, k = rotate(q, factors[0]), rotate_keys(k, factors[1], q.shape[1])
    if layer.q_decays is not None and layer.k_decays is not None:
        k = for_each_query(k, q.shape[1])
        decays = layer.q_decays[:, :, rows], layer.k_decays[:, :, layer.place(keys)]
        scores = decayed_scores(q / layer.root, k, *decays, queries.start, keys.start)
    else:
        scores = scores_of(q / layer.root, k)
    shape = (len(i), len(j))
    dtype = scores.dtype
    return (
        scores,
        branch.allowed(i[:, None], j),
        q_pos.to(dtype)[:, None].expand(shape),
        k_pos.to(dtype).expand(shape),
        j,
    )
