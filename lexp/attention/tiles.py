"""Attention over tiles of query rows, each with the keys it can reach: exact, and never T x T.

Shapes: B batch, H heads, T sequence, D head_dim; a group is `n_tiles` equal tiles of `rows` queries
with `left` keys before them, folded into the batch so that one kernel call computes them all.

Bounded patterns (window, blockwise) need a fixed `left`: time linear in T, temporaries flat.
Full attention is one tile where the kernel masks by itself; with a bias by distance, tiles against
every earlier key whose biases are a view of one row; with any other bias the temporaries are
rows x T.
Positions are counted from each tile's first query. For a shift-invariant scheme that changes
nothing but the rounding, and it is what keeps xPos exact at any distance from the origin. For the
other schemes positions are counted from the text's first token; their queries and keys are rotated
before they are cut into tiles.
Where the tokens decide how channels decay, so are they, while they fall by little enough over a
tile (lexp.attention.decays); the chunks of lexp.attention.chunked take texts in which they do not.
Which kernel then computes a tile is said by `choose_kernel` in lexp.attention.kernels; with sink
logits it is that of lexp.attention.cpu.sinks.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from lexp.attention.call import AttentionFunction, AttentionInput
from lexp.attention.chunked import Chunked
from lexp.attention.cpu.sinks import attend_with_sinks
from lexp.attention.decays import scaled, within_span
from lexp.attention.heads import for_each_query
from lexp.attention.kernels import Case, ChooseKernel, choose_kernel
from lexp.attention.layouts import (
    BandMask,
    CumulativeGateBias,
    Layout,
    NoBias,
    PairwiseBias,
    ToeplitzBias,
)
from lexp.attention.prepare import RotaryTable, prepare, rotate, rotate_keys
from lexp.attention.toeplitz import distance_row
from lexp.pattern import Banded, Full, Pattern
from lexp.position import Position
from lexp.position.base import Bias, Factors, Pair
from lexp.system.errors import NotDefined


@dataclass(frozen=True)
class TileSizes:
    """Limits on the query rows and tiles that are computed together.

    whole_tokens: up to this many tokens full attention with a bias is one tile. Beyond, tiles have
    chunk_rows rows, so that fewer keys after the last query are read. Without a bias the kernel
    skips those by itself. The same goes for decays by content, which fall less over a short tile.
    max_mask: a tile has fewer rows where its dense mask would hold more numbers (of one head).
    min_rows: of a tile of a bounded pattern (smaller ones waste the matrix units).
    window_rows: most rows of a tile of a sliding window. The kernel scores lookback + rows keys for
    each query, of which the window has lookback + 1: fewer rows for long windows, fewer wasted.
    group_rows: query rows of a sequence folded into one call (bounds the temporaries), or as many
    rows of keys where a tile has more of them.
    piece_rows: rows of a piece of pairwise biases that are made at once on a CPU.
    """

    whole_tokens: int = 1024
    chunk_rows: int = 512
    max_mask: int = 1 << 24
    min_rows: int = 64
    window_rows: int = 1024
    group_rows: int = 16384
    piece_rows: int = 64


class TileGroup(NamedTuple):
    """`n_tiles` tiles of `rows` queries from `start`, each with `left` keys before its first."""

    start: int
    rows: int
    n_tiles: int
    left: int


@dataclass(frozen=True)
class Tiling:
    """The tiles of a pattern at one length, and what they share: mask, positions, factors.

    The shared tables cover keys -span+rows .. rows-1 counted from a tile's first query; a tile with
    fewer keys to its left uses their right end. mask None: causal. from_zero: the rotary factors
    are those of the whole text, and positions are the tokens' indices.
    """

    groups: tuple[TileGroup, ...]
    rows: int
    mask: Tensor | None
    q_pos: Tensor
    k_pos: Tensor
    rotary: RotaryTable
    from_zero: bool


def cut(
    pattern: Banded, seq_len: int, position: Position, sizes: TileSizes = TileSizes()
) -> tuple[TileGroup, ...]:
    """Return groups of tiles that cover the query rows 0 .. seq_len-1 in order.

    NotDefined if the scheme's numbers do not last for the tile that the pattern needs.
    """
    lookback = pattern.lookback
    most = position.max_span or math.inf
    if position.counts_from_zero:
        if seq_len > most:
            name = position.title
            raise NotDefined(f"{name} overflows beyond {most} positions, this text has {seq_len}")
        most = math.inf
    if lookback is None:
        whole = math.inf
        if position.has_bias or position.has_log_decays:
            whole = sizes.whole_tokens
        dense = position.has_bias and not position.by_distance
        chunk = min(
            sizes.chunk_rows, most, max(1, sizes.max_mask // seq_len) if dense else math.inf
        )
        rows = seq_len if seq_len <= min(whole, most) else int(chunk)
        starts = range(0, seq_len, rows)
        return tuple(TileGroup(s, min(rows, seq_len - s), 1, s) for s in starts)
    unit = pattern.period if pattern.period > 1 else sizes.min_rows
    rows = math.ceil(max(lookback, sizes.min_rows) / unit) * unit
    if pattern.period == 1:
        rows = min(rows, max(sizes.min_rows, sizes.window_rows))
    if rows > most:
        rows = int(most // pattern.period) * pattern.period
    if rows < 1:
        raise NotDefined(
            f"{position.title} overflows beyond {most} positions, "
            f"{pattern.label} needs {pattern.period} at once"
        )
    groups, start = [], 0
    # The first tiles have fewer keys to their left; every later one has all it can use.
    while start < min(lookback, seq_len):
        groups.append(TileGroup(start, min(rows, seq_len - start), 1, start))
        start += rows
    whole_tiles, rest = divmod(max(seq_len - start, 0), rows)
    per_group = max(1, sizes.group_rows // max(rows, lookback))
    for first in range(0, whole_tiles, per_group):
        count = min(per_group, whole_tiles - first)
        groups.append(TileGroup(start + first * rows, rows, count, lookback))
    if rest:
        groups.append(TileGroup(seq_len - rest, rest, 1, lookback))
    return tuple(groups)


def make_tiling(
    pattern: Banded,
    seq_len: int,
    position: Position,
    device: torch.device,
    sizes: TileSizes = TileSizes(),
) -> Tiling:
    """Return everything about (pattern, length, scheme) that does not depend on activations."""
    groups = cut(pattern, seq_len, position, sizes)
    rows = max(group.rows for group in groups)
    span = rows + max(group.left for group in groups)
    # Offset by a multiple of the period so that indices into the pattern are not negative.
    offset = math.ceil((span - rows) / pattern.period) * pattern.period
    query = torch.arange(rows, device=device)
    key = torch.arange(rows - span, rows, device=device)
    mask = None
    if not isinstance(pattern, Full):
        mask = pattern.allowed(query[:, None] + offset, key[None, :] + offset)
    from_zero, whole = position.counts_from_zero, torch.arange(seq_len)
    at = (whole, whole) if from_zero else (query, key)
    rotary = RotaryTable(position, *at, seq_len, device)
    return Tiling(groups, rows, mask, query.float(), key.float(), rotary, from_zero)


def choose_layout(pattern: Pattern, position: Position, n_groups: int) -> Layout:
    """Return how a tile's biases are laid out, the leanest way that holds them.

    Full attention without a bias needs no tensor where one tile is all: the kernel masks by
    itself, if there are as many keys as queries. Tiles with earlier keys take a row of zeros.
    """
    if not isinstance(pattern, Full):
        return BandMask()
    if not position.has_bias:
        return NoBias() if n_groups == 1 else ToeplitzBias()
    if position.by_distance:
        return ToeplitzBias()
    return CumulativeGateBias() if position.by_token else PairwiseBias()


def takes_tiles(pattern: Pattern, position: Position, device: torch.device) -> bool:
    """Return whether tiles compute a scheme under a pattern: softmax over a band at 0 .. T-1.

    Sinks may take part in the softmax where the kernel returns its log-sum-exp, without biases.
    """
    if not isinstance(pattern, Banded) or position.samples_positions:
        return False
    with_sinks = position.sink_logits() is not None and not position.has_bias
    return not position.has_attention_weights or (with_sinks and device.type == "cpu")


class Tiles(AttentionFunction):
    """Fast attention of softmax over a band of keys.

    sizes: how the work is cut. choose: the kernel for a layout of biases.
    """

    def __init__(
        self,
        pattern: Banded,
        seq_len: int,
        position: Position,
        device: torch.device,
        sizes: TileSizes = TileSizes(),
        choose: ChooseKernel = choose_kernel,
    ):
        if not takes_tiles(pattern, position, device):
            raise ValueError(f"{position.title}: tiles are for softmax over 0 .. T-1")
        self.tiling = make_tiling(pattern, seq_len, position, device, sizes)
        self.beyond_span = Chunked(pattern, seq_len, position, device)
        self.layout = choose_layout(pattern, position, len(self.tiling.groups))
        self.sizes, self.choose, self.score_scale = sizes, choose, pattern.score_scale
        self.n_keys = pattern.n_keys(torch.arange(seq_len, device=device))

    def attend(self, inputs: AttentionInput) -> Tensor:
        """Return the output [B, H, T, D]."""
        q, k, v, position, x, _ = inputs
        decays = position.log_decays(x)
        if decays is not None and not all(within_span(decays, *g[:3]) for g in self.tiling.groups):
            return self.beyond_span.attend(inputs)
        bias, scale = position.bias(x), self.score_scale / math.sqrt(q.shape[-1])
        q, k = prepare(q, k, position, self.n_keys.float(), x)
        factors = self.tiling.rotary.factors(position)
        if factors is not None and self.tiling.from_zero:
            q, k = rotate(q, factors[0]), rotate_keys(k, factors[1], q.shape[1])
            factors = None
        row = self._row(bias, q) if isinstance(self.layout, ToeplitzBias) else None
        sinks = position.sink_logits()
        outputs = [
            self._group(group, q, k, v, decays, bias, row, factors, scale, sinks)
            for group in self.tiling.groups
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    def _row(self, bias: Bias | None, q: Tensor) -> Tensor:
        """Return biases and mask by distance, for all groups."""
        rows, n_keys = self.tiling.rows, len(self.tiling.k_pos)
        row = distance_row(bias or no_bias, q.shape[1], n_keys, rows, q.device)
        return row.to(torch.float64 if q.dtype == torch.float64 else torch.float32)

    def _group(
        self,
        group: TileGroup,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        decays: Tensor | None,
        bias: Bias | None,
        row: Tensor | None,
        factors: Factors | None,
        scale: float,
        sinks: Tensor | None,
    ) -> Tensor:
        """Return the output of a group's rows [B, H, n_tiles * rows, D]."""
        tiling, batch = self.tiling, q.shape[0]
        # This group's part of the shared tables: its own queries, and keys up to its last query.
        last = len(tiling.k_pos) - tiling.rows + group.rows
        query, key = slice(0, group.rows), slice(last - group.rows - group.left, last)
        q, k, v = fold(q, group, 0), fold(k, group, group.left), fold(v, group, group.left)
        if factors is not None:
            # Factors are [.., T, D/2, 2].
            k = rotate_keys(k, factors[1][..., key, :, :], q.shape[1])
            q = rotate(q, factors[0][..., query, :, :])
        if decays is not None:
            k = for_each_query(k, q.shape[1])
            q, k = scaled(q, k, fold(decays, group, group.left))
        q, k, v = q.to(v.dtype), k.to(v.dtype), for_each_query(v, k.shape[1])
        if row is not None:
            values = row[:, len(tiling.k_pos) - group.left - group.rows :]
        elif bias is not None:
            pair = self._pairs(group, batch, q.shape[1], tiling.q_pos[query], tiling.k_pos[key])
            mask = None if tiling.mask is None else tiling.mask[query, key]
            values = self._values(bias, pair, mask)
        else:
            values = q.new_zeros(()) if tiling.mask is None else tiling.mask[query, key]
        if sinks is not None:
            out = attend_with_sinks(q, k, v, values, self.layout, scale, sinks)
        else:
            kernel = self.choose(self.layout, Case.of(q, k, v, values))
            out = kernel(q, k, v, values, self.layout, scale)
        return unfold(out, group, batch)

    def _values(self, bias: Bias, pair: Pair, mask: Tensor | None) -> Tensor:
        """Return the biases of a group's tiles in the layout; mask: of a bounded pattern."""
        if isinstance(self.layout, CumulativeGateBias):
            return first_query(bias, pair)
        in_pieces = mask is None and pair.i.device.type == "cpu"
        values = of_pieces(bias, pair, self.sizes.piece_rows) if in_pieces else bias(pair)
        # Four dimensions: with three, the CPU's fused kernel is passed over for a slow path.
        values = values if values.ndim == 4 else values[None]
        return values if mask is None else values.masked_fill(~mask, -math.inf)

    def _pairs(
        self, group: TileGroup, batch: int, n_heads: int, q_pos: Tensor, k_pos: Tensor
    ) -> Pair:
        """Return all pairs of a group's tiles; what is the same in each tile broadcasts."""
        device = q_pos.device
        count, rows = group.n_tiles, torch.arange(group.rows, device=device)[:, None]
        first = torch.tensor(group.start, device=device)
        if count > 1:
            tile = torch.arange(count, device=device).repeat(batch)[:, None, None, None]
            first = first + tile * group.rows
        i, j = first + rows, first + torch.arange(-group.left, group.rows, device=device)
        q_grid, k_grid = q_pos[:, None], k_pos[None, :]
        if self.tiling.from_zero:
            q_grid, k_grid = i.float(), torch.atleast_2d(j.float())
        return Pair(
            b=torch.arange(batch, device=device).repeat_interleave(count)[:, None, None, None],
            h=torch.arange(n_heads, device=device)[:, None, None],
            i=i,
            j=j,
            q_pos=q_grid,
            k_pos=k_grid,
            n_keys=self.n_keys[i],
        )


