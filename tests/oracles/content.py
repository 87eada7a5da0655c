"""Schemes that count, weigh or map by what the tokens say."""

import math
from functools import cache

import torch
from torch import Tensor

from oracles.base import (
    Params,
    free_sign,
    of_pairs,
    products,
    weights,
    with_bias,
)
from oracles.biases import fox
from oracles.rotary import rope


def cope(
    q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor, root: float = 1.0
) -> Tensor:
    """Golovneva et al. 2024, equations 3 to 5: q_i . e at the gated count, interpolated.

    root: what q_i . e is divided by.
    """
    e, gates = learned["embedding"], torch.sigmoid(products(list(q), list(k), q.shape[1]))

    def added(i: int, j: int) -> Tensor:
        p = gates[i, j : i + 1].sum().clamp(max=len(e) - 1)
        floor = int(p.detach().floor())
        ceil = int(p.detach().ceil())
        return ((p - floor) * (q[i] @ e[ceil]) + (1 - p + floor) * (q[i] @ e[floor])) / root

    return with_bias(q, k, added)


def cope_divided(
    q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor
) -> Tensor:
    """CoPE as its authors' code has it by default: (q . k + q . e) / sqrt(d)."""
    return cope(q, k, head, n_heads, learned, x, math.sqrt(q.shape[1]))


@weights
def stick_breaking(
    q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor
) -> Tensor:
    """Tan et al. 2024, equation 2: b_ij times the product of 1 - b_ik over j < k < i."""
    n, d = q.shape
    zero = torch.zeros((), dtype=q.dtype)
    b = torch.sigmoid(products(list(q), list(k), d))
    return of_pairs(lambda i, j: b[i, j] * (1 - b[i, j + 1 : i]).prod() if j < i else zero, n)


@weights
def stick_breaking_self(
    q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor
) -> Tensor:
    """What the weights leave of 1 goes to the token itself: o + rem v."""
    broken = stick_breaking(q, k, head, n_heads, learned, x)
    return broken + torch.diag(1 - broken.sum(1))


