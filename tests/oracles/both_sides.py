"""Bidirectional models: scores of all pairs, keys after the query included.

Schemes whose causal oracle gives all pairs already stand for themselves.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from oracles import biases, content, rotary
from oracles.base import Params, bounded, of_pairs, products
from oracles.biases import (
    ALIBI_SLOPES,
    LOG_BOUNDS,
    POWER_BOUNDS,
    bumps_of,
    geometric_slope,
    of_second,
)
from oracles.rotary import nope, rope


def everywhere(q: Tensor, k: Tensor, bias: Callable[[int, int], Tensor]) -> Tensor:
    """q.k / sqrt(d) + bias(i, j) of all pairs."""
    return products(list(q), list(k), q.shape[1]) + of_pairs(bias, len(q))


def xpos_both(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, turning: int = 1):
    """Each pair of channels, as in Sun et al. 2022, equation 6, its decay by |i - j|:

    Re( q_c conj(k_c) exp(i theta_c (i - j)) ) zeta_c^(|i - j| / 512), summed over c.
    """
    n, d = q.shape
    queries, keys = [list(row) for row in q], [list(row) for row in k]

    def entry(i: int, j: int) -> Tensor:
        a, b, total = queries[i], keys[j], torch.zeros((), dtype=q.dtype)
        for c in range(d // 2):
            angle = turning * (i - j) * 10000 ** (-2 * c / d)
            decay = ((c / (d / 2) + 0.4) / 1.4) ** (abs(i - j) / 512)
            dot = a[2 * c] * b[2 * c] + a[2 * c + 1] * b[2 * c + 1]
            cross = a[2 * c] * b[2 * c + 1] - a[2 * c + 1] * b[2 * c]
            total = total + decay * (dot * math.cos(angle) + cross * math.sin(angle))
        return total / math.sqrt(d)

    return of_pairs(entry, n)


def alibi_both(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params) -> Tensor:
    """q.k / sqrt(d) - m |i - j|, as the authors suggest for encoders."""
    m = ALIBI_SLOPES[n_heads][head]
    return everywhere(q, k, lambda i, j: torch.tensor(-m * abs(i - j), dtype=q.dtype))


@bounded(**LOG_BOUNDS)
def kerple_log_both(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params) -> Tensor:
    """Chi et al. 2022a, equation 4, |m - n| as printed."""
    r1, r2 = learned["r1"][head], learned["r2"][head]
    return everywhere(q, k, lambda i, j: -r1 * (1 + r2 * abs(i - j)).log())


@bounded(**POWER_BOUNDS)
def kerple_power_both(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params) -> Tensor:
    """Chi et al. 2022a, equation 3, |m - n| as printed."""
    r1, r2 = learned["r1"][head], learned["r2"][head]
    return everywhere(
        q, k, lambda i, j: -r1 * (r2 * math.log(abs(i - j))).exp() if i != j else 0 * r1
    )


def sandwich_both(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params) -> Tensor:
    """Chi et al. 2022b: inner products of sinusoidal embeddings, which are even in i - j."""

    def penalty(i: int, j: int) -> Tensor:
        waves = [10000 ** (2 * c / 128) for c in range(1, 65)]
        total = sum(
            math.sin(i / w) * math.sin(j / w) + math.cos(i / w) * math.cos(j / w) for w in waves
        )
        return torch.tensor((total - 64) / (8 * (head + 1) / n_heads), dtype=q.dtype)

    return everywhere(q, k, penalty)


def tisa_both(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params) -> Tensor:
    """Wennberg and Henter 2021, equation 6, of offsets j - i of both signs, as there."""
    return everywhere(q, k, bumps_of(head, learned))


def plus_tisa(scores: Callable) -> Callable:
    """A scheme's scores with TISA on top."""

    def both(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params) -> Tensor:
        bumps = tisa_both(torch.zeros_like(q), k, head, n_heads, of_second(learned))
        return scores(q, k, head, n_heads, {}) + bumps

    return both


def of_all_pairs(oracle: Callable) -> Callable:
    """An oracle from above that leaves no pair out; none of these reads the layer's input."""
    return lambda q, k, head, n_heads, learned, **at: oracle(q, k, head, n_heads, learned, q, **at)


def rope_alibi_both(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params) -> Tensor:
    """Both at once."""
    return rope(q, k, head, n_heads, {}, q) + alibi_both(torch.zeros_like(q), k, head, n_heads, {})


def alibi_geometric_both(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params) -> Tensor:
    """The series of ALiBi's text."""
    m = geometric_slope(head, n_heads)
    return everywhere(q, k, lambda i, j: torch.tensor(-m * abs(i - j), dtype=q.dtype))


def swat_softmax_both(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params) -> Tensor:
    """RoPE and that series."""
    slopes = alibi_geometric_both(torch.zeros_like(q), k, head, n_heads, {})
    return rope(q, k, head, n_heads, {}, q) + slopes


BOTH_SIDES: dict[str, Callable] = {
    **{
        name: of_all_pairs(oracle)
        for part in (rotary, biases, content)
        for name, oracle in vars(part).items()
        if getattr(oracle, "all_pairs", False)
    },
    "xpos": xpos_both,
    "xpos_decay": lambda *given: xpos_both(*given, turning=0),
    "alibi": alibi_both, "rope_alibi": rope_alibi_both,
    "swat_softmax": swat_softmax_both,
    "kerple_log": kerple_log_both, "kerple_power": kerple_power_both,
    "sandwich": sandwich_both, "tisa": tisa_both, "tisa_layers": tisa_both,
    "rope_tisa": plus_tisa(of_all_pairs(rope)),
    "sinusoidal_tisa": plus_tisa(of_all_pairs(nope)),
    "learned_tisa": plus_tisa(of_all_pairs(nope)),
}  # fmt: skip
