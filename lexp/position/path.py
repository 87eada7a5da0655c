"""PaTH attention (Yang et al. 2025, arXiv 2505.16381, section 3): positions as accumulated mirrors.

    score(i, j) = q_i^T H_i H_{i-1} .. H_{j+1} k_j / sqrt(d),  H_t = I - b_t w_t w_t^T
    b_t = 2 sigmoid(u . x_t + c),  w_t = conv_3(A B x)_t, normalised, for each head

The text names linear maps, a short convolution and a normalisation; the authors' layer
(fla-org/flash-linear-attention bc3b101, fla/layers/path_attn.py) has SiLU between the last two:
`activation=silu`. It adds 1e-6 to the squared norm and starts its linear maps at standard deviation
0.02, ours as torch does.

Every token read between j and i reflects what is compared, by as much and in the direction that its
content decides. The product is never formed token by token: over a block of keys with rows W, K
and D = diag(b), L = I + D strict(W W^T), strict being the lower triangle without its diagonal,

    q^T H .. H = q^T M,                 M = I - P^T W,  P = D L^-T W    (the block as a whole)
    q^T H .. H_{j+1} k_j = q^T k'_j,    K' = K - strict(W K^T)^T P      (from its end to a key)

For a chunk of queries, earlier keys are carried forward to the first query's block and queries back
to it, so that one product gives their scores; only in a query's own block is a system solved.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexp.position.base import AttentionWeights, Pair, Position

BLOCK_KEYS = 32
BLOCKS_AT_ONCE = 64
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda wide: wide, "silu": F.silu}


class PaTH(Position):
    """Products of Householder-like maps between two tokens, their own in every layer.

    rank: of the map A B from the layer's input to the directions w. activation: of what the
    convolution gives, none or silu.
    """

    per_layer = True
    n_earlier = 2  # by the convolution

    def __init__(
        self, d_model: int, head_dim: int, n_heads: int, rank: int = 32, activation: str = "none"
    ):
        super().__init__()
        if rank < 1 or activation not in ACTIVATIONS:
            raise ValueError(
                f"path needs rank >= 1 and activation {' or '.join(ACTIVATIONS)}, "
                f"got {rank} and {activation}"
            )
        self.activation = activation
        inner = n_heads * head_dim
        self.n_heads = n_heads
        self.into, self.out = nn.Linear(d_model, rank, bias=False), nn.Linear(rank, inner, False)
        self.conv = nn.Conv1d(inner, inner, 3, groups=inner, bias=False)
        self.strength = nn.Linear(d_model, n_heads)

    def mirrors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return directions w [B, H, T, D], of length 1, and strengths b [B, H, T], from 0 to 2."""
        wide = self.out(self.into(x)).transpose(1, 2)  # [B, H D, T]
        wide = ACTIVATIONS[self.activation](self.conv(F.pad(wide, (2, 0))))
        wide = wide.unflatten(1, (self.n_heads, -1))
        return F.normalize(wide, dim=2).transpose(2, 3), 2 * self.strength(x).sigmoid().mT

    def attention_weights(self, x: Tensor) -> AttentionWeights:
        """Return the softmax of the scores less what the reflections subtract."""
        blocks = in_blocks(*self.mirrors(x))

        def weights(scores: Tensor, q: Tensor, k: Tensor, pair: Pair, allowed: Tensor) -> Tensor:
            q = q * (pair.score_scale / math.sqrt(q.shape[-1]))
            change = change_of_products(q, k, int(pair.i.flatten()[0]), pair.j, blocks)
            return change.add_(scores).masked_fill_(~allowed, -math.inf).softmax(-1)

        return weights


class Blocks(NamedTuple):
    """The reflections of a text in N blocks of C tokens, the last one filled up with none.

    w [B, H, N, C, D], b [B, H, N, C]; p [B, H, N, C, D] and m [B, H, N, D, D]: P and M above.
    known: K' [B, H, C, D] by number of a block. `within` adds blocks whose keys are all at hand, so
    that later chunks of queries need not compute them again.
    """

    w: Tensor
    b: Tensor
    p: Tensor
    m: Tensor
    known: dict[int, Tensor]

    def carried_to_end(self, k: Tensor, chosen: slice | Tensor) -> Tensor:
        """Return K' of the keys [B, H, N, C, D] of some blocks."""
        return k - (k @ self.w[:, :, chosen].mT).triu(1) @ self.p[:, :, chosen]


def in_blocks(w: Tensor, b: Tensor) -> Blocks:
    """Return the reflections w [B, H, T, D], b [B, H, T] in blocks."""
    missing = -w.shape[2] % BLOCK_KEYS
    w = F.pad(w, (0, 0, 0, missing)).unflatten(2, (-1, BLOCK_KEYS))
    b = F.pad(b, (0, missing)).unflatten(2, (-1, BLOCK_KEYS))
    unit = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
    p_parts, m_parts = [], []
    # Some at a time: the systems are larger than what is kept of them.
    for w_part, b_part in zip(w.split(BLOCKS_AT_ONCE, 2), b.split(BLOCKS_AT_ONCE, 2), strict=True):
        solved = torch.linalg.solve_triangular(
            system(w_part, b_part).mT, w_part, upper=True, unitriangular=True
        )
        p_parts.append(b_part[..., None] * solved)
        m_parts.append(unit - p_parts[-1].mT @ w_part)
    return Blocks(w, b, torch.cat(p_parts, dim=2), torch.cat(m_parts, dim=2), {})