@free_sign
@weights
def swat(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Fu et al. 2025, equations 2 to 5: sigmoid(rotated q.k / sqrt(d) + s (i - j)) for j <= i."""
    half = n_heads // 2
    s = -(2.0 ** -(head + 1)) if head < half else 2.0 ** -(head - half + 1)
    offsets = torch.tensor([[s * (i - j) for j in range(len(q))] for i in range(len(q))])
    scores = rope(q, k, head, n_heads, learned, x) + offsets.to(q.dtype)
    return 1 / (1 + torch.exp(-scores)) * torch.ones_like(scores).tril()


def path_scores(
    q: Tensor, k: Tensor, head: int, p: Params, x: Tensor, silu: bool = False
) -> Tensor:
    """Yang et al. 2025, section 3: q^T H_i .. H_{j+1} k, the maps multiplied out one by one.

    silu: the convolution is followed by x sigmoid(x).
    """
    n, d = q.shape
    channels = slice(head * d, (head + 1) * d)
    wide = x @ p["into.weight"].T @ p["out.weight"][channels].T
    taps, zero = p["conv.weight"][channels, 0], torch.zeros(d, dtype=q.dtype)
    maps = []
    for t in range(n):
        window = [wide[s] if s >= 0 else zero for s in (t - 2, t - 1, t)]
        w = sum(taps[:, c] * row for c, row in enumerate(window))
        w = w / (1 + torch.exp(-w)) if silu else w
        w = w / w.norm()
        b = 2 * torch.sigmoid(p["strength.weight"][head] @ x[t] + p["strength.bias"][head])
        maps.append(torch.eye(d, dtype=q.dtype) - b * torch.outer(w, w))

    @cache
    def mapped(i: int, j: int) -> Tensor:
        return q[i] if i == j else mapped(i, j + 1) @ maps[j + 1]

    return with_bias(q, k, lambda i, j: (mapped(i, j) - q[i]) @ k[j] / math.sqrt(d))


def path(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """PaTH alone."""
    return path_scores(q, k, head, learned, x)


def path_silu(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """PaTH as the authors' layer has it: SiLU after the convolution."""
    return path_scores(q, k, head, learned, x, silu=True)


def path_fox_released(
    q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor
) -> Tensor:
    """PaTH-FoX as the authors' layer has it: SiLU, and (q H .. H k + c_i - c_j) / sqrt(d)."""
    return path_fox(q, k, head, n_heads, learned, x, True, math.sqrt(q.shape[1]))


def path_fox(
    q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor,
    silu: bool = False, root: float = 1.0,
) -> Tensor:  # fmt: skip
    """PaTH-FoX: and the forget gates of the tokens in between, divided by `root`."""
    parts = [
        {name.removeprefix(f"schemes.{n}."): value for name, value in learned.items()}
        for n in (0, 1)
    ]
    gates = fox(0 * q, k, head, n_heads, parts[1], x)
    return path_scores(q, k, head, parts[0], x, silu) + gates / root


def wall(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Pai, Averbuch et al. 2026: of each channel the gates of the tokens after the key, multiplied.

    Not by way of running sums.
    """
    n, d = q.shape
    rows = slice(head * d, (head + 1) * d)
    logits = x @ learned["gate.weight"][rows].T + learned["gate.bias"][rows]
    gates = 1 / (1 + torch.exp(-logits))
    zero = torch.zeros((), dtype=q.dtype)

    def entry(i: int, j: int) -> Tensor:
        if j > i:
            return zero
        return sum(q[i] * k[j] * gates[j + 1 : i + 1].prod(0)) / math.sqrt(d)

    return of_pairs(entry, n)


def selective_rope(
    q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor
) -> Tensor:
    """Movahedi et al. 2025: each pair of channels of the query turned by what was read since j."""
    n, d = q.shape
    width, pairs = x.shape[1] // n_heads, range(d // 2)
    parts = [x[:, h * width : (h + 1) * width] for h in range(n_heads)]
    normed = torch.cat([p / torch.sqrt((p * p).sum(1, keepdim=True) + 1e-6) for p in parts], dim=1)
    channels = [head * (d // 2) + c for c in pairs]
    wide = normed @ learned["into.weight"].T @ learned["out.weight"][channels].T
    taps, zero = learned["conv.weight"][channels, 0], torch.zeros(d // 2, dtype=q.dtype)
    turns = []
    for t in range(n):
        window = [wide[s] if s >= 0 else zero for s in range(t - 3, t + 1)]
        theta = torch.tensor([500000 ** (-2 * c / d) for c in pairs], dtype=q.dtype)
        turns.append(theta * sum(taps[:, a] * row for a, row in enumerate(window)))

    def entry(i: int, j: int) -> Tensor:
        if j > i:
            return torch.zeros((), dtype=q.dtype)
        score = torch.zeros((), dtype=q.dtype)
        for c in pairs:
            angle = sum((turn[c] for turn in turns[j + 1 : i + 1]), torch.zeros((), dtype=q.dtype))
            a, b = q[i, 2 * c : 2 * c + 2], k[j, 2 * c : 2 * c + 2]
            # a turned by the angle, times b: Re(a conj(b) exp(i angle)).
            score = score + angle.cos() * (a @ b) - angle.sin() * (a[1] * b[0] - a[0] * b[1])
        return score / math.sqrt(d)

    return of_pairs(entry, n)


def of_seen(scores: Tensor, weight) -> Tensor:
    """Return the weights that a rule gives to each query's scores of the keys up to it."""
    n = len(scores)
    return torch.stack(
        [torch.nn.functional.pad(weight(scores[i, : i + 1]), (0, n - i - 1)) for i in range(n)]
    )


@weights
def softmax_one(
    q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor
) -> Tensor:
    """Miller 2023: exp(s) / (1 + sum exp(s)), on RoPE."""
    scores = rope(q, k, head, n_heads, learned, x)
    return of_seen(scores, lambda s: s.exp() / (1 + s.exp().sum()))


@weights
def sigmoid(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Ramapuram et al. 2024, section 3: sigmoid(s + b), b = -log n, n = 64 trained tokens."""
    scores = rope(q, k, head, n_heads, learned, x)
    return of_seen(scores, lambda s: 1 / (1 + 64 * torch.exp(-s)))


@weights
def softpick(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Zuhri et al. 2025, equation 3; the released 1e-8 is added after a division by exp(max s)."""

    def weight(s: Tensor) -> Tensor:
        above = torch.exp(s) - 1
        least = 1e-8 * torch.exp(s.max().clamp(min=0))
        return above.clamp(min=0) / (above.abs().sum() + least)

    return of_seen(rope(q, k, head, n_heads, learned, x), weight)
