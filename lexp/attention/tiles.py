"""Attention over tiles of query rows, each with the keys it can reach: exact, and never n x n.

Shapes: B batch, H heads, T sequence, D head_dim; a group is `n_tiles` equal tiles of `rows` queries
with `left` keys before them, folded into the batch so that one kernel call does them all.

Bounded patterns (window, blockwise) need a fixed `left`: time linear in T, temporaries flat.
Full attention is one tile where the kernel masks by itself; with a bias that is a function of the
distance, tiles against every earlier key whose biases are a view of one row; with another bias the
temporaries are rows x T.
Positions are counted from each tile's first query. For a shift-invariant scheme that changes
nothing but the rounding, and it is what keeps xPos exact at any distance from the origin.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from lexp.attention.cpu.backward import blocked, forward, pays
from lexp.attention.cpu.layouts import (
    CumulativeGateBias,
    Layout,
    NoBias,
    PairwiseBias,
    ToeplitzBias,
)
from lexp.attention.cpu.matmul import by_products, products_pay
from lexp.attention.cpu.toeplitz import distance_row
from lexp.attention.prepare import Table, prepare, rotate, table
from lexp.pattern import Banded, Full, Pattern
from lexp.position import Position
from lexp.position.base import Bias, Pair
from lexp.system.errors import NotDefined

# Up to this many tokens causal attention with a bias is one tile; beyond, tiles have fewer rows, so
# that less is read of keys after the last query. Without a bias the kernel skips those.
WHOLE_TOKENS_BIASED = 1024
CHUNK_ROWS = 512
# A tile has fewer rows than that where its dense mask would have more numbers (of one head).
MAX_MASK = 1 << 24
# Bounded patterns: at least this many rows a tile (smaller ones waste the matrix units), and tiles
# folded into one call up to this many query rows a sequence (bounds the temporaries).
MIN_TILE_ROWS = 64
GROUP_ROWS = 16384
# Rows of a piece of biases that are made pair by pair while training on a CPU.
PIECE_ROWS = 64


class TileGroup(NamedTuple):
    """`n_tiles` tiles of `rows` queries from `start`, each with `left` keys before its first."""

    start: int
    rows: int
    n_tiles: int
    left: int


@dataclass(frozen=True)
class Tiling:
    """How a pattern at one length is cut, and what all tiles share: mask and rotary factors.

    The shared tables cover keys -span+rows .. rows-1 counted from a tile's first query; a tile with
    fewer keys to its left uses their right end. mask None: causal.
    """

    groups: tuple[TileGroup, ...]
    rows: int
    mask: Tensor | None
    q_pos: Tensor
    k_pos: Tensor
    factors: Table


def cut(pattern: Banded, seq_len: int, position: Position) -> tuple[TileGroup, ...]:
    """Cover the query rows 0 .. seq_len-1 by groups of tiles, in order.

    NotDefined if the scheme's numbers do not last for the tile that the pattern needs.
    """
    lookback = pattern.lookback
    most = position.max_span or math.inf
    if lookback is None:
        whole = WHOLE_TOKENS_BIASED if position.has_bias else math.inf
        dense = position.has_bias and not position.by_distance
        chunk = min(CHUNK_ROWS, most, max(1, MAX_MASK // seq_len) if dense else math.inf)
        rows = seq_len if seq_len <= min(whole, most) else int(chunk)
        starts = range(0, seq_len, rows)
        return tuple(TileGroup(s, min(rows, seq_len - s), 1, s) for s in starts)
    unit = pattern.period if pattern.period > 1 else MIN_TILE_ROWS
    rows = math.ceil(max(lookback, MIN_TILE_ROWS) / unit) * unit
    if rows > most:
        rows = int(most // pattern.period) * pattern.period
    if rows < 1:
        raise NotDefined(
            f"{type(position).__name__} overflows over {most} positions, "
            f"{pattern.label} takes {pattern.period} at once"
        )
    groups, start = [], 0
    # The first tiles have fewer keys to their left; every later one has all it can use.
    while start < min(lookback, seq_len):
        groups.append(TileGroup(start, min(rows, seq_len - start), 1, start))
        start += rows
    whole_tiles, rest = divmod(max(seq_len - start, 0), rows)
    per_group = max(1, GROUP_ROWS // rows)
    for first in range(0, whole_tiles, per_group):
        count = min(per_group, whole_tiles - first)
        groups.append(TileGroup(start + first * rows, rows, count, lookback))
    if rest:
        groups.append(TileGroup(seq_len - rest, rest, 1, lookback))
    return tuple(groups)


def make_tiling(pattern: Banded, seq_len: int, position: Position, device: torch.device) -> Tiling:
    """Everything about (pattern, length, scheme) that does not depend on activations."""
    groups = cut(pattern, seq_len, position)
    rows = max(group.rows for group in groups)
    span = rows + max(group.left for group in groups)
    # Offset by a multiple of the period so that indices into the pattern are not negative.
    offset = math.ceil((span - rows) / pattern.period) * pattern.period
    query = torch.arange(rows, device=device)
    key = torch.arange(rows - span, rows, device=device)
    bare = isinstance(pattern, Full) and (len(groups) == 1 or in_rows(pattern, position))
    mask = None if bare else pattern.allowed(query[:, None] + offset, key[None, :] + offset)
    # In double precision on the CPU, which every machine has; then in what the model computes in.
    factors = table(position.rotary_factors(query.double().cpu(), key.double().cpu()), device)
    return Tiling(groups, rows, mask, query.float(), key.float(), factors)


def in_rows(pattern: Pattern, position: Position) -> bool:
    """Whether masks and biases are a function of the distance, so that one row holds them."""
    return isinstance(pattern, Full) and (position.by_distance or not position.has_bias)


class Tiles:
    """Fast attention for one pattern and length; make it once, call it in every layer."""

    def __init__(self, pattern: Banded, seq_len: int, position: Position, device: torch.device):
        if position.has_attention_weights or position.samples_positions:
            raise ValueError(f"{type(position).__name__}: tiles are for softmax over 0 .. T-1")
        self.tiling = make_tiling(pattern, seq_len, position, device)
        # A single tile without a bias needs no row: the kernel knows what causal means.
        self.in_rows = in_rows(pattern, position) and (
            position.has_bias or len(self.tiling.groups) > 1
        )
        self.full = isinstance(pattern, Full)
        self.by_key = self.full and position.by_token
        self.n_keys = pattern.n_keys(torch.arange(seq_len, device=device))

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        position: Position,
        x: Tensor,
        sampled: Tensor | None = None,
    ) -> Tensor:
        """q, k, v [B, H, T, D], the layer's input x [B, T, d_model]; the output [B, H, T, D]."""
        bias, scale = position.bias(x), 1 / math.sqrt(q.shape[-1])
        q, k = prepare(q, k, position, self.n_keys.float())
        row = self._row(bias, q) if self.in_rows else None
        outputs = [self._group(group, q, k, v, bias, row, scale) for group in self.tiling.groups]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    def _row(self, bias: Bias | None, q: Tensor) -> Tensor:
        """Biases and mask by distance, for all groups."""
        rows, n_keys = self.tiling.rows, len(self.tiling.k_pos)
        row = distance_row(bias or no_bias, q.shape[1], n_keys, rows, q.device)
        return row.to(torch.float64 if q.dtype == torch.float64 else torch.float32)

    def _group(
        self,
        group: TileGroup,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Bias | None,
        row: Tensor | None,
        scale: float,
    ) -> Tensor:
        tiling, batch = self.tiling, q.shape[0]
        # This group's part of the shared tables: its own queries, and keys up to its last query.
        query = slice(0, group.rows)
        last = tiling.k_pos.shape[0] - tiling.rows + group.rows
        key = slice(last - group.rows - group.left, last)
        q, k, v = fold(q, group, 0), fold(k, group, group.left), fold(v, group, group.left)
        if tiling.factors is not None:
            q, k = rotate(q, tiling.factors[0][query]), rotate(k, tiling.factors[1][key])
        q, k = q.to(v.dtype), k.to(v.dtype)
        mask = None if tiling.mask is None else tiling.mask[query, key]
        if row is not None:
            row = row[:, len(tiling.k_pos) - group.left - group.rows :]
            return attend_with(row, ToeplitzBias(), q, k, v, scale)
        if bias is not None:
            pair = self._pairs(group, batch, q.shape[1], tiling.q_pos[query], tiling.k_pos[key])
            if self.by_key:
                return attend_with(first_query(bias, pair), CumulativeGateBias(), q, k, v, scale)
            in_pieces = self.full and q.device.type == "cpu"
            added = of_pieces(bias, pair) if in_pieces else bias(pair)
            # Four dimensions: with three, the CPU's fused kernel is passed over for a slow path.
            added = added if added.ndim == 4 else added[None]
            if self.full and (pays(q, k, v, added) or products_pay(q, k)):
                return attend_with(added, PairwiseBias(), q, k, v, scale)
            allowed = mask if mask is not None else pair.q_pos >= pair.k_pos
            # The CPU's kernel takes a float32 bias beside bfloat16 queries, those of CUDA do not.
            on_cpu = q.device.type == "cpu" and v.dtype == torch.bfloat16
            dtype = torch.float32 if on_cpu else v.dtype
            mask = added.masked_fill(~allowed, -math.inf).to(dtype)
        elif mask is None:
            return attend_with(q.new_zeros(()), NoBias(), q, k, v, scale)
        if not self.full and products_pay(q, k):
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, -math.inf)
            return unfold(by_products(q, k, v, mask, scale), group, batch)
        # Autocast would round biases to bfloat16.
        with torch.autocast(q.device.type, enabled=False):
            out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        return unfold(out, group, batch)

    def _pairs(
        self, group: TileGroup, batch: int, n_heads: int, q_pos: Tensor, k_pos: Tensor
    ) -> Pair:
        """All pairs of a group's tiles; what is the same in each of them broadcasts."""
        device = q_pos.device
        count, rows = group.n_tiles, torch.arange(group.rows, device=device)[:, None]
        first = torch.tensor(group.start, device=device)
        if count > 1:
            tile = torch.arange(count, device=device).repeat(batch)[:, None, None, None]
            first = first + tile * group.rows
        return Pair(
            b=torch.arange(batch, device=device).repeat_interleave(count)[:, None, None, None],
            h=torch.arange(n_heads, device=device)[:, None, None],
            i=first + rows,
            j=first + torch.arange(-group.left, group.rows, device=device),
            q_pos=q_pos[:, None],
            k_pos=k_pos[None, :],
            n_keys=self.n_keys[first + rows],
        )


