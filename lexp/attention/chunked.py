"""Attention over tiles of query rows against dense strips of keys: any pattern, any scheme.

Each branch of the pattern gives a tile of queries one strip of keys with positions of its own; the
strips of a tile are laid side by side, and softmax (or what the scheme has in its place) goes over
all of them at once. Scores are in float32 and exist for one tile at a time.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lexp.attention.prepare import prepare, rotate
from lexp.pattern import Branch, Pattern
from lexp.position import Position
from lexp.position.base import AttentionWeights, Bias, Pair
from lexp.system.errors import NotDefined
from lexp.system.malloc import give_back

MAX_ROWS = 512
MIN_ROWS = 32
# Scores of one tile, over batch and heads: what stays in a CPU's cache (2^20 floats are 4 MiB; at
# 256 tokens CoPE and DAPE take 0.55 of the time), and on a GPU what keeps it busy.
MAX_SCORES = {"cpu": 1 << 20, "other": 1 << 24}
# Freed memory goes back to the system whenever so many scores have gone by (256 MiB of float32).
GIVE_BACK_SCORES = 1 << 26


class Chunked:
    """General attention for one pattern and length; make it once, call it in every layer."""

    def __init__(self, pattern: Pattern, seq_len: int, position: Position, device: torch.device):
        self.pattern = pattern
        self.n_keys = pattern.n_keys(torch.arange(seq_len, device=device))
        self.seq_len = seq_len

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        position: Position,
        x: Tensor,
        sampled: Tensor | None = None,
    ) -> Tensor:
        """q, k, v [B, H, T, D], the layer's input x [B, T, d_model]; the output [B, H, T, D].

        sampled: positions of the tokens, where they are not 0 .. T-1.
        """
        # Autocast would round scores to bfloat16 between the two products, which no kernel does.
        with torch.autocast(q.device.type, enabled=False):
            outputs = [
                made.weights @ made.values(v) for made in self.tiles(q, k, position, x, sampled)
            ]
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)).to(v.dtype)

    def tiles(
        self, q: Tensor, k: Tensor, position: Position, x: Tensor, sampled: Tensor | None = None
    ) -> Iterator["QueryChunk"]:
        """Scores and weights of all queries, a tile at a time; each is gone before the next."""
        wide = torch.float64 if q.dtype == torch.float64 else torch.float32
        with torch.autocast(q.device.type, enabled=False):
            q, k, x = (t.to(wide) for t in (q, k, x))
            ready = prepare(q, k, position, self.n_keys.to(wide))
            bias, attention_weights = position.bias(x), position.attention_weights(x)
            whole = Whole(*ready, q, k, position, bias, attention_weights, self.n_keys, sampled)
        start = n_scores = 0
        while start < self.seq_len:
            end = min(start + self._rows(q, position, start), self.seq_len)
            with torch.autocast(q.device.type, enabled=False):
                made = make_tile(whole, self.pattern.branches, start, end)
            n_scores += made.scores.numel()
            yield made
            start = end
            if q.device.type == "cpu" and n_scores >= GIVE_BACK_SCORES:
                del made
                give_back()
                n_scores = 0

    def _rows(self, q: Tensor, position: Position, start: int) -> int:
        """Query rows of the tile that begins at `start`."""
        first = min(branch.keys(start, start + 1)[0] for branch in self.pattern.branches)
        n_keys = min(start + MAX_ROWS, self.seq_len) - first
        most = MAX_SCORES["cpu" if q.device.type == "cpu" else "other"]
        fitting = max(MIN_ROWS, most // (q.shape[0] * q.shape[1] * n_keys))
        return min(MAX_ROWS, fitting, position.max_span or MAX_ROWS)


class Whole(NamedTuple):
    """What the tiles of one layer are cut from: q and k prepared, and as they came in."""

    q: Tensor
    k: Tensor
    q_raw: Tensor
    k_raw: Tensor
    position: Position
    bias: Bias | None
    attention_weights: AttentionWeights | None
    n_keys: Tensor
    sampled: Tensor | None

    @property
    def root(self) -> float:
        """What scores are divided by: sqrt(head_dim), before transform_qk() has changed it."""
        return math.sqrt(self.q_raw.shape[-1])


class QueryChunk(NamedTuple):
    """Queries start .. start + Q - 1 and the keys in their reach: indices keys [K], in spans.

    scores [B, H, Q, K]: before softmax, biases added; meaningless where allowed [Q, K] is not.
    weights [B, H, Q, K]: what values are multiplied by, 0 there.
    """

    start: int
    spans: list[slice]
    keys: Tensor
    scores: Tensor
    allowed: Tensor
    weights: Tensor

    def values(self, v: Tensor) -> Tensor:
        """What the weights are for, of v [B, H, T, D]: the keys' [B, H, K, D], as exact as they."""
        return taken(v, self.spans).to(self.weights.dtype)


