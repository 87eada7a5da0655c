"""Chi et al. 2023, step by step: theory next to a simulation of a frozen random Transformer.

The setting: hidden size d, H heads, weights i.i.d. N(0, s^2), inputs x_m ~ N(0, s^2 I) for
positions m = 1 .. n, a causal mask, no positions, no feed-forward layers. Per channel:

    e_m = LayerNorm(x_m)                        variance 1
    q, k, v = W e                               d s^2
    q_m . k_j, j != m                           d^3 s^4 / H    raw
    q_m . k_j / sqrt(d / H)                     S = d^2 s^4    scaled
    u_m = sum_j softmax_j v_j ~ mean_{j<=m} v_j d s^2 / m
    o_m = W_o u_m                               d^2 s^4 / m;   cov(o_m, o_l) = d^2 s^4 / max(m, l)
    y_m = x_m + o_m                             s^2 + d^2 s^4 / m

The paper's step from softmax to a plain mean is of first order. Two things are left out by it, and
`corrected` has them: weights of log-normal scores are uneven, m sum_j a_mj^2 -> exp(S); and keys
and values are of the same e_j, so that the weights lean towards W_k^T q_m for good:

    Var(o_m) = d^2 s^4 ((1 + (exp(S) - 1) (1 - 1/m)) / m  +  d s^4 (1 - 1/m)^2)

the last term a floor that no length takes away (own derivation: under softmax weights exp(g . e)
a Gaussian e has mean g = W_k^T q / sqrt(d / H), and W_o W_v g has variance d^3 s^8 per channel).

Deeper layers, where inputs of different positions are no longer independent (own derivation, in
the same first order; c_l(m, j) the correlation of e_m with e_j in layer l, R_l the covariance of
the residual stream):

    c_l(m, j) = R_l(m, j) / sqrt(R_l(m, m) R_l(j, j)),   R_0 = s^2 I
    cov(o_m, o_j) = d^2 s^4 / (m j) sum_{a<=m, b<=j} c_l(a, b),   R_{l+1} = R_l + cov(o)
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lexp.system.output import Tally

# What first-order theory and a simulation of so many draws agree within.
LOWEST, HIGHEST = 0.95, 1.2
N_DRAWS = 16
SLOPE_TOLERANCE = 0.05


@dataclass(frozen=True)
class Property:
    """A step of the derivation: measured and theoretical value, corrected where known, else NaN.

    margin: where it is not 0 it bounds the difference; elsewhere the ratio is in LOWEST .. HIGHEST.
    """

    name: str
    measured: float
    theory: float
    corrected: float = math.nan
    margin: float = 0.0

    @property
    def ratio(self) -> float:
        """Return the measured value divided by the theoretical one."""
        return self.measured / self.theory

    @property
    def holds(self) -> bool:
        """Return True if measured and theory agree within the tolerance."""
        if self.margin:
            return abs(self.measured - self.theory) <= self.margin
        return LOWEST <= self.ratio <= HIGHEST

    @property
    def tolerance(self) -> str:
        """Return the tolerance in words."""
        if self.margin:
            return f"within {self.margin:g}"
        return f"{LOWEST:g} to {HIGHEST:g}"


@dataclass(frozen=True)
class Derivation:
    """Properties, and Var(o_m) of m = 1 .. n by layer: simulated, theory; the first's corrected."""

    properties: tuple[Property, ...]
    simulated: tuple[tuple[float, ...], ...]
    theory: tuple[tuple[float, ...], ...]
    corrected: tuple[float, ...]


@lru_cache(maxsize=8)
def derivation(
    d_model: int, n_heads: int, n_layers: int, sigma: float, seq_len: int, seed: int
) -> Derivation:
    """Measure every step on a random model, mean over N_DRAWS draws of weights and inputs, float64.

    It depends on its arguments alone and uses O(n_heads seq_len^2) memory.
    """
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, float] = {}
    variances = torch.zeros(n_layers, seq_len, dtype=torch.float64)
    tally = Tally("derivation of the variance, draws and layers", N_DRAWS * n_layers)
    for _ in range(N_DRAWS):
        x = sigma * _normal(generator, seq_len, d_model)
        for layer in range(n_layers):
            sizes, o = _layer(x, n_heads, sigma, generator)
            variances[layer] += o.square().mean(-1) / N_DRAWS
            if layer == 0:
                sizes |= _covariances(o) | {
                    f"y {m}": _size((x + o)[m - 1]) for m in probes(seq_len)
                }
                for name, value in sizes.items():
                    sums[name] = sums.get(name, 0.0) + value / N_DRAWS
            x = x + o
            tally.advance()
    theory = _recursion(d_model, n_layers, sigma, seq_len)
    m = torch.arange(1, seq_len + 1, dtype=torch.float64)
    first, scores = d_model**2 * sigma**4, d_model**2 * sigma**4
    uneven = (1 + (math.exp(scores) - 1) * (1 - 1 / m)) / m
    corrected = first * (uneven + d_model * sigma**4 * (1 - 1 / m).square())
    properties = _properties(d_model, n_heads, sigma, sums, variances, theory, corrected.tolist())
    lists = [tuple(map(tuple, t.tolist())) for t in (variances, theory)]
    return Derivation(properties, lists[0], lists[1], tuple(corrected.tolist()))


def probes(seq_len: int) -> list[int]:
    """Return the positions m that the table shows."""
    return [m for m in (1, 2, 5, 10, 50, 100, 200) if m < seq_len] + [seq_len]


