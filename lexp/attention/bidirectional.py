"""Attention over keys at both sides of a query, for schemes that are defined there.

Scores exist for one tile of query rows at a time. Where the scheme's rotary factors, if it has
any, are the same for all keys, they are applied once and a fused kernel does the rest, its biases
a view of one row of numbers. Where they differ for keys after the query (xPos), a tile of rows
takes two products, each with the keys for which it is finite: positions count from the tile's
first query, keys up to the tile's end meet `rotary_factors`, keys from its beginning
`rotary_factors_ahead`. Where positions are sampled, no row holds the biases: they are then made for
each pair.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lexp.attention.call import AttentionFunction, AttentionInput
from lexp.attention.heads import for_each_query, fused, scores_of, weighted
from lexp.attention.prepare import RotaryTable, prepare, rotate, rotate_keys
from lexp.attention.toeplitz import reversed_matrix
from lexp.pattern import Bidirectional, TwoSided
from lexp.position import Position
from lexp.position.base import Bias, Factors, Pair
from lexp.system.errors import NotDefined


@dataclass(frozen=True)
class BidirectionalSizes:
    """Limits on the query rows that are computed at once.

    max_mask: numbers of masks and biases of a tile, over heads. cpu_scores, other_scores: scores of
    a tile, over texts and heads, where the rotary factors differ for keys after the query.
    min_rows: least rows of a tile.
    """

    max_mask: int = 1 << 24
    cpu_scores: int = 1 << 21
    other_scores: int = 1 << 25
    min_rows: int = 32

    def max_scores(self, device: torch.device) -> int:
        """Return the largest number of scores of a tile on a device."""
        return self.cpu_scores if device.type == "cpu" else self.other_scores


class KeySpan(NamedTuple):
    """Queries start .. end-1 and the keys that they see, first .. last-1."""

    start: int
    end: int
    first: int
    last: int


class BidirectionalAttention(AttentionFunction):
    """Attention of two-sided patterns. lengths [B]: see make_attend. sizes: how the work is cut."""

    def __init__(
        self,
        pattern: TwoSided,
        seq_len: int,
        position: Position,
        device: torch.device,
        lengths: Tensor | None = None,
        sizes: BidirectionalSizes = BidirectionalSizes(),
    ):
        if position.has_bias and not position.by_distance:
            raise NotDefined(
                f"the bias of {position.title} reads more than the distance: "
                "bidirectional attention does not support it"
            )
        if position.has_attention_weights:
            raise NotDefined(
                f"{position.title} replaces softmax: bidirectional attention does not support it"
            )
        self.pattern, self.seq_len, self.lengths, self.sizes = pattern, seq_len, lengths, sizes
        self.index = torch.arange(seq_len, device=device)
        self.n_keys = pattern.n_keys(self.index)
        self.table = None
        if not (position.has_factors_ahead or position.samples_positions):
            self.table = RotaryTable(position, self.index, self.index, seq_len, device, on)

    def attend(self, inputs: AttentionInput) -> Tensor:
        """Return the output [B, H, T, D]."""
        q, k, v, position, x, sampled = inputs
        bias, root = position.bias(x), math.sqrt(q.shape[-1]) / self.pattern.score_scale
        q, k = prepare(q, k, position, self.n_keys.float(), x)
        factors = self._factors(position, sampled)
        if factors is not None:
            q, k = rotate(q, factors[0]), rotate_keys(k, factors[1], q.shape[1])
        v = for_each_query(v, k.shape[1])
        at = torch.arange(self.seq_len, dtype=torch.float64) if sampled is None else sampled
        # Autocast would round biases and scores to bfloat16.
        with torch.autocast(q.device.type, enabled=False):
            row = None if bias is None or sampled is not None else self._row(bias, q)
            outputs = []
            for tile in self._tiles(q, position):
                biases = self._biases_by_distance(tile, row)
                if bias is not None and sampled is not None:
                    biases = self._biases_of_pairs(tile, bias, q, sampled)
                added = self._masked(tile, biases)
                if position.has_factors_ahead:
                    scores = two_products(q, k, position, tile, at) / root
                    weights = (scores if added is None else scores + added).softmax(-1)
                    values = v[:, :, tile.first : tile.last].to(weights.dtype)
                    outputs.append(weighted(weights, values).to(v.dtype))
                else:
                    outputs.append(fused_tile(q, k, v, tile, added, 1 / root))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    def _factors(self, position: Position, sampled: Tensor | None) -> Factors | None:
        """Return the factors if they are the same for keys at both sides, or None."""
        if position.has_factors_ahead:
            return None
        if sampled is None:
            assert self.table is not None, "made for a scheme of this kind"
            return self.table.factors(position)
        factors = position.rotary_factors(sampled, sampled, self.seq_len)
        return None if factors is None else on(factors, sampled.device)

    def _tiles(self, q: Tensor, position: Position) -> list[KeySpan]:
        """Return tiles that cover all queries in order."""
        rows, sizes = self.seq_len, self.sizes
        batch, n_heads = q.shape[:2]
        if position.has_factors_ahead:
            most = sizes.max_scores(q.device)
            rows = max(sizes.min_rows, most // (batch * n_heads * rows))
            rows = min(rows, position.max_span or rows)
        elif position.has_bias or not self._is_bare:
            n_masks = 1 if self.lengths is None else batch
            rows = max(sizes.min_rows, sizes.max_mask // (n_masks * n_heads * rows))
        starts = range(0, self.seq_len, min(rows, self.seq_len))
        ends = [*starts[1:], self.seq_len]
        return [
            KeySpan(start, end, *self.pattern.reach(start, end, self.seq_len))
            for start, end in zip(starts, ends, strict=True)
        ]

    @property
    def _is_bare(self) -> bool:
        """Return True if every query sees every key."""
        return isinstance(self.pattern, Bidirectional) and self.lengths is None

    def _row(self, bias: Bias, q: Tensor) -> Tensor:
        """Return b(i - j) [H, 2T-1], from the farthest key behind to the farthest ahead."""
        n, n_heads = self.seq_len, q.shape[1]
        distance = torch.arange(n - 1, -n, -1, dtype=torch.float32, device=q.device)
        if q.dtype == torch.float64:
            distance = distance.double()
        zeros, heads = torch.zeros_like(distance), torch.arange(n_heads, device=q.device)
        pair = Pair(zeros, heads[:, None], zeros, zeros, distance, zeros, zeros + n)
        return bias(pair).expand(n_heads, 2 * n - 1)

    def _biases_by_distance(self, tile: KeySpan, row: Tensor | None) -> Tensor | None:
        """Return a tile's part of the row, [1, H, rows, keys], or None."""
        if row is None:
            return None
        start, end, first, last = tile
        # The last query comes first in the view, where key c is at distance end-1 - (first+c).
        begin = self.seq_len - 1 - (end - 1 - first)
        view = reversed_matrix(row.contiguous(), end - start, last - first, begin)
        return view.flip(1)[None]

    def _biases_of_pairs(self, tile: KeySpan, bias: Bias, q: Tensor, sampled: Tensor) -> Tensor:
        """Return a tile's biases at sampled positions [T], [1, H, rows, keys]."""
        positions = sampled if q.dtype == torch.float64 else sampled.float()
        i, j = self.index[tile.start : tile.end, None], self.index[tile.first : tile.last]
        heads = torch.arange(q.shape[1], device=q.device)[:, None, None]
        text = torch.zeros_like(heads)
        biases = bias(Pair(text, heads, i, j, positions[i], positions[j], self.n_keys[i]))
        return biases.expand(q.shape[1], len(i), len(j))[None]

    def _masked(self, tile: KeySpan, added: Tensor | None) -> Tensor | None:
        """Return biases and mask of a tile, [1 or B, 1 or H, rows, keys], or None."""
        start, end, first, last = tile
        if self._is_bare:
            return added
        i, j = self.index[start:end, None], self.index[first:last]
        allowed = self.pattern.allowed(i, j)[None, None]
        if self.lengths is not None:
            # Padding sees itself, so that no row of weights is empty.
            allowed = (allowed & (j < self.lengths[:, None, None, None])) | (i == j)
        if added is None:
            added = torch.zeros((), device=allowed.device)
        return torch.where(allowed, added, -math.inf)


