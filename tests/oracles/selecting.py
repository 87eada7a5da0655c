"""Keys that queries choose by what they hold, query by query, and attention over them."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from oracles.masks import attention


def largest(values: dict[int, float], n: int) -> list[int]:
    """Return the n keys with the largest values; of equal ones the later."""
    return sorted(values, key=lambda key: (values[key], key), reverse=True)[:n]


def moba_keys(q: Tensor, k: Tensor, block: int, top_k: int) -> list[list[int]]:
    """Lu et al. 2025, equations 5 to 8 and section 2.2; of one head, q and k rotated [T, D].

    The gate of a block is q_i . mean(k of the block); that of the query's own block is infinite,
    those of later blocks -infinite. Keys after the query are masked.
    """
    n, found = len(q), []
    for i in range(n):
        gates = {}
        for b in range(i // block + 1):
            mean = k[b * block : (b + 1) * block].mean(0)
            gates[b] = math.inf if b == i // block else (q[i] @ mean).item()
        chosen = largest(gates, top_k)
        found.append([j for j in range(i + 1) if j // block in chosen])
    return found


def reattention_keys(
    q: Tensor, k: Tensor, n_global: int, local: int, n_votes: int, span: int, n_spans: int
) -> list[list[int]]:
    """Liu et al. 2024, as their code decodes a token: q and k of all heads, unrotated [H, T, D]."""
    found = []
    for i in range(q.shape[1]):
        middle = range(n_global, i - local + 1)
        votes: dict[int, float] = {}
        for q_head, k_head in zip(q, k, strict=True):
            products = {j: (q_head[i] @ k_head[j]).item() for j in middle}
            for j in largest(products, n_votes):
                votes[j] = votes.get(j, 0) + 1
        recalled = {
            min(max(centre + offset, middle[0]), middle[-1])
            for centre in largest(votes, n_spans)
            for offset in range(-(span // 2), (span + 1) // 2)
        }
        kept = set(range(min(n_global, i + 1))) | set(range(max(0, i - local + 1), i + 1))
        found.append(sorted(kept | recalled))
    return found


def selected_attention(
    score: Callable[[int, int, int, int], Tensor], v: Tensor, keys: list[list[int]], recounts: bool
) -> Tensor:
    """Softmax over the keys of each query; score(i, j, position of i, position of j), v [T, D].

    recounts: positions are places in the query's list of keys, otherwise indices.
    """
    n = len(keys)
    rows, allowed = [], []
    for i, seen in enumerate(keys):
        place = {j: (nth if recounts else j) for nth, j in enumerate(seen)}
        zero = torch.zeros((), dtype=v.dtype)
        rows.append(
            torch.stack([score(i, j, place[i], place[j]) if j in place else zero for j in range(n)])
        )
        allowed.append([j in place for j in range(n)])
    return attention(torch.stack(rows), v, allowed)
