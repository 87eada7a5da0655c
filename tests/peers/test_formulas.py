"""Authors' formulas, typed anew from their papers and from what their code computes.

These have no package. The oracles of tests/oracles/ go pair by pair over short texts; here whole
matrices are computed as the authors do, for several numbers of heads, values and gradients.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lexp.attention import Reference
from lexp.pattern import Full
from lexp.position import (
    CABLE,
    DAPE,
    FIRE,
    TISA,
    ALiBi,
    CoPE,
    KerpleLog,
    KerplePower,
    Position,
    RoPE,
    StickBreaking,
    Sum,
)
from support.peers.ours import CPU, HEAD_DIM, width

LENGTHS, HEADS = [1, 2, 33], [1, 4, 6]


def distances(n: int) -> Tensor:
    """i - j as float64, [T, T]."""
    index = torch.arange(n, dtype=torch.float64)
    return index[:, None] - index


def inputs(n_heads: int, n: int) -> list[Tensor]:
    """Queries, keys, values, weights of the output [1, H, T, D]; layer inputs [1, T, d_model]."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, n_heads, n, HEAD_DIM)] * 4 + [(1, n, width(n_heads))]
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def products(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.mT / math.sqrt(HEAD_DIM)


def attention(scores: Tensor) -> Tensor:
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -math.inf).softmax(-1)


