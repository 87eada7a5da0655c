"""Sink logits through the fused kernel's log-sum-exp: values and gradients, in float64.

The oracle is naive: a softmax over the keys in sight and one number more, written out per query.
"""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lexp.attention import Tiles, TileSizes, make_attend
from lexp.attention.chunked import Chunked
from lexp.pattern import Blockwise, Full, OwnChunk, SelfExtend, Window
from lexp.position import ALiBi, RoPE, SinkLogits, Sum, XPos

CPU = torch.device("cpu")
HEADS, SHARED, HEAD_DIM, N = 4, 2, 8, 23
SMALL = TileSizes(whole_tokens=8, chunk_rows=8, min_rows=4)
# The first keys in sight of query i, by pattern.
FIRST = {
    "full": (Full(), lambda i: 0), "window": (Window(5), lambda i: max(0, i - 4)),
    "blockwise": (Blockwise(4), lambda i: max(0, (i // 4 - 1) * 4)),
    "chunked": (OwnChunk(6), lambda i: i // 6 * 6),
}  # fmt: skip


def inputs(dtype=torch.float64) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = (2, HEADS, N, HEAD_DIM), (2, SHARED, N, HEAD_DIM), (2, SHARED, N, HEAD_DIM)
    return [torch.randn(*shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def expected(q, k, v, logits, first) -> torch.Tensor:
    """Without positions: exp(s_ij) / (exp(z_h) + sum of exp) of each query, times the values."""
    rows = [
        [
            [
                sum_of(q[b, h, i], k[b, h // 2, first(i) : i + 1], v[b, h // 2, first(i) : i + 1],
                       logits[h])
                for i in range(N)
            ]
            for h in range(HEADS)
        ]
        for b in range(2)
    ]  # fmt: skip
    return torch.stack([torch.stack([torch.stack(r) for r in text]) for text in rows])


def sum_of(query, keys, values, z) -> torch.Tensor:
    scores = keys @ query / math.sqrt(HEAD_DIM)
    top = torch.maximum(scores.max(), z).detach()
    powers = (scores - top).exp()
    return powers @ values / (powers.sum() + (z - top).exp())


@pytest.mark.parametrize("logits", [[0.0, 1.0, -2.0, 3.0], [40.0, -40.0, 800.0, -800.0]])
@pytest.mark.parametrize("pattern", FIRST)
def test_values_and_gradients_are_the_formulas(pattern, logits):
    """Logits far above and below all scores as well: no share of a sink overflows."""
    kind, first = FIRST[pattern]
    position = SinkLogits(HEADS).double()
    position.logits.data = torch.tensor(logits, dtype=torch.float64)
    q, k, v = inputs()
    found = Tiles(kind, N, position, CPU, SMALL)(q, k, v, position, q)
    right = expected(q, k, v, position.logits, first)
    torch.testing.assert_close(found, right, rtol=0, atol=1e-12)
    pull, wanted = torch.randn_like(right), [q, k, v, position.logits]
    ours, theirs = (torch.autograd.grad((o * pull).sum(), wanted) for o in (found, right))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scheme", [RoPE, XPos])
@pytest.mark.parametrize("pattern", [Full(), Window(5)])
def test_with_rotations_too(pattern, scheme):
    """xPos at this size takes several tiles of full attention, so rows of zeros for biases."""
    position = Sum([scheme(HEAD_DIM), SinkLogits(HEADS)]).double()
    position.parts[1].logits.data = torch.tensor([0.0, 1.0, -2.0, 3.0], dtype=torch.float64)
    if scheme is XPos:
        position.max_span = 8
    q, k, v = inputs()
    found = Tiles(pattern, N, position, CPU, SMALL)(q, k, v, position, q)
    right = Chunked(pattern, N, position, CPU)(q, k, v, position, q)
    torch.testing.assert_close(found, right, rtol=0, atol=2e-6)  # rotations are float32
    wanted = [q, k, v, position.parts[1].logits]
    ours, theirs = (torch.autograd.grad(o.square().sum(), wanted) for o in (found, right))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_bfloat16_is_as_exact_as_scores_in_float32():
    """Both round inputs and outputs to bfloat16; the error is that of the output's rounding."""
    position = SinkLogits(HEADS)
    position.logits.data = torch.tensor([0.0, 1.0, -2.0, 3.0])
    q, k, v = inputs(torch.bfloat16)
    found = Tiles(Full(), N, position, CPU)(q, k, v, position, q)
    exact = expected(q.double(), k.double(), v.double(), position.logits.double(), lambda i: 0)
    assert found.dtype == torch.bfloat16
    error = (found.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < 2**-8
    found.sum().backward()
    assert position.logits.grad is not None and position.logits.grad.dtype == torch.float32


class Operators(TorchDispatchMode):
    """The names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **kwargs or {})


@pytest.mark.parametrize(
    ("position", "pattern", "is_fused"),
    [
        (SinkLogits(HEADS), Full(), True), (SinkLogits(HEADS), Window(5), True),
        (Sum([RoPE(HEAD_DIM), SinkLogits(HEADS)]), Full(), True),
        (Sum([ALiBi(HEADS), SinkLogits(HEADS)]), Full(), False),
        (Sum([RoPE(HEAD_DIM), SinkLogits(HEADS)]), SelfExtend(2, 4), False),
    ],
    ids=["alone", "window", "rope", "alibi", "self_extend"],
)  # fmt: skip
def test_a_band_without_biases_takes_the_fused_kernel(position, pattern, is_fused):
    q, k, v = inputs(torch.float32)
    attend = make_attend(pattern, N, [position], CPU)
    with Operators() as seen:
        attend(q, k, v, position, q)
    assert ("_scaled_dot_product_flash_attention_for_cpu" in seen.names) is is_fused
    assert ("_softmax" in seen.names) is not is_fused
