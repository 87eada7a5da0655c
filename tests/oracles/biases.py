"""What is added to q.k: by distance, by gates of the tokens between, or by a network."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from oracles.base import (
    Params,
    all_heads,
    bounded,
    free_sign,
    of_pairs,
    with_bias,
)
from oracles.rotary import rope

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


def alibi(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Press et al. 2021, section 3: q.k / sqrt(d) + m (j - i), m by head."""
    m = ALIBI_SLOPES[n_heads][head]
    return with_bias(q, k, lambda i, j: torch.tensor(m * (j - i), dtype=q.dtype))


@free_sign
def t5(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Raffel et al. 2020: 32 buckets, 16 exact, 16 logarithmic up to 128, the last for the rest."""

    def bucket(distance: int) -> int:
        if distance < 16:
            return distance
        return min(31, 16 + math.floor(16 * math.log(distance / 16) / math.log(128 / 16)))

    return with_bias(q, k, lambda i, j: learned["weight"][head, bucket(i - j)])


LOG_BOUNDS = {"r1": (0.01, math.inf), "r2": (0.01, math.inf)}
POWER_BOUNDS = {"r1": (0.01, math.inf), "r2": (0.01, 2.0)}


@bounded(**LOG_BOUNDS)
def kerple_log(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Chi et al. 2022a, equation 4: -r1 log(1 + r2 |i - j|), parameters at least 0.01."""
    r1, r2 = learned["r1"][head], learned["r2"][head]
    return with_bias(q, k, lambda i, j: -r1 * (1 + r2 * (i - j)).log())


@bounded(**POWER_BOUNDS)
def kerple_power(
    q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor
) -> Tensor:
    """Chi et al. 2022a, equation 3: -r1 |i - j|^r2, 0 < r2 <= 2."""
    r1, r2 = learned["r1"][head], learned["r2"][head]
    return with_bias(q, k, lambda i, j: -r1 * (r2 * math.log(i - j)).exp() if i > j else 0 * r1)


def sandwich(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Chi et al. 2022b: (sum_{k=1}^{64} cos((i-j) / 10000^(2k/128)) - 64) / (8 h / H), h from 1."""

    def penalty(i: int, j: int) -> Tensor:
        waves = sum(math.cos((i - j) / 10000 ** (2 * c / 128)) for c in range(1, 65))
        return torch.tensor((waves - 64) / (8 * (head + 1) / n_heads), dtype=q.dtype)

    return with_bias(q, k, penalty)


@free_sign
def tisa(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Wennberg and Henter 2021, equation 6: sum_s a_s exp(-|b_s| (j - i - c_s)^2)."""
    return with_bias(q, k, bumps_of(head, learned))


def bumps_of(head: int, learned: Params) -> Callable[[int, int], Tensor]:
    """Return TISA's function of (i, j); a, b, c are [kernels]."""
    a, b, c = (learned[name][:, head] for name in ("amplitude", "sharpness", "centre"))
    return lambda i, j: (a * (-b.abs() * (j - i - c) ** 2).exp()).sum()


def of_second(learned: Params) -> Params:
    return {name.removeprefix("schemes.1."): value for name, value in learned.items()}


@free_sign
def rope_tisa(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Both at once: the rotated product, and TISA's bumps over the offset."""
    bumps = tisa(torch.zeros_like(q), k, head, n_heads, of_second(learned), x)
    return rope(q, k, head, n_heads, {}, x) + bumps


@free_sign
def sinusoidal_tisa(
    q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor
) -> Tensor:
    """The embeddings act before queries and keys; the bumps as without them."""
    return tisa(q, k, head, n_heads, of_second(learned), x)


learned_tisa = sinusoidal_tisa


def fox(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Lin et al. 2025, equation 3: the log of the product of the gates of tokens j+1 .. i."""

    gates = [learned["gate.weight"][head] @ row + learned["gate.bias"][head] for row in x]
    logs = [torch.log(1 / (1 + torch.exp(-z))) for z in gates]
    zero = torch.zeros((), dtype=q.dtype)
    return with_bias(q, k, lambda i, j: sum(logs[j + 1 : i + 1], zero))


def cable(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Veisi et al. 2025: b_i - b_j with b_t the sum of -softplus(W x_l) up to t.

    With W x_l + c where a bias c is learned, as in the authors' code.
    """
    constant = learned["gate.bias"][head] if "gate.bias" in learned else 0.0
    steps = [-torch.log(1 + torch.exp(learned["gate.weight"][head] @ row + constant)) for row in x]
    b = [sum(steps[: t + 1]) for t in range(len(steps))]
    return with_bias(q, k, lambda i, j: b[i] - b[j])


# Wennberg and Henter's bumps are the same formula, shared or not.
tisa_layers = tisa


def rope_alibi(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Both at once: the rotated product, and m (j - i)."""
    m = ALIBI_SLOPES[n_heads][head]
    offsets = torch.tensor([[m * (j - i) for j in range(len(q))] for i in range(len(q))])
    return rope(q, k, head, n_heads, learned, x) + offsets.to(q.dtype)


def geometric_slope(head: int, n_heads: int) -> float:
    """Press et al. 2021, section 3: first term and ratio 2^(-8/n), for any n; in float32."""
    return torch.tensor(2.0 ** (-8 * (head + 1) / n_heads), dtype=torch.float32).item()


def alibi_geometric(
    q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor
) -> Tensor:
    """ALiBi with the series of its text."""
    m = geometric_slope(head, n_heads)
    return with_bias(q, k, lambda i, j: torch.tensor(m * (j - i), dtype=q.dtype))


def swat_softmax(
    q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor
) -> Tensor:
    """What SWAT's released layer computes: RoPE and the slopes 2^(-8 h / n), h = 1 .. n."""
    return rope(q, k, head, n_heads, {}, x) + alibi_geometric(0 * q, k, head, n_heads, {}, x)


def transformer_xl(
    q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor
) -> Tensor:
    """Dai et al. 2019, section 3.3, terms a to d: content, and sinusoids of the distance."""
    d, d_model = q.shape[1], x.shape[1]
    w = learned["map.weight"][head * d : (head + 1) * d]  # [d, d_model]
    u, v = learned["content_bias"][head, 0], learned["position_bias"][head, 0]

    def entry(i: int, j: int) -> Tensor:
        f = [10000 ** (-2 * t / d_model) for t in range(d_model // 2)]
        r = [math.sin((i - j) * a) for a in f] + [math.cos((i - j) * a) for a in f]
        r = w @ torch.tensor(r, dtype=q.dtype)
        return (u @ k[j] + (q[i] + v) @ r) / math.sqrt(d)

    return with_bias(q, k, entry)


def fire_bias(
    learned: Params, prefix: str = "", leak: float = 0.0, threshold: float = 16
) -> Callable[[float, float], Tensor]:
    """Li et al. 2023, section 3: MLP(psi(i - j) / psi(max(T, i))), T a learned multiple of 16.

    leak: slope of the network's activation below 0. Returns a function of (i, j) to [H].
    """
    p = {name.removeprefix(prefix): value for name, value in learned.items()}

    def psi(distance: Tensor) -> Tensor:
        return torch.log(p["c"].abs() * distance + 1)

    def bias(i: float, j: float) -> Tensor:
        index = max(
            (p["multiplier"] * threshold).abs(), torch.tensor(float(i), dtype=torch.float64)
        )
        share = psi(torch.tensor(float(i - j), dtype=torch.float64)) / (psi(index) + 1e-6)
        hidden = p["mlp.0.weight"][:, 0] * share + p["mlp.0.bias"]
        hidden = torch.where(hidden > 0, hidden, leak * hidden)
        return p["mlp.2.weight"] @ hidden + p["mlp.2.bias"]

    return bias


@free_sign
def fire(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """q.k / sqrt(d) and the learned function."""
    bias = fire_bias(learned)
    return with_bias(q, k, lambda i, j: bias(i, j)[head])


@free_sign
def random_fire(
    q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor, at: list[float]
) -> Tensor:
    """Zhou et al. 2024: FIRE's formula of the positions m that were drawn for i and j; T is 512."""
    bias = fire_bias(learned, "inner.", threshold=512)
    return with_bias(q, k, lambda i, j: bias(at[i], at[j])[head])


@free_sign
def fire_leaky(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """FIRE as DAPE's code has it inside DAPE."""
    bias = fire_bias(learned, leak=0.01)
    return with_bias(q, k, lambda i, j: bias(i, j)[head])


def dape(q: Tensor, k: Tensor, learned: Params, bias: Callable[[int, int], Tensor]) -> Tensor:
    """Zheng et al. 2024, equation 5: x + b + MLP([x, b]) of a pair; bias(i, j) is [H]."""
    n_heads, n, d = q.shape
    zero = torch.zeros(n_heads, dtype=q.dtype)

    def entry(i: int, j: int) -> Tensor:
        x = torch.stack([q[h, i] @ k[h, j] / math.sqrt(d) for h in range(n_heads)])
        b = bias(i, j)
        hidden = learned["into.weight"] @ torch.cat([x, b]) + learned["into.bias"]
        hidden = torch.where(hidden > 0, hidden, 0.01 * hidden)
        return x + b + learned["out.weight"] @ hidden + learned["out.bias"]

    return of_pairs(lambda i, j: entry(i, j) if j <= i else zero, n).permute(2, 0, 1)


@all_heads
def dape_alibi(q: Tensor, k: Tensor, learned: Params) -> Tensor:
    """DAPE around ALiBi."""
    slopes = torch.tensor(ALIBI_SLOPES[len(q)], dtype=q.dtype)
    return dape(q, k, learned, lambda i, j: slopes * (j - i))


@bounded(**LOG_BOUNDS)
@all_heads
def dape_kerple_log(q: Tensor, k: Tensor, learned: Params) -> Tensor:
    """DAPE around KERPLE-log."""
    r1, r2 = learned["inner.r1"].flatten(), learned["inner.r2"].flatten()
    return dape(q, k, learned, lambda i, j: -r1 * (1 + r2 * (i - j)).log())


@all_heads
def dape_fire(q: Tensor, k: Tensor, learned: Params) -> Tensor:
    """DAPE around FIRE."""
    return dape(q, k, learned, fire_bias(learned, "inner."))


@all_heads
def dape_fire_leaky(q: Tensor, k: Tensor, learned: Params) -> Tensor:
    """DAPE around FIRE as its authors' code has it: LeakyReLU in both networks."""
    return dape(q, k, learned, fire_bias(learned, "inner.", 0.01))
