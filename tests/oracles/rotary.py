"""Plain products, rotations of queries and keys, and scales by the number of keys."""

import math

import torch
from torch import Tensor

from oracles.base import (
    Params,
    all_pairs,
    of_pairs,
    products,
)


@all_pairs
def nope(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """q.k / sqrt(d)."""
    return products(list(q), list(k), q.shape[1])


# Absolute schemes act on the embeddings; their scores are plain products.
sinusoidal = learned = shape = abacus = coupled = nope


def sinusoidal_embedding(position: int, channel: int, d_model: int) -> float:
    """Vaswani et al. 2017, section 3.5: PE(t, 2i) = sin(t/10000^(2i/d)), PE(t, 2i+1) = cos."""
    angle = position / 10000 ** (2 * (channel // 2) / d_model)
    return math.sin(angle) if channel % 2 == 0 else math.cos(angle)


@all_pairs
def rope(
    q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor, at=None
) -> Tensor:
    """Su et al. 2021, equations 14, 15 and 34: each adjacent pair is rotated by m theta_i.

    at: positions m of the tokens, 0 .. n-1 unless given.
    """
    n, d = q.shape
    at = at or range(n)

    def rotated(row: Tensor, m: float) -> Tensor:
        x, out = list(row), []
        for i in range(d // 2):
            theta = 10000 ** (-2 * i / d)
            c, s = math.cos(m * theta), math.sin(m * theta)
            out += [x[2 * i] * c - x[2 * i + 1] * s, x[2 * i] * s + x[2 * i + 1] * c]
        return torch.stack(out)

    return products(list(map(rotated, q, at)), list(map(rotated, k, at)), d)


# Ruoss et al. 2023, Shimizu et al. 2026: RoPE at the positions that were drawn.
random_rope = random_float_rope = rope


def xpos(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Sun et al. 2022, Algorithm 1 with the authors' gamma = 0.4 and zeta^(m/512).

    Q (C + rot S) T and K (C + rot S) T^-1 with rot(x) = (-x1, x0, -x3, x2, ...).
    """
    d = q.shape[1]

    def mapped(row: Tensor, m: int, sign: int) -> Tensor:
        x, out = list(row), []
        for channel in range(d):
            i = channel // 2
            theta = 10000 ** (-2 * i / d)
            zeta = (i / (d / 2) + 0.4) / 1.4
            rot = -x[channel + 1] if channel % 2 == 0 else x[channel - 1]
            turned = x[channel] * math.cos(m * theta) + rot * math.sin(m * theta)
            out.append(turned * zeta ** (sign * m / 512))
        return torch.stack(out)

    queries = [mapped(row, m, 1) for m, row in enumerate(q)]
    keys = [mapped(row, m, -1) for m, row in enumerate(k)]
    return products(queries, keys, d)


@all_pairs
def p_rope(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Barbero et al. 2024: RoPE, the slowest quarter of the frequencies set to zero."""
    n, d = q.shape

    def rotated(x: Tensor, m: int) -> Tensor:
        out = []
        for i in range(d // 2):
            angle = m * 10000 ** (-2 * i / d) if i < 0.75 * d / 2 else 0.0
            pair = torch.complex(x[2 * i], x[2 * i + 1]) * complex(math.cos(angle), math.sin(angle))
            out += [pair.real, pair.imag]
        return torch.stack(out)

    return products(list(map(rotated, q, range(n))), list(map(rotated, k, range(n))), d)


def xpos_decay(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Sun et al. 2022, Table 4, "xPos without rotation": each pair's product times zeta^(i - j)."""
    n, d = q.shape
    zeta = torch.tensor([(c // 2 / (d / 2) + 0.4) / 1.4 for c in range(d)], dtype=q.dtype)
    queries, keys = list(q), list(k)
    return of_pairs(
        lambda i, j: (queries[i] * keys[j] * zeta ** ((i - j) / 512)).sum() / math.sqrt(d), n
    )


@all_pairs
def hope(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Chen et al. 2024: RoPE without the pairs that turn less than once in 64 trained tokens."""
    n, d = q.shape
    keep = [10000 ** (-2 * c / d) * 64 > 2 * math.pi for c in range(d // 2)]
    assert keep == [True, True, False, False]  # 10.2, 1.02, 0.1 and 0.01 turns
    kept = [c for pair, k in enumerate(keep) if k for c in (2 * pair, 2 * pair + 1)]
    plain = [c for c in range(d) if c not in kept]
    rest = products(list(q[:, plain]), list(k[:, plain]), d)
    queries, keys = [list(row) for row in q], [list(row) for row in k]

    def turned(i: int, j: int) -> Tensor:
        a, b, total = queries[i], keys[j], torch.zeros((), dtype=q.dtype)
        for c in kept[::2]:
            angle = (i - j) * 10000 ** (-c / d)
            dot = a[c] * b[c] + a[c + 1] * b[c + 1]
            cross = a[c] * b[c + 1] - a[c + 1] * b[c]
            total = total + dot * math.cos(angle) + cross * math.sin(angle)
        return total / math.sqrt(d)

    return rest + of_pairs(turned, n)


@all_pairs
def pope(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Gopalakrishnan et al. 2025, equation 6, divided by sqrt(d)."""
    n, d = q.shape
    mu_q, mu_k = torch.log(1 + q.exp()), torch.log(1 + k.exp())
    delta = learned["delta"][head].clamp(-2 * math.pi, 0)
    theta = torch.tensor([10000 ** (-c / d) for c in range(d)], dtype=q.dtype)
    queries, keys = list(mu_q), list(mu_k)
    return of_pairs(
        lambda i, j: (queries[i] * keys[j] * torch.cos((j - i) * theta + delta)).sum(), n
    ) / math.sqrt(d)


@all_pairs
def fope(
    q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor, train_len: int = 64
) -> Tensor:
    """Hua et al. 2024, equations 11 to 13: Re(q_i f(i) conj(k_j f(j))) / sqrt(d) by channel pair.

    Each dominant wave has all the others on top of it, its real and imaginary part with
    coefficients of their own; pairs with less than one turn in train_len are left alone.
    """
    n, d = q.shape
    waves = [10000 ** (-2 * c / d) for c in range(d // 2)]
    waves = [w for w in waves if w * train_len / (2 * math.pi) >= 1]

    def factor(position: int, c: int) -> tuple[Tensor, Tensor]:
        if c >= len(waves):
            return torch.ones((), dtype=q.dtype), torch.zeros((), dtype=q.dtype)
        real, imaginary = math.cos(position * waves[c]), math.sin(position * waves[c])
        for w, a, b in zip(
            waves, learned["cosine"][head, :, c], learned["sine"][head, :, c], strict=True
        ):
            real = real + a * math.cos(position * w)
            imaginary = imaginary + b * math.sin(position * w)
        return real, imaginary

    def turned(y: Tensor, position: int) -> Tensor:
        out = []
        for c in range(d // 2):
            real, imaginary = factor(position, c)
            out.append(y[2 * c] * real - y[2 * c + 1] * imaginary)
            out.append(y[2 * c] * imaginary + y[2 * c + 1] * real)
        return torch.stack(out)

    return products(list(map(turned, q, range(n))), list(map(turned, k, range(n))), d)


def nope_log_n(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Su 2021: row i, which sees i + 1 keys, times log(i + 1) / log(64)."""
    rows = nope(q, k, head, n_heads, learned, x)
    return torch.stack([row * math.log(i + 1) / math.log(64) for i, row in enumerate(rows)])


def nope_ssmax(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Nakanishi 2025, equation 2: n^(s z) is exp(s log(n) z), n = i + 1."""
    rows = nope(q, k, head, n_heads, learned, x)
    s = learned["s"][head, 0]
    return torch.stack([row * s * math.log(i + 1) for i, row in enumerate(rows)])
