"""Decays by channel that the tokens decide: scores that hold q_ic k_jc exp(l_ic - l_jc).

For a key up to the query the exponent is at most 0. As a product of a query's and a key's part,

    exp(l_ic - r_c) exp(r_c - l_jc),

it is exact where both parts are numbers. With r the value at a token between key and query both are
at most 1, and where one of them underflows to 0 so does what they stand for. A rectangle of queries
that come after its keys therefore takes one product, whatever the decays. Queries and keys of the
same stretch take one too, `scaled`, while no channel falls by more than SPAN over it; otherwise
`decayed_scores` cuts the triangle into rectangles, half by half, down to LEAF rows, whose pairs it
computes one by one. Which of the two a text takes, and so the rounding, depends on all of it.
"""

import torch
from torch import Tensor

# What a channel's logarithm may fall by over a tile: keys grow by up to e^60, as do the scores of
# those later than their query, which are masked afterwards; float32 and bfloat16 end at e^88.
SPAN = 60.0
LEAF = 8


def within_span(log_decays: Tensor, start: int, rows: int, n_tiles: int) -> bool:
    """Return True if no channel falls by more than SPAN over a tile.

    log_decays [B, H, T, D]; the tiles have `rows` tokens each, the first from `start`.
    """
    first = log_decays[:, :, start : start + rows * n_tiles : rows]
    last = log_decays[:, :, start + rows - 1 : start + rows * n_tiles : rows]
    # Written so that a NaN is not within the span.
    return bool((first - last).detach().amax() <= SPAN)


def scaled(q: Tensor, k: Tensor, log_decays: Tensor) -> tuple[Tensor, Tensor]:
    """Return the parts of queries [B, H, R, D] and of keys [B, H, K, D] of a tile.

    log_decays [B, H, K, D], of the keys; the last R of them are the queries' tokens. In float32, or
    float64 for float64 inputs.
    """
    own = log_decays[:, :, -q.shape[2] :]
    # The first token's, not the middle: no number then depends on a token later than its query,
    # not even by rounding.
    origin = own[:, :, :1].detach()
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    after, before = (own - origin).to(wide).exp(), (origin - log_decays).to(wide).exp()
    return q.to(wide) * after, k.to(wide) * before


def decayed_scores(
    q: Tensor, k: Tensor, of_q: Tensor, of_k: Tensor, first: int, first_key: int
) -> Tensor:
    """Return the sums over channels [B, H, Q, K]; 0 for keys later than their query.

    q, of_q [B, H, Q, D] and k, of_k [B, H, K, D]: vectors and their log decays, of the tokens from
    `first` and from `first_key` on. In the precision of q.
    """
    n_keys = k.shape[2]
    n_before, n_seen = (min(max(0, t - first_key), n_keys) for t in (first, first + q.shape[2]))
    parts = []
    if n_before:
        parts.append(rectangle(q, k[:, :, :n_before], of_q, of_k[:, :, :n_before]))
    if n_before < n_seen:
        own = slice(n_before, n_seen)
        start = first_key + n_before
        parts.append(triangle(q, k[:, :, own], of_q, of_k[:, :, own], first, start))
    if n_seen < n_keys:
        parts.append(q.new_zeros(*q.shape[:3], n_keys - n_seen))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def rectangle(q: Tensor, k: Tensor, of_q: Tensor, of_k: Tensor) -> Tensor:
    """Return the scores of queries that come after all of the keys."""
    origin = of_q[:, :, :1].detach()
    after, before = (of_q - origin).to(q.dtype).exp(), (origin - of_k).to(q.dtype).exp()
    return (q * after) @ (k * before).mT


def triangle(
    q: Tensor, k: Tensor, of_q: Tensor, of_k: Tensor, first: int, first_key: int
) -> Tensor:
    """Return the scores of queries and of keys from the first of them to the last."""
    if q.shape[2] <= LEAF:
        return pairwise(q, k, of_q, of_k, first, first_key)
    half = q.shape[2] // 2
    upper = decayed_scores(q[:, :, :half], k, of_q[:, :, :half], of_k, first, first_key)
    lower = decayed_scores(q[:, :, half:], k, of_q[:, :, half:], of_k, first + half, first_key)
    return torch.cat([upper, lower], dim=2)


def pairwise(
    q: Tensor, k: Tensor, of_q: Tensor, of_k: Tensor, first: int, first_key: int
) -> Tensor:
    """Return the same as decayed_scores, each pair by itself."""
    i = torch.arange(first, first + q.shape[2], device=q.device)
    j = torch.arange(first_key, first_key + k.shape[2], device=q.device)
    seen = j <= i[:, None]
    falls = of_q[:, :, :, None] - of_k[:, :, None]  # [B, H, Q, K, D]
    factors = falls.masked_fill(~seen[..., None], 0).to(q.dtype).exp()
    return (q[:, :, :, None] * k[:, :, None] * factors).sum(-1).masked_fill(~seen, 0)
