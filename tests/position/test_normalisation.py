"""Maps from scores to weights: keys out of sight, large scores, and what holds them."""

import math

import pytest
import torch

from lexp.attention import Reference, Tiles, make_attend, make_flex
from lexp.attention.cached import CachedAttention
from lexp.attention.chunked import Chunked
from lexp.pattern import Bidirectional, Blockwise, Full, SelfExtend, Window
from lexp.position import NoPE, RoPE, SigmoidWeights, SinkLogits, SoftmaxOne, Softpick, Sum
from lexp.system.errors import NotDefined
from support.schemes import CPU, HEAD_DIM, make, qkv

NEW = ["softmax_one", "sigmoid", "softpick"]
PATTERNS = [Full(), Window(7), Blockwise(8), SelfExtend(group=2, window=4)]


def weights_of(position, scores, seen):
    """Weights of one query: its scores [K], and how many of the first keys it sees."""
    n = len(scores)
    q = torch.zeros(1, 1, n, HEAD_DIM, dtype=torch.float64)
    q[0, 0, :, 0] = math.sqrt(HEAD_DIM)
    k = torch.zeros_like(q)
    k[0, 0, :, 0] = torch.tensor(scores, dtype=torch.float64)
    v = torch.eye(n, HEAD_DIM, dtype=torch.float64)[None, None]
    return Reference(Full(), n, position, CPU)(q, k, v, position, q[:, 0])[0, 0, seen - 1].tolist()


def test_numbers_by_hand():
    """Scores log 3, 0, -log 2 and a key out of sight."""
    scores = [math.log(3), 0.0, -math.log(2), 5.0]
    assert weights_of(SoftmaxOne(1), scores, 3)[:4] == pytest.approx(
        [3 / 5.5, 1 / 5.5, 0.5 / 5.5, 0]
    )
    by_n = [3 / (3 + 8), 1 / (1 + 8), 0.5 / (0.5 + 8), 0]
    assert weights_of(SigmoidWeights(8), scores, 3)[:4] == pytest.approx(by_n)
    in_sight = [3 / (3 + 3), 1 / (1 + 3), 0.5 / (0.5 + 3), 0]
    assert weights_of(SigmoidWeights(), scores, 3)[:4] == pytest.approx(in_sight)
    assert weights_of(Softpick(), scores, 3)[:4] == pytest.approx([2 / 2.5, 0, 0, 0])


@pytest.mark.parametrize("scores", [[0.0, 0.0], [-200.0, -300.0], [-1e-3, 0.0]])
def test_softpick_gives_no_weight_where_no_score_is_above_0(scores):
    assert weights_of(Softpick(), [*scores, 9.0], 2)[:3] == [0, 0, 0]


def test_softpick_of_scores_that_overflow_an_exponential():
    assert weights_of(Softpick(), [900.0, 899.0, 0.0], 3)[:3] == pytest.approx(
        [math.e / (1 + math.e), 1 / (1 + math.e), 0]
    )


@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0])
def test_softpick_in_float32_keeps_the_digits_of_scores_near_0(size):
    """As a difference, exp(s) - 1 has three digits at s = 1e-4."""
    n, softpick = 24, Softpick()
    pull = torch.randn(1, 4, n, HEAD_DIM, dtype=torch.float64)
    given = [t.detach() * scale for t, scale in zip(qkv(4, n), (size, 1, 1), strict=True)]
    single = [t.float().requires_grad_() for t in given]
    q, k, v = double = [t.detach().double().requires_grad_() for t in single]
    scores = (q @ k.mT / math.sqrt(HEAD_DIM)).tril()
    excess, top = scores.exp() - 1, scores.amax(-1, keepdim=True).clamp(min=0).exp()
    out = excess.relu() / (excess.abs().sum(-1, keepdim=True) + 1e-8 * top) @ v
    right = torch.autograd.grad((out * pull).sum(), double)
    x = torch.zeros(1, n, 1)
    for attend in (
        Reference(Full(), n, softpick, CPU), make_attend(Full(), n, [softpick], CPU),
        Chunked(Full(), n, softpick, CPU), CachedAttention(Full(), n),
    ):  # fmt: skip
        found = attend(*single, softpick, x)
        torch.testing.assert_close(found.double(), out, rtol=0, atol=1e-5)
        for ours, theirs in zip(
            torch.autograd.grad((found * pull).sum(), single), right, strict=True
        ):
            most = theirs.abs().max().item()
            torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-5 * most)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.label)
@pytest.mark.parametrize("scheme", NEW)
def test_every_pattern_matches_the_reference_with_gradients(scheme, pattern):
    """No weight, and no gradient, goes to keys that the pattern hides."""
    n, position = 40, make(scheme).double()
    inputs = qkv(4, n)
    x = torch.zeros(1, n, 1, dtype=torch.float64)
    pull = torch.randn(1, 4, n, HEAD_DIM, dtype=torch.float64)
    expected = Reference(pattern, n, position, CPU)(*inputs, position, x)
    right = torch.autograd.grad((expected * pull).sum(), inputs)
    for attend in (make_attend(pattern, n, [position], CPU), Chunked(pattern, n, position, CPU)):
        out = attend(*inputs, position, x)
        torch.testing.assert_close(out, expected, rtol=0, atol=2e-6)  # rotations are float32
        found = torch.autograd.grad((out * pull).sum(), inputs)
        for ours, theirs in zip(found, right, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-6)


def test_softmax_one_takes_the_kernel_of_sinks_and_is_a_sink_of_logit_0():
    n, one, sinks = 40, Sum([RoPE(HEAD_DIM), SoftmaxOne(4)]), Sum([RoPE(HEAD_DIM), SinkLogits(4)])
    q, k, v = qkv(4, n, torch.float32)
    attend = Tiles(Full(), n, one, CPU)
    out = attend(q, k, v, one, q[:, 0])
    expected = Reference(Full(), n, sinks, CPU)(q, k, v, sinks, q[:, 0])
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
    assert not list(one.parameters()) and not one.replaces_softmax


def test_where_they_are_not_defined_one_line_says_so():
    for scheme in (SigmoidWeights(4), Softpick(), SoftmaxOne(4)):
        with pytest.raises(NotDefined, match=r"needs whole rows of scores; use kernel=tiles$"):
            make_flex(Full(), 8, [scheme], CPU)
        with pytest.raises(NotDefined, match=f"^{scheme.title} is not defined for keys after"):
            make_attend(Bidirectional(), 8, [scheme], CPU)
    with pytest.raises(ValueError, match=r"^sigmoid needs n >= 1 or null, got 0$"):
        SigmoidWeights(0)
    with pytest.raises(ValueError, match="only one scheme can take the place of softmax"):
        Sum([NoPE(), Softpick(), SigmoidWeights(4)])