def attend_with(
    values: Tensor, layout: Layout, q: Tensor, k: Tensor, v: Tensor, scale: float
) -> Tensor:
    """Causal attention with biases in a layout, with the backward pass that suits them."""
    return (blocked if pays(q, k, v, values) else forward)(q, k, v, values, layout, scale)


def first_query(bias: Bias, pair: Pair) -> Tensor:
    """Biases [B, H, K] of a tile's first query, where those of others differ by a constant.

    Not of the last: then no number would depend on a token later than its query, but in rounding.
    """
    first = pair._replace(i=pair.i[:1], q_pos=pair.q_pos[:1], n_keys=pair.n_keys[:1])
    return bias(first)[:, :, 0]


def of_pieces(bias: Bias, pair: Pair) -> Tensor:
    """Biases of a causal tile a few rows at a time, made again in the backward pass.

    Keys later than all queries of a piece get 0. What a network has inside for each pair stays in
    the cache: FIRE's is 32 numbers wide, and at 512 tokens a step takes 0.8 of the time.
    """
    n_rows, n_keys = len(pair.i), len(pair.j)
    pieces = []
    for start in range(0, n_rows, PIECE_ROWS):
        rows = slice(start, min(start + PIECE_ROWS, n_rows))
        seen = slice(0, n_keys - n_rows + rows.stop)
        some = pair._replace(
            i=pair.i[rows], j=pair.j[seen], q_pos=pair.q_pos[rows], k_pos=pair.k_pos[:, seen],
            n_keys=pair.n_keys[rows],
        )  # fmt: skip
        if torch.is_grad_enabled():
            made = checkpoint(bias, some, use_reentrant=False, preserve_rng_state=False)
        else:
            made = bias(some)
        pieces.append(pad(made, (0, n_keys - seen.stop)))
    return torch.cat(pieces, dim=-2)


def no_bias(pair: Pair) -> Tensor:
    """Nothing is added."""
    return torch.zeros_like(pair.q_pos)


def fold(x: Tensor, group: TileGroup, left: int) -> Tensor:
    """[B, H, T, D] to [B * count, H, left + rows, D]: each tile's rows and `left` before them."""
    start, end = group.start - left, group.start + group.rows * group.n_tiles
    if group.n_tiles == 1:
        return x[:, :, start:end]
    tiles = x[:, :, start:end].unfold(2, left + group.rows, group.rows)  # [B, H, count, D, keys]
    return tiles.permute(0, 2, 1, 4, 3).flatten(0, 1)


def unfold(out: Tensor, group: TileGroup, batch: int) -> Tensor:
    """[B * count, H, rows, D] back to the group's rows in order, [B, H, count * rows, D]."""
    if group.n_tiles == 1:
        return out
    return out.unflatten(0, (batch, group.n_tiles)).transpose(1, 2).flatten(2, 3)