def system(w: Tensor, b: Tensor) -> Tensor:
    """Return D strict(W W^T) [.., C, C] of blocks: L without its diagonal of ones."""
    return (b[..., None] * (w @ w.mT)).tril(-1)


def change_of_products(q: Tensor, k: Tensor, start: int, j: Tensor, blocks: Blocks) -> Tensor:
    """Return what the reflections between two tokens add to q k^T, [B, H, Q, K].

    q [B, H, Q, D]: of consecutive tokens from index `start`; k [B, H, K, D]: of indices j [K].
    Where the key is the later token the numbers mean nothing.
    """
    order = None if bool((j.diff() >= 0).all()) else j.argsort(stable=True)
    if order is not None:
        j, k = j[order], k[:, :, order]
    first = start // BLOCK_KEYS
    n_before = int((j < first * BLOCK_KEYS).sum())
    change, rest = within(q, k[:, :, n_before:], start, j[n_before:], blocks)
    if n_before:
        k, j = k[:, :, :n_before], j[:n_before]
        keys = torch.cat([k, carried(k, j, first, blocks)], dim=-1)
        change = torch.cat([torch.cat([-q, rest], dim=-1) @ keys.mT, change], dim=-1)
    return change if order is None else change[..., order.argsort()]


def within(q: Tensor, k: Tensor, start: int, j: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """Return `change_of_products` of the keys in the queries' own blocks, and q^T H .. H.

    The product [B, H, Q, D] goes back to the first token of the first query's block.
    """
    size, first, n_rows = BLOCK_KEYS, start // BLOCK_KEYS, q.shape[2]
    n_blocks = (start + n_rows - 1) // size + 1 - first
    keys, is_there = laid_out(k, j - first * size, n_blocks)
    turned = blocks.carried_to_end(keys, slice(first, first + n_blocks))
    blocks.known.update(
        (first + n, turned[:, :, n]) for n, whole in enumerate(is_there.all(-1).tolist()) if whole
    )
    rest, columns = q[:, :, n_rows:], []
    for n in range(n_blocks - 1, -1, -1):
        w, b, k = blocks.w[:, :, first + n], blocks.b[:, :, first + n], keys[:, :, n]
        row, end = max((first + n) * size - start, 0), n_rows - rest.shape[2]
        inside, after = q[:, :, row:end], torch.cat([-q[:, :, end:], rest], dim=-1)
        passed = (inside @ w.mT).tril(start + row - (first + n) * size)
        met = b[..., None, :] * torch.linalg.solve_triangular(
            system(w, b), passed, upper=False, left=False, unitriangular=True
        )
        change = [
            -met @ (w @ k.mT).tril(-1),
            after @ torch.cat([k, turned[:, :, n]], dim=-1).mT,
        ]
        columns.append(F.pad(torch.cat(change, dim=2), (0, 0, row, 0)))
        rest = torch.cat([inside - met @ w, rest @ blocks.m[:, :, first + n]], dim=2)
    return taken_at(torch.cat(columns[::-1], dim=-1), j - first * size, 3), rest


def carried(k: Tensor, j: Tensor, end: int, blocks: Blocks) -> Tensor:
    """Return (H .. H_{j+1})^T k_j [B, H, K, D] of keys of ascending indices j, for block `end`.

    The product ends with the last token before that block.
    """
    chosen, n_of_key = (j // BLOCK_KEYS).unique(return_inverse=True)
    first, place = int(chosen[0]), n_of_key * BLOCK_KEYS + j % BLOCK_KEYS
    maps = blocks.m[:, :, first + 1 : end].unbind(2)
    later = [torch.eye(k.shape[-1], dtype=k.dtype, device=k.device).expand_as(blocks.m[:, :, 0])]
    for m in reversed(maps):
        later.append(later[-1] @ m)
    known = [blocks.known[n] for n in chosen.tolist() if n in blocks.known]
    if len(known) == len(chosen):
        at_end = torch.stack(known, dim=2)
    else:
        at_end = blocks.carried_to_end(laid_out(k, place, len(chosen))[0], chosen)
    moved = at_end @ torch.stack(later[::-1], dim=2)[:, :, chosen - first].mT
    return taken_at(moved.flatten(2, 3), place, 2)


def laid_out(k: Tensor, place: Tensor, n_blocks: int) -> tuple[Tensor, Tensor]:
    """Return keys [B, H, K, D] at their places in blocks [B, H, N, C, D], others being 0.

    And which places have a key, [N, C].
    """
    of_place = torch.full((n_blocks * BLOCK_KEYS,), -1, device=k.device)
    of_place[place] = torch.arange(len(place), device=k.device)
    is_there = of_place >= 0
    laid = k[:, :, of_place.clamp(min=0)] * is_there[:, None]
    shape = n_blocks, BLOCK_KEYS
    return laid.unflatten(2, shape), is_there.unflatten(0, shape)


def taken_at(x: Tensor, index: Tensor, dim: int) -> Tensor:
    """Return x at an index [K] along a dimension, without a copy if that is an unbroken stretch."""
    if bool((index.diff() == 1).all()):
        return x.narrow(dim, int(index[0]), len(index))
    return x.index_select(dim, index)