def first_query(bias: Bias, pair: Pair) -> Tensor:
    """Return the biases [B, H, K] of a tile's first query; others differ by a constant.

    The first, not the last: no number then depends on a token later than its query, not even by
    rounding.
    """
    first = pair._replace(i=pair.i[:1], q_pos=pair.q_pos[:1], n_keys=pair.n_keys[:1])
    return bias(first)[:, :, 0]


def of_pieces(bias: Bias, pair: Pair, piece_rows: int) -> Tensor:
    """Return the biases of a causal tile, made piece_rows rows at a time.

    They are made again in the backward pass. Keys later than all queries of a piece get 0.
    The numbers that a network has for each pair stay in the cache: FIRE's are 32 a pair, and at
    512 tokens a step takes 0.8 of the time.
    """
    n_rows, n_keys = len(pair.i), len(pair.j)
    pieces = []
    for start in range(0, n_rows, piece_rows):
        rows = slice(start, min(start + piece_rows, n_rows))
        seen = slice(0, n_keys - n_rows + rows.stop)
        part = pair._replace(
            i=pair.i[rows], j=pair.j[seen], q_pos=pair.q_pos[rows], k_pos=pair.k_pos[:, seen],
            n_keys=pair.n_keys[rows],
        )  # fmt: skip
        if torch.is_grad_enabled():
            piece = checkpoint(bias, part, use_reentrant=False, preserve_rng_state=False)
        else:
            piece = bias(part)
        pieces.append(pad(piece, (0, n_keys - seen.stop)))
    return torch.cat(pieces, dim=-2)


def no_bias(pair: Pair) -> Tensor:
    """Return 0 for every pair."""
    return torch.zeros_like(pair.q_pos)


def fold(x: Tensor, group: TileGroup, left: int) -> Tensor:
    """Return each tile's rows and the `left` before them: [B * n_tiles, H, left + rows, D].

    x [B, H, T, D].
    """
    start, end = group.start - left, group.start + group.rows * group.n_tiles
    if group.n_tiles == 1:
        return x[:, :, start:end]
    tiles = x[:, :, start:end].unfold(2, left + group.rows, group.rows)  # [B, H, n_tiles, D, keys]
    return tiles.permute(0, 2, 1, 4, 3).flatten(0, 1)


def unfold(out: Tensor, group: TileGroup, batch: int) -> Tensor:
    """Return the group's rows in order: [B, H, n_tiles * rows, D].

    out [B * n_tiles, H, rows, D].
    """
    if group.n_tiles == 1:
        return out
    return out.unflatten(0, (batch, group.n_tiles)).transpose(1, 2).flatten(2, 3)