def fused_tile(
    q: Tensor, k: Tensor, v: Tensor, tile: KeySpan, added: Tensor | None, scale: float
) -> Tensor:
    """Return the output of a tile's rows by torch's fused kernel."""
    q, k = q[:, :, tile.start : tile.end].to(v.dtype), k[:, :, tile.first : tile.last].to(v.dtype)
    if added is not None:
        # The CPU's kernel takes a float32 mask beside bfloat16 queries, those of CUDA do not.
        narrow = v.dtype == torch.bfloat16 and q.device.type == "cpu"
        added = added.to(torch.float32 if narrow else v.dtype)
    return fused(q, k, v[:, :, tile.first : tile.last], scale, added)


def two_products(q: Tensor, k: Tensor, position: Position, tile: KeySpan, at: Tensor) -> Tensor:
    """Return products [B, H, rows, keys] of a tile under a scheme with factors for keys ahead.

    at: positions of all tokens, float64 [T].
    """
    start, end, first, last = tile
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    q, k = q[:, :, start:end].to(wide), k.to(wide)
    seq_len, most = len(at), position.max_span
    if not position.counts_from_zero:
        at = at - at[start]
    rows, upto, beyond = at[start:end], at[first:end], at[start:last]
    if most is not None and rows[-1] > most:
        raise NotDefined(f"{position.title} overflows beyond {most} positions")
    behind = position.rotary_factors(rows, upto, seq_len)
    ahead = position.rotary_factors_ahead(rows, beyond, seq_len)
    assert behind is not None and ahead is not None, "the scheme says that it has them"
    behind, ahead = on(behind, q.device), on(ahead, q.device)
    n_heads = q.shape[1]
    past, future = (
        scores_of(rotate(q, factors[0]), rotate_keys(keys, factors[1], n_heads))
        for keys, factors in ((k[:, :, first:end], behind), (k[:, :, start:last], ahead))
    )
    # Both cover the tile's keys; each pair there takes the product of its side.
    n_before, n_rows = start - first, end - start
    later = torch.ones(n_rows, n_rows, dtype=torch.bool, device=q.device).triu(1)
    of_tile = torch.where(later, future[..., :n_rows], past[..., n_before:])
    return torch.cat([past[..., :n_before], of_tile, future[..., n_rows:]], dim=-1)


def on(factors: Factors, device: torch.device) -> Factors:
    """Return factors on the model's device, as precise as it computes there."""
    q, k = (table.to(torch.complex64 if device.type == "mps" else table.dtype) for table in factors)
    return q.to(device), k.to(device)
