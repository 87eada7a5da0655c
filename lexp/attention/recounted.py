"""Scores of keys that a pattern has chosen for each query, in positions counted among these keys.

A key then has another position for each query, so it is rotated anew for each: the keys of a query
are laid out in a row, and of these rows there are so many at once as memory is meant to hold.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from lexp.attention.heads import for_each_query, scores_of
from lexp.attention.prepare import rotate
from lexp.pattern import Selecting
from lexp.position import Position
from lexp.position.base import Factors
from lexp.system.errors import NotDefined


class Recounted(NamedTuple):
    """The scores of queries with all keys, and the positions of those that they see.

    scores [B, H, Q, K]: products before any bias, meaningless where seen [B, 1, Q, K] is not.
    q_pos [B, 1, Q, 1], k_pos [B, 1, Q, K]: int64, the places among the keys that a query sees.
    """

    scores: Tensor
    seen: Tensor
    q_pos: Tensor
    k_pos: Tensor


class Unrotated(NamedTuple):
    """Queries [B, H, Q, D], the last tokens of keys [B, heads, K, D], before and after the scheme's
    content map and query scale.
    """

    q_raw: Tensor
    k_raw: Tensor
    q: Tensor
    k: Tensor


def recounted(
    tensors: Unrotated, pattern: Selecting, position: Position, seq_len: int, most: int
) -> Recounted:
    """Return the scores of a chunk of queries, not yet divided by sqrt(head_dim).

    most: numbers of laid-out keys at once. NotDefined where the scheme overflows.
    """
    q_raw, k_raw, q, k = tensors
    with torch.no_grad():
        seen = pattern.seen(scores_of(q_raw, k_raw))
    k_pos, q_pos = places(seen)
    at = torch.arange(int(q_pos.max()) + 1, device=q.device).double()
    if position.max_span is not None and len(at) - 1 > position.max_span:
        raise NotDefined(
            f"{position.title} overflows beyond {position.max_span} positions, {pattern.label} "
            f"needs {len(at)} at once"
        )
    factors = position.rotary_factors(at, at, seq_len)
    if factors is None:
        return Recounted(scores_of(q, k), seen, q_pos, k_pos)
    scores = rotated_scores(q, k, factors, Laid.of(seen, k_pos, len(at)), most)
    # From places among the seen keys to the keys.
    scores = scores.gather(-1, k_pos.expand(-1, q.shape[1], -1, -1))
    return Recounted(scores, seen, q_pos, k_pos)


def places(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the place of each key [.., Q, K] among those seen, and of the query [.., Q, 1].

    A key that is not seen has the place of the last one before it that is.
    """
    counts = seen.cumsum(-1)
    return (counts - 1).clamp(min=0), counts[..., -1:] - 1


class Laid(NamedTuple):
    """The seen keys of each query in order: rows [B Q, N] of places in all texts' keys [B K].

    last [B, Q]: the place in its row of the query's own key; what follows it repeats a key.
    """

    rows: Tensor
    last: Tensor

    @staticmethod
    def of(seen: Tensor, k_pos: Tensor, n_places: int) -> "Laid":
        """Return the rows of keys seen [B, 1, Q, K]; n_places: the longest row."""
        batch, _, n_queries, n_keys = seen.shape
        seen, place = seen.squeeze(1), k_pos.squeeze(1)
        j = torch.arange(n_keys, device=seen.device).expand_as(place)
        rows = place.new_zeros(batch, n_queries, n_places + 1)
        # One more column takes the keys that are not seen.
        rows.scatter_(-1, torch.where(seen, place, n_places), j)
        rows = rows[..., :n_places] + n_keys * torch.arange(batch, device=j.device)[:, None, None]
        return Laid(rows.flatten(0, 1), place[..., -1])


def rotated_scores(q: Tensor, k: Tensor, factors: Factors, laid: Laid, most: int) -> Tensor:
    """Return q . k [B, H, Q, N] of queries with the keys in their rows, each in its place."""
    batch, n_heads, n_queries, _ = q.shape
    of_q, of_k = factors
    by_head = of_k.ndim == 3
    if by_head:
        q_factors, k_factors = of_q[:, laid.last].transpose(0, 1), of_k.transpose(0, 1)
        k = for_each_query(k, n_heads)
    else:
        q_factors, k_factors = of_q[laid.last][:, None], of_k[:, None]
    n_shared = k.shape[1]
    queries = rotate(q, q_factors).transpose(1, 2).flatten(0, 1)  # [B Q, H, D]
    queries = queries.unflatten(1, (n_shared, n_heads // n_shared))
    keys = k.transpose(1, 2).flatten(0, 1).flatten(1)  # [B K, heads D]
    n_rows = max(1, most // (laid.rows.shape[1] * keys.shape[1]))
    parts = []
    for q_part, row_part in zip(queries.split(n_rows), laid.rows.split(n_rows), strict=True):
        laid_out = embedding(row_part, keys).unflatten(-1, (n_shared, -1))  # [rows, N, heads, D]
        turned = rotate(laid_out, k_factors).permute(0, 2, 3, 1)
        parts.append((q_part @ turned).flatten(1, 2))
    return torch.cat(parts).unflatten(0, (batch, n_queries)).transpose(1, 2)
