"""The papers' formulas in float64 with naive loops, one function per scheme, named as its config.

Each takes queries and keys of one head [T, D], the head's index and their number, the scheme's
parameters and other numbers by name, learned or not, and the layer's input x [T, d_model], and
returns the T x T scores before masking and softmax.
Nothing here calls lexp.
"""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

Params = dict[str, Tensor]


def of_pairs(entry: Callable[[int, int], Tensor], n: int) -> Tensor:
    """Return the matrix [n, n] of entry(i, j)."""
    return torch.stack([torch.stack([entry(i, j) for j in range(n)]) for i in range(n)])


def products(q: list[Tensor], k: list[Tensor], d: int) -> Tensor:
    """Return q_i . k_j / sqrt(d) of all pairs."""
    return of_pairs(lambda i, j: q[i] @ k[j] / math.sqrt(d), len(q))


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


@all_pairs
def nope(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """q.k / sqrt(d)."""
    return products(list(q), list(k), q.shape[1])


# Absolute schemes act on the embeddings; their scores are plain products.
sinusoidal = learned = nope


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


def with_bias(q: Tensor, k: Tensor, bias: Callable[[int, int], Tensor]) -> Tensor:
    """q.k / sqrt(d) + bias(i, j) on the causal triangle, 0 elsewhere (it is masked)."""
    d, queries, keys = q.shape[1], list(q), list(k)
    zero = torch.zeros((), dtype=q.dtype)

    def entry(i: int, j: int) -> Tensor:
        return queries[i] @ keys[j] / math.sqrt(d) + bias(i, j) if j <= i else zero

    return of_pairs(entry, len(q))


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


def _of_second(learned: Params) -> Params:
    return {name.removeprefix("schemes.1."): value for name, value in learned.items()}


@free_sign
def rope_tisa(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Both at once: the rotated product, and TISA's bumps over the offset."""
    bumps = tisa(torch.zeros_like(q), k, head, n_heads, _of_second(learned), x)
    return rope(q, k, head, n_heads, {}, x) + bumps


@free_sign
def sinusoidal_tisa(
    q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor
) -> Tensor:
    """The embeddings act before queries and keys; the bumps as without them."""
    return tisa(q, k, head, n_heads, _of_second(learned), x)


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


def nope_log_n(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Su 2021: row i, which sees i + 1 keys, times log(i + 1) / log(64)."""
    rows = nope(q, k, head, n_heads, learned, x)
    return torch.stack([row * math.log(i + 1) / math.log(64) for i, row in enumerate(rows)])


def nope_ssmax(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """Nakanishi 2025, equation 2: n^(s z) is exp(s log(n) z), n = i + 1."""
    rows = nope(q, k, head, n_heads, learned, x)
    s = learned["s"][head, 0]
    return torch.stack([row * s * math.log(i + 1) for i, row in enumerate(rows)])


def fire_bias(learned: Params, prefix: str = "", leak: float = 0.0) -> Callable[[int, int], Tensor]:
    """Li et al. 2023, section 3: MLP(psi(i - j) / psi(max(T, i))), T a learned multiple of 16.

    leak: slope of the network's activation below 0. Returns a function of (i, j) to [H].
    """
    p = {name.removeprefix(prefix): value for name, value in learned.items()}

    def psi(distance: Tensor) -> Tensor:
        return torch.log(p["c"].abs() * distance + 1)

    def bias(i: int, j: int) -> Tensor:
        index = max((p["multiplier"] * 16).abs(), torch.tensor(float(i), dtype=torch.float64))
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
def fire_leaky(q: Tensor, k: Tensor, head: int, n_heads: int, learned: Params, x: Tensor) -> Tensor:
    """FIRE as DAPE's code has it inside DAPE."""
    bias = fire_bias(learned, leak=0.01)
    return with_bias(q, k, lambda i, j: bias(i, j)[head])


def all_heads(oracle: Callable) -> Callable:
    """Mark an oracle (q, k, learned) of all heads at once, [H, T, D] to [H, T, T]."""
    oracle.takes_all_heads = True
    return oracle


def weights(oracle: Callable) -> Callable:
    """Mark an oracle that gives attention weights, not scores."""
    oracle.gives_weights = True
    return oracle


def of_heads(
    oracle: Callable, q: Tensor, k: Tensor, learned: Params, *x: Tensor, **at: list[float]
) -> list[Tensor]:
    """Return what an oracle gives for each head, [T, T]; q and k are those of all heads."""
    if getattr(oracle, "takes_all_heads", False):
        return list(oracle(q, k, learned))
    n_heads = len(q)
    return [oracle(q[h], k[h], h, n_heads, learned, *x, **at) for h in range(n_heads)]


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


def attention(scores: Tensor, v: Tensor, allowed: list[list[bool]]) -> Tensor:
    """Softmax over the allowed keys of each query in turn; [T, T], [T, D] to [T, D]."""
    out = []
    for i in range(len(scores)):
        keys = [j for j in range(len(scores)) if allowed[i][j]]
        weights = scores[i, keys].exp()
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


# Bidirectional models: scores of all pairs, keys after the query included. Schemes whose scores
# above are those of all pairs already stand for themselves.


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
        bumps = tisa_both(torch.zeros_like(q), k, head, n_heads, _of_second(learned))
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
        for name, oracle in list(globals().items())
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