def _layer(
    x: Tensor, n_heads: int, sigma: float, generator: torch.Generator
) -> tuple[dict[str, float], Tensor]:
    """Return mean squares of a layer's intermediate values of x [n, d], and its output [n, d]."""
    n, d_model = x.shape
    e = torch.nn.functional.layer_norm(x, (d_model,), eps=0.0)
    q, k, v = (e @ (sigma * _normal(generator, d_model, d_model)) for _ in range(3))
    heads = [t.view(n, n_heads, -1).transpose(0, 1) for t in (q, k, v)]
    raw = heads[0] @ heads[1].transpose(-1, -2)
    root = math.sqrt(d_model // n_heads)
    future = torch.ones(n, n, dtype=torch.bool).triu(1)
    weights = (raw / root).masked_fill(future, -math.inf).softmax(-1)
    u = (weights @ heads[2]).transpose(0, 1).flatten(1)
    o = u @ (sigma * _normal(generator, d_model, d_model))
    below = raw[:, ~future & ~torch.eye(n, dtype=torch.bool)]
    values = {"x": x, "e": e, "q": q, "k": k, "v": v, "raw": below, "scaled": below / root}
    sizes = {name: _size(value) for name, value in values.items()}
    for m in probes(n):
        sizes[f"u {m}"] = _size(u[m - 1])
        sizes[f"uneven {m}"] = m * float(weights[:, m - 1].square().sum(-1).mean())
    return sizes, o


def _covariances(o: Tensor) -> dict[str, float]:
    """Return the covariance over channels of outputs o [n, d] of positions and their doubles."""
    return {f"cov {m}": float((o[m - 1] * o[2 * m - 1]).mean()) for m in _pairs(len(o))}


def _pairs(seq_len: int) -> list[int]:
    return [m for m in probes(seq_len) if 2 * m <= seq_len and m > 1]


def _recursion(d_model: int, n_layers: int, sigma: float, seq_len: int) -> Tensor:
    """Return the first-order Var(o_m) of every layer, [n_layers, seq_len]."""
    m = torch.arange(1, seq_len + 1, dtype=torch.float64)
    residual = sigma**2 * torch.eye(seq_len, dtype=torch.float64)
    variances = []
    for _ in range(n_layers):
        scale = residual.diagonal().sqrt()
        correlation = residual / scale[:, None] / scale
        sums = correlation.cumsum(0).cumsum(1)
        output = d_model**2 * sigma**4 * sums / m[:, None] / m
        variances.append(output.diagonal().clone())
        residual = residual + output
    return torch.stack(variances)


def _properties(
    d: int, n_heads: int, sigma: float, sizes: dict[str, float], variances: Tensor,
    theory: Tensor, corrected: list[float],
) -> tuple[Property, ...]:  # fmt: skip
    n, first = variances.shape[1], d**2 * sigma**4
    uneven = math.exp(first)
    properties = [
        Property("Var(x), embeddings", sizes["x"], sigma**2),
        Property("Var(e), normed input", sizes["e"], 1.0),
        *(Property(f"Var({name})", sizes[name], d * sigma**2) for name in "qkv"),
        Property("Var(q.k), raw logits", sizes["raw"], d**3 * sigma**4 / n_heads),
        Property("Var(q.k), scaled logits", sizes["scaled"], first),
    ]
    for m in probes(n):
        expected = 1 + (uneven - 1) * (1 - 1 / m)
        name = f"m sum of squared weights, m = {m}"
        properties.append(Property(name, sizes[f"uneven {m}"], 1.0, expected))
    for m in probes(n):
        lean = d * sigma**4 * (1 - 1 / m) ** 2
        better = d * sigma**2 * ((1 + (uneven - 1) * (1 - 1 / m)) / m + lean)
        name = f"Var(u_m), head output, m = {m}"
        properties.append(Property(name, sizes[f"u {m}"], d * sigma**2 / m, better))
    for m in probes(n):
        value = float(variances[0, m - 1])
        name = f"Var(o_m), attention output, m = {m}"
        properties.append(Property(name, value, first / m, corrected[m - 1]))
    for m in _pairs(n):
        properties.append(Property(f"cov(o_{m}, o_{2 * m})", sizes[f"cov {m}"], first / (2 * m)))
    for m in probes(n):
        name = f"Var(x_m + o_m), residual, m = {m}"
        better = sigma**2 + corrected[m - 1]
        properties.append(Property(name, sizes[f"y {m}"], sigma**2 + first / m, better))
    for layer, (measured, expected_curve) in enumerate(zip(variances, theory, strict=True)):
        # Near 0 the ratio of slopes says little: the tolerance is of their difference.
        ours, theirs = slope(measured, 1)[0], slope(expected_curve, 1)[0]
        name = f"slope of ln Var(o_m), layer {layer}"
        properties.append(Property(name, ours, theirs, margin=SLOPE_TOLERANCE))
    return tuple(properties)


def slope(variance: Tensor, first: int) -> tuple[float, float]:
    """Fit b of ln variance[m - 1] = a + b ln m over m = first .. n; also the RMS residual.

    Least squares with weights 1 / m: every octave counts alike, not the last for a half.
    """
    m = torch.arange(first, len(variance) + 1, dtype=torch.float64)
    y = variance[first - 1 :].double().cpu().clamp(min=1e-300).log()
    x, weights = m.log(), (1 / m) / (1 / m).sum()
    dx, dy = x - (weights * x).sum(), y - (weights * y).sum()
    b = float((weights * dx * dy).sum() / (weights * dx * dx).sum())
    return b, math.sqrt(float((weights * (dy - b * dx).square()).sum()))


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _size(values: Tensor) -> float:
    """Return the mean square: the variance of values whose distribution has mean 0."""
    return float(values.square().mean())