def make_tile(whole: Whole, branches: tuple[Branch, ...], start: int, end: int) -> QueryChunk:
    """The tile of queries start .. end-1."""
    i = torch.arange(start, end, device=whole.q.device)
    reached = [(branch, slice(*branch.keys(start, end))) for branch in branches]
    reached = [(branch, keys) for branch, keys in reached if keys.start < keys.stop]
    strips = [strip(whole, branch, slice(start, end), keys) for branch, keys in reached]
    spans = [keys for _, keys in reached]
    columns = zip(*strips, strict=True)
    scores, allowed, q_pos, k_pos, j = (
        parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1) for parts in columns
    )
    batch, n_heads = scores.shape[:2]
    pair = Pair(
        b=torch.arange(batch, device=i.device)[:, None, None, None],
        h=torch.arange(n_heads, device=i.device)[:, None, None],
        i=i[:, None],
        j=j,
        q_pos=q_pos,
        k_pos=k_pos,
        n_keys=whole.n_keys[i][:, None],
    )
    if whole.bias is not None:
        scores = scores + whole.bias(pair).to(scores.dtype)
    if whole.attention_weights is not None:
        keys = taken(whole.k_raw, spans)
        weights = whole.attention_weights(scores, whole.q_raw[:, :, start:end], keys, pair, allowed)
    else:
        weights = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    return QueryChunk(start, spans, j, scores, allowed, weights)


def taken(x: Tensor, spans: list[slice]) -> Tensor:
    """The keys [B, H, K, D] of spans; a view where there is one, which indexing never is."""
    parts = [x[:, :, keys] for keys in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def strip(
    whole: Whole, branch: Branch, rows: slice, keys: slice
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Scores [B, H, Q, K] of query rows and keys; allowed, q_pos, k_pos [Q, K], key indices [K]."""
    i, j = (torch.arange(s.start, s.stop, device=whole.q.device) for s in (rows, keys))
    if whole.sampled is not None:
        q_pos, k_pos = whole.sampled[i], whole.sampled[j]
    else:
        q_pos, k_pos = branch.q_map(i).double(), branch.k_map(j).double()
    # Counted from the earliest query, so that nothing overflows and float32 is exact.
    origin = q_pos.min()
    q_pos, k_pos = q_pos - origin, k_pos - origin
    most = whole.position.max_span
    if most is not None and q_pos.max() > most:
        name = type(whole.position).__name__
        raise NotDefined(f"{name} overflows over {most} positions, this pattern puts more together")
    q, k = whole.q[:, :, rows], whole.k[:, :, keys]
    factors = whole.position.rotary_factors(q_pos, k_pos)
    if factors is not None:
        q, k = rotate(q, factors[0]), rotate(k, factors[1])
    scores = q @ k.transpose(-1, -2) / whole.root
    shape = (len(i), len(j))
    dtype = scores.dtype
    return (
        scores,
        branch.allowed(i[:, None], j),
        q_pos.to(dtype)[:, None].expand(shape),
        k_pos.to(dtype).expand(shape),
        j,
    )
