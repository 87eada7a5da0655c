"""The papers' formulas in float64 with naive loops, one function per scheme, named as its config.

Each takes queries and keys of one head [T, D] (and what else the paper's formula needs) and returns
the T x T scores before masking and softmax. Nothing here calls lexp.
"""

import math

import torch
from torch import Tensor


def nope(q: Tensor, k: Tensor, head: int, n_heads: int) -> Tensor:
    """q.k / sqrt(d)."""
    n, d = q.shape
    rows = [[q[i] @ k[j] / math.sqrt(d) for j in range(n)] for i in range(n)]
    return torch.stack([torch.stack(row) for row in rows])


# Absolute schemes act on the embeddings; their scores are plain products.
sinusoidal = learned = nope


def sinusoidal_embedding(position: int, channel: int, d_model: int) -> float:
    """Vaswani et al. 2017, section 3.5: PE(t, 2i) = sin(t/10000^(2i/d)), PE(t, 2i+1) = cos."""
    angle = position / 10000 ** (2 * (channel // 2) / d_model)
    return math.sin(angle) if channel % 2 == 0 else math.cos(angle)


def rope(q: Tensor, k: Tensor, head: int, n_heads: int) -> Tensor:
    """Su et al. 2021, equations 14, 15 and 34: each adjacent pair is rotated by m theta_i."""
    n, d = q.shape

    def rotated(x: Tensor, m: int) -> Tensor:
        out = []
        for i in range(d // 2):
            theta = 10000 ** (-2 * i / d)
            c, s = math.cos(m * theta), math.sin(m * theta)
            out += [x[2 * i] * c - x[2 * i + 1] * s, x[2 * i] * s + x[2 * i + 1] * c]
        return torch.stack(out)

    rows = [
        [rotated(q[i], i) @ rotated(k[j], j) / math.sqrt(d) for j in range(n)] for i in range(n)
    ]
    return torch.stack([torch.stack(row) for row in rows])


def xpos(q: Tensor, k: Tensor, head: int, n_heads: int) -> Tensor:
    """Sun et al. 2022, Algorithm 1 with the authors' gamma = 0.4 and zeta^(m/512).

    Q (C + rot S) T and K (C + rot S) T^-1 with rot(x) = (-x1, x0, -x3, x2, ...).
    """
    n, d = q.shape

    def mapped(x: Tensor, m: int, sign: int) -> Tensor:
        out = []
        for channel in range(d):
            i = channel // 2
            theta = 10000 ** (-2 * i / d)
            zeta = (i / (d / 2) + 0.4) / 1.4
            rot = -x[channel + 1] if channel % 2 == 0 else x[channel - 1]
            turned = x[channel] * math.cos(m * theta) + rot * math.sin(m * theta)
            out.append(turned * zeta ** (sign * m / 512))
        return torch.stack(out)

    rows = [
        [mapped(q[i], i, 1) @ mapped(k[j], j, -1) / math.sqrt(d) for j in range(n)]
        for i in range(n)
    ]
    return torch.stack([torch.stack(row) for row in rows])


# The slopes printed in the paper (8 and 16 heads) and given by the authors' code for 6 and 12.
ALIBI_SLOPES = {
    1: [2.0**-8],
    2: [2.0**-4, 2.0**-8],
    4: [0.25, 0.0625, 0.015625, 0.00390625],
    6: [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125],
    8: [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256],
    12: [
        0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625,
        2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5,
    ],
    16: [2 ** (-0.5 * (h + 1)) for h in range(16)],
}  # fmt: skip


def alibi(q: Tensor, k: Tensor, head: int, n_heads: int) -> Tensor:
    """Press et al. 2021, section 3: q.k / sqrt(d) + m (j - i), m by head."""
    n, d = q.shape
    m = ALIBI_SLOPES[n_heads][head]
    rows = [[q[i] @ k[j] / math.sqrt(d) + m * (j - i) for j in range(n)] for i in range(n)]
    return torch.stack([torch.stack(row) for row in rows])


def attention(scores: Tensor, v: Tensor, allowed: list[list[bool]]) -> Tensor:
    """Softmax over the allowed keys of each query in turn; [T, T], [T, D] to [T, D]."""
    out = []
    for i in range(len(scores)):
        keys = [j for j in range(len(scores)) if allowed[i][j]]
        weights = torch.stack([scores[i, j] for j in keys]).exp()
        out.append((weights[:, None] * v[keys]).sum(0) / weights.sum())
    return torch.stack(out)


def blockwise_allowed(n: int, block: int) -> list[list[bool]]:
    """Sun et al. 2022, section 3.2, as the authors' code cuts it: a block and the one before."""
    allowed = [[False] * n for _ in range(n)]
    for start in range(0, n, block):
        for i in range(start, min(start + block, n)):
            for j in range(max(0, start - block), i + 1):
                allowed[i][j] = True
    return allowed


def window_allowed(n: int, window: int) -> list[list[bool]]:
    """The last `window` keys, the query's own included."""
    return [[i - window < j <= i for j in range(n)] for i in range(n)]
