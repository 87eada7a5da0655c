"""What oracles share: pairs of tokens, marks of what an oracle gives, and how one is called."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Params = dict[str, Tensor]


def of_pairs(entry: Callable[[int, int], Tensor], n: int) -> Tensor:
    """Return the matrix [n, n] of entry(i, j)."""
    return torch.stack([torch.stack([entry(i, j) for j in range(n)]) for i in range(n)])


def products(q: list[Tensor], k: list[Tensor], d: int) -> Tensor:
    """Return q_i . k_j / sqrt(d) of all pairs."""
    return of_pairs(lambda i, j: q[i] @ k[j] / math.sqrt(d), len(q))


def with_bias(q: Tensor, k: Tensor, bias: Callable[[int, int], Tensor]) -> Tensor:
    """q.k / sqrt(d) + bias(i, j) on the causal triangle, 0 elsewhere (it is masked)."""
    d, queries, keys = q.shape[1], list(q), list(k)
    zero = torch.zeros((), dtype=q.dtype)

    def entry(i: int, j: int) -> Tensor:
        return queries[i] @ keys[j] / math.sqrt(d) + bias(i, j) if j <= i else zero

    return of_pairs(entry, len(q))


def all_pairs(oracle: Callable) -> Callable:
    """Mark an oracle whose scores are those of all pairs, keys after the query included."""
    oracle.all_pairs = True
    return oracle


def free_sign(oracle: Callable) -> Callable:
    """Mark an oracle whose bias may reward distance: a learned one, or some heads' on purpose."""
    oracle.free_sign = True
    return oracle


def bounded(**bounds: tuple[float, float]) -> Callable:
    """Mark an oracle whose authors move parameters, by name, into bounds before they use them."""

    def mark(oracle: Callable) -> Callable:
        oracle.bounds = bounds
        return oracle

    return mark


def all_heads(oracle: Callable) -> Callable:
    """Mark an oracle (q, k, learned) of all heads at once, [H, T, D] to [H, T, T]."""
    oracle.takes_all_heads = True
    return oracle


def weights(oracle: Callable) -> Callable:
    """Mark an oracle that gives attention weights, not scores."""
    oracle.gives_weights = True
    return oracle


def leaves(oracle: Callable, learned: Params) -> Params:
    """Return copies of parameters for an oracle, moved into its bounds before its graph begins.

    The gradient that reaches a copy is the authors', at a bound and beyond it too.
    """
    bounds, copies = getattr(oracle, "bounds", {}), {}
    for name, parameter in learned.items():
        least, most = bounds.get(name.rpartition(".")[2], (-math.inf, math.inf))
        numbers = [min(max(number, least), most) for number in parameter.flatten().tolist()]
        moved = torch.tensor(numbers, dtype=parameter.dtype).view(parameter.shape)
        copies[name] = moved.requires_grad_()
    return copies


def of_heads(
    oracle: Callable, q: Tensor, k: Tensor, learned: Params, *x: Tensor, **at: list[float]
) -> list[Tensor]:
    """Return what an oracle gives for each head, [T, T]; q and k are those of all heads."""
    if getattr(oracle, "takes_all_heads", False):
        return list(oracle(q, k, learned))
    n_heads = len(q)
    return [oracle(q[h], k[h], h, n_heads, learned, *x, **at) for h in range(n_heads)]