def compare(
    position: Position, theirs, n_heads: int, n: int, own: list[Tensor] | None = None, size=1.0
):
    """Outputs, and gradients of q, k, v, x and of what is learned, float64.

    theirs: from q, k, x to weights [1, H, T, T]. own: their parameters, in our order. size: of k.
    """
    *qkv, weight, x = inputs(n_heads, n)
    qkv[1] *= size
    q, k, v, x = (t.requires_grad_() for t in (*qkv, x))
    expected = theirs(q, k, x) @ v
    learned = list(position.parameters())
    found = Reference(Full(), n, position, CPU)(q, k, v, position, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    pairs = zip(
        torch.autograd.grad((found * weight).sum(), [q, k, v, x, *learned], allow_unused=True),
        torch.autograd.grad(
            (expected * weight).sum(), [q, k, v, x, *(own or learned)], allow_unused=True
        ),
        strict=True,
    )
    for ours, right in pairs:
        if ours is not None and right is not None:
            torch.testing.assert_close(ours, right, rtol=1e-8, atol=1e-8)
        else:  # not read at all, or read and multiplied by zero
            assert all(t is None or not t.any() for t in (ours, right))


def learned(make) -> Position:
    """The scheme in float64, its parameters away from where they start."""
    torch.manual_seed(0)
    position = make().double()
    with torch.no_grad():
        for parameter in position.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return position


def in_bounds(parameter: Tensor, least: float, most: float | None = None) -> Tensor:
    """A parameter of their own, its data clamped before use, as KERPLE's code does."""
    own = parameter.detach().clone().requires_grad_()
    own.data = own.data.clamp(least, most)
    return own


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("n_heads", HEADS)
@pytest.mark.parametrize("kind", [KerpleLog, KerplePower])
def test_kerple(kind, n_heads, n):
    """Chi et al. 2022, equations 3 and 4; some parameters are below their bounds, some above."""
    position = learned(lambda: kind(n_heads))
    with torch.no_grad():
        position.r1[0], position.r2[-1] = -0.2, 2.5
    r1 = in_bounds(position.r1, 0.01)
    r2 = in_bounds(position.r2, 0.01, 2.0 if kind is KerplePower else None)

    def theirs(q: Tensor, k: Tensor, x: Tensor) -> Tensor:
        away, a, b = distances(n).tril(), r1[:, None, None], r2[:, None, None]
        penalty = a * away.pow(b) if kind is KerplePower else a * torch.log(1 + b * away)
        return attention(products(q, k) - penalty)

    compare(position, theirs, n_heads, n, [r1, r2])


@pytest.mark.parametrize("n_heads", [1, 4, 6, 12])
def test_swat_as_released(n_heads):
    """RoPE, and ALiBi's slopes by x^-(h + 1), x = (2^8)^(1 / H): no exception for any H."""
    position = learned(lambda: Sum([RoPE(HEAD_DIM), ALiBi(n_heads, "geometric")]))
    x = (2**8) ** (1 / n_heads)
    slopes = torch.tensor([1 / x ** (h + 1) for h in range(n_heads)]).double()[:, None, None]
    n, theta = 33, 10000 ** (-torch.arange(0, HEAD_DIM, 2).double() / HEAD_DIM)
    angle = distances(n)[..., None] * theta  # [T, T, D/2]

    def theirs(q: Tensor, k: Tensor, x: Tensor) -> Tensor:
        a, b = (torch.view_as_complex(t.unflatten(-1, (-1, 2))) for t in (q, k))
        pairs = a[:, :, :, None] * b[:, :, None].conj() * torch.exp(1j * angle)
        return attention(pairs.real.sum(-1) / math.sqrt(HEAD_DIM) - slopes * distances(n))

    compare(position, theirs, n_heads, n)


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("remainder", ["none", "self"])
def test_stick_breaking(remainder, n):
    """Tan et al. 2024: o, and o + rem v, by the sums of logarithms of their reference."""

    def theirs(q: Tensor, k: Tensor, x: Tensor) -> Tensor:
        logits = products(q, k)
        earlier = torch.ones(n, n, dtype=torch.bool).tril(-1)
        rest = F.logsigmoid(-logits).where(earlier, 0.0)
        # later[j, s]: key s stands between key j and the query.
        later = torch.ones(n, n, dtype=torch.float64).triu(1)
        between = torch.einsum("bhis,js->bhij", rest, later)
        weights = (F.logsigmoid(logits) + between).exp().where(earlier, 0.0)
        left = torch.diag_embed(rest.sum(-1).exp())
        return weights + left if remainder == "self" else weights

    compare(learned(lambda: StickBreaking(remainder)), theirs, 4, n)


@pytest.mark.parametrize("size", [0.0, 1.0])
@pytest.mark.parametrize("max_pos", [3, 64])
@pytest.mark.parametrize("query", ["plain", "divided"])
def test_cope(query, max_pos, size):
    """Golovneva et al. 2024: their listing (`--cope-nodiv`), and their repository's default.

    Keys of zeros have gates of a half, so every other count is whole.
    """
    n, position = 33, learned(lambda: CoPE(HEAD_DIM, max_pos, query))

    def theirs(q: Tensor, k: Tensor, x: Tensor) -> Tensor:
        logits, table = q @ k.mT, q @ position.embedding.T
        gates = torch.sigmoid(logits / math.sqrt(HEAD_DIM)).tril()
        at = gates.flip(-1).cumsum(-1).flip(-1).clamp(max=max_pos - 1)
        low, high = at.floor().long(), at.ceil().long()
        share = at - low
        added = table.gather(-1, high) * share + table.gather(-1, low) * (1 - share)
        if query == "divided":
            return attention((logits + added) / math.sqrt(HEAD_DIM))
        return attention(logits / math.sqrt(HEAD_DIM) + added)

    compare(position, theirs, 4, n, size=size)


def fire(position: FIRE, n: int, activation) -> Tensor:
    """Li et al. 2023 as DAPE's code has it: [H, T, T]."""
    away, index = distances(n).tril(), torch.arange(n, dtype=torch.float64)[:, None]
    threshold = torch.abs(position.multiplier * position.threshold)
    above = torch.log(torch.abs(position.c * away) + 1)
    below = torch.log(torch.abs(position.c * torch.maximum(index, threshold)) + 1) + 1e-6
    first, _, second = position.mlp
    hidden = activation((above / below)[..., None] @ first.weight.T + first.bias)
    return (hidden @ second.weight.T + second.bias).permute(2, 0, 1)


@pytest.mark.parametrize("multiplier", [1.0, -0.4])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_fire(activation, multiplier):
    """Where it starts, at 1, threshold and index 16 are equal: each has half of the gradient."""
    n, n_heads = 33, 4
    position = learned(lambda: FIRE(n_heads, 64, activation=activation))
    position.multiplier.data.fill_(multiplier)
    function = getattr(F, activation)
    compare(
        position,
        lambda q, k, x: attention(products(q, k) + fire(position, n, function)),
        n_heads, n,
    )  # fmt: skip


@pytest.mark.parametrize("inner", ["kerple", "relu", "leaky_relu"])
def test_dape(inner):
    """Zheng et al. 2024; their own FIRE has LeakyReLU, and KERPLE its data clamped."""
    n, n_heads = 17, 4
    made = KerpleLog if inner == "kerple" else lambda h: FIRE(h, 64, activation=inner)
    position = learned(lambda: DAPE(made(n_heads), n_heads))
    own = list(position.parameters())
    if inner == "kerple":
        position.inner.r1.data[0] = -1.0
        own[:2] = [in_bounds(p, 0.01) for p in (position.inner.r1, position.inner.r2)]

    def theirs(q: Tensor, k: Tensor, x: Tensor) -> Tensor:
        if inner == "kerple":
            a, b = (p[:, None, None] for p in own[:2])
            bias = -a * torch.log(1 + b * distances(n).tril())
        else:
            bias = fire(position.inner, n, getattr(F, inner))
        scores = products(q, k)
        both = torch.cat([scores, bias.expand_as(scores)], dim=1).permute(0, 2, 3, 1)
        into, out = position.into, position.out
        hidden = F.leaky_relu(both @ into.weight.T + into.bias)
        return attention(scores + bias + (hidden @ out.weight.T + out.bias).permute(0, 3, 1, 2))

    compare(position, theirs, n_heads, n, own)


@pytest.mark.parametrize("gate_bias", [False, True])
def test_cable(gate_bias):
    """Veisi et al. 2025: -softplus summed over tokens; their queries are not divided by sqrt(d)."""
    n, n_heads = 33, 6
    position = learned(lambda: CABLE(width(n_heads), n_heads, gate_bias))

    def theirs(q: Tensor, k: Tensor, x: Tensor) -> Tensor:
        b = (-F.softplus(position.gate(x))).cumsum(1).mT[..., None]
        return attention((q / math.sqrt(HEAD_DIM)) @ k.mT + b - b.mT)

    compare(position, theirs, n_heads, n)


def test_tisa_with_the_authors_parameters():
    """Wennberg and Henter's code reads the offset i - j - 1: c = -(o + 1) maps its centres."""
    n, n_heads = 33, 4
    position = learned(lambda: TISA(n_heads))
    offsets = (-position.centre - 1).detach().requires_grad_()
    a, b = (p.detach().clone().requires_grad_() for p in (position.amplitude, position.sharpness))

    def theirs(q: Tensor, k: Tensor, x: Tensor) -> Tensor:
        o, s, h = (t[..., None, None] for t in (offsets, b, a))  # [S, H, 1, 1]
        bumps = h * torch.exp(-torch.abs(s) * (o - (distances(n) - 1)) ** 2)
        return attention(products(q, k) + bumps.sum(0))

    x = torch.zeros(1, n, width(n_heads)).double()
    q, k, v, weight, _ = inputs(n_heads, n)
    found = Reference(Full(), n, position, CPU)(q, k, v, position, x)
    expected = theirs(q, k, x) @ v
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    wanted = [position.amplitude, position.sharpness, position.centre]
    ours = torch.autograd.grad((found * weight).sum(), wanted)
    right = torch.autograd.grad((expected * weight).sum(), [a, b, offsets])
    for one, other, sign in zip(ours, right, (1, 1, -1), strict=True):
        torch.testing.assert_close(one, sign * other, rtol=1e-8, atol=1e-8)
