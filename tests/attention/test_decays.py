"""Factors that the tokens decide: exact at any decay, on every path and far from the origin."""

import math

import pytest
import torch

from lexp.attention import (
    BlockSizes,
    CachedAttention,
    ChunkSizes,
    Reference,
    Tiles,
    TileSizes,
    make_attend,
)
from lexp.attention.chunked import Chunked
from lexp.attention.decays import SPAN, decayed_scores
from lexp.pattern import Banded, Blockwise, Full, SinksInPlace, Window
from lexp.position import ALiBi, FoX, RoPE, SelectiveRoPE, Sum, Wall
from support.schemes import CPU, D_MODEL, HEAD_DIM

HEADS, N = 2, 150
SIZES = BlockSizes(TileSizes(whole_tokens=50, chunk_rows=40, min_rows=16), ChunkSizes(max_rows=40))


def strong(gate_bias: float) -> Wall:
    """Gates of many sizes: about the sigmoid of gate_bias in the middle, some of 1e-10."""
    torch.manual_seed(0)
    position = Wall(D_MODEL, HEAD_DIM, HEADS, gate_bias).double()
    torch.nn.init.normal_(position.gate.weight, std=1.0)
    return position


def tensors(n: int, seed: int = 0) -> list[torch.Tensor]:
    """Queries, keys, values [1, H, n, D] and inputs of the layer [1, n, d_model]."""
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(3, 1, HEADS, n, HEAD_DIM, generator=generator, dtype=torch.float64)
    return [*qkv, torch.randn(1, n, D_MODEL, generator=generator, dtype=torch.float64)]


def by_gates(position: Wall, q, k, v, x, i: int) -> torch.Tensor:
    """The output of query i of full attention, [H, D]: gates multiplied from the latest back."""
    gates = torch.sigmoid(position.gate(x))[0].unflatten(1, (HEADS, -1)).transpose(0, 1)
    factors = torch.ones_like(gates[:, : i + 1])
    factors[:, :-1] = gates[:, 1 : i + 1].flip(1).cumprod(1).flip(1)
    scores = (q[0, :, i, None] * k[0, :, : i + 1] * factors).sum(-1) / math.sqrt(HEAD_DIM)
    return (scores.softmax(-1)[:, None] @ v[0, :, : i + 1])[:, 0]


PATTERNS = [Full(), Window(24), Blockwise(16)]


@pytest.mark.parametrize("gate_bias", [8.0, 0.0, -30.0])
@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_every_path_matches_the_reference_at_any_decay(pattern: Banded, gate_bias):
    """Values and gradients in float64; sums fall by 5 to 5000 over the text."""
    position = strong(gate_bias) if gate_bias < 8 else Wall(D_MODEL, HEAD_DIM, HEADS).double()
    *qkv, x = tensors(N)
    qkv = [t.requires_grad_() for t in qkv]
    wanted = [*qkv, *position.parameters()]
    weight = torch.randn(1, HEADS, N, HEAD_DIM, dtype=torch.float64)
    expected = Reference(pattern, N, position, CPU)(*qkv, position, x)
    right = torch.autograd.grad((expected * weight).sum(), wanted)
    for attend in (
        make_attend(pattern, N, [position], CPU, sizes=SIZES),
        Chunked(pattern, N, position, CPU, SIZES.chunks),
    ):
        out = attend(*qkv, position, x)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-11)
        found = torch.autograd.grad((out * weight).sum(), wanted)
        for ours, theirs in zip(found, right, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gate_bias", [8.0, 2.0, -30.0])
def test_64_times_a_trained_length_of_64_is_the_papers_formula(gate_bias, dtype):
    """4096 tokens, over which channels fall by e^1 and by e^100000: no number is lost."""
    position = strong(gate_bias) if gate_bias < 8 else Wall(D_MODEL, HEAD_DIM, HEADS).double()
    *qkv, x = (t.to(dtype).double() for t in tensors(4096))
    with torch.no_grad():
        expected = by_gates(position, *qkv, x, 4095)
        attend, position = make_attend(Full(), 4096, [position], CPU), position.float()
        out = attend(*(t.to(dtype) for t in qkv), position, x.float())
    assert out.isfinite().all()
    atol = 2e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(out[0, :, -1].double(), expected, rtol=0, atol=atol)


def test_gradients_are_finite_and_right_where_channels_fall_beyond_float32():
    position = strong(-30.0)
    *qkv, x = tensors(N)
    right, found = (
        torch.autograd.grad(
            make_attend(Full(), N, [position.to(dtype)], CPU)(
                *(t.to(dtype) for t in qkv), position, x.to(dtype)
            ).sum(),
            position.gate.weight,
        )[0]
        for dtype in (torch.float64, torch.float32)
    )
    torch.testing.assert_close(found.double(), right, rtol=1e-3, atol=1e-5)


def test_a_tile_takes_one_product_up_to_the_span_and_no_further(monkeypatch):
    """The same text with gates that fall by a little less and a little more than SPAN."""
    *qkv, x = tensors(40)
    taken = []
    monkeypatch.setattr(
        "lexp.attention.decays.pairwise", lambda *a: taken.append(a) or pytest.fail("exact path")
    )
    for share, is_one in ((0.99, True), (1.01, False)):
        position = Wall(D_MODEL, HEAD_DIM, HEADS).double()
        torch.nn.init.zeros_(position.gate.weight)
        gate = math.exp(-SPAN * share / 39)
        torch.nn.init.constant_(position.gate.bias, math.log(gate / (1 - gate)))
        attend = Tiles(Full(), 40, position, CPU)
        if is_one:
            attend(*qkv, position, x)
        else:
            with pytest.raises(pytest.fail.Exception):
                attend(*qkv, position, x)
    assert len(taken) == 1


@pytest.mark.parametrize(
    "first, first_key, n_keys", [(30, 0, 50), (0, 0, 5), (9, 12, 8), (3, 40, 2)]
)
def test_scores_of_any_span_of_keys(first, first_key, n_keys):
    """Keys before, among and after 20 queries, against each pair by itself."""
    n = 60
    q, k, _, _ = tensors(n)
    falls = -10 * torch.rand(1, HEADS, n, HEAD_DIM, dtype=torch.float64).cumsum(2)
    rows, keys = slice(first, first + 20), slice(first_key, first_key + n_keys)
    q, k, of_q, of_k = q[:, :, rows], k[:, :, keys], falls[:, :, rows], falls[:, :, keys]
    found = decayed_scores(q, k, of_q, of_k, first, first_key)
    i, j = torch.arange(n)[rows, None], torch.arange(n)[keys]
    factors = (of_q[:, :, :, None] - of_k[:, :, None]).clamp(max=0).exp()
    expected = (q[:, :, :, None] * k[:, :, None] * factors).sum(-1) * (j <= i)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_angles_far_from_the_origin_equal_those_at_it():
    """The same 256 tokens, first and last of 200,000, attend alike: angles there are of 2e5."""
    n, copied, clear = 200_000 + 256, 256, 64
    torch.manual_seed(0)
    position = SelectiveRoPE(8, HEAD_DIM, 1)
    torch.nn.init.constant_(position.conv.weight, 1.0)
    torch.nn.init.constant_(position.out.weight, 0.3)
    torch.nn.init.constant_(position.into.weight, 0.1)
    generator = torch.Generator().manual_seed(2)
    q, k, v, x = torch.randn(4, 1, 1, n, HEAD_DIM, generator=generator)
    for t in (q, k, v, x):
        t[:, :, -copied:] = t[:, :, :copied]
    with torch.no_grad():
        assert position.angles(x[0] + 1)[..., -1, 0].abs() > 1e5
        out = make_attend(Window(32), n, [position], CPU)(q, k, v, position, x[0] + 1)
    start, end = out[0, 0, clear:copied], out[0, 0, clear - copied :]
    torch.testing.assert_close(end, start, rtol=0, atol=2e-6)


def test_wall_with_forget_gates_of_whole_heads_is_the_sum_of_both():
    """The authors' option: a scalar gate beside those of the channels."""
    both = Sum([strong(0.0), FoX(D_MODEL, HEADS).double()])
    *qkv, x = tensors(60)
    expected = Reference(Full(), 60, both, CPU)(*qkv, both, x)
    for sizes in (SIZES, BlockSizes()):
        out = make_attend(Full(), 60, [both], CPU, sizes=sizes)(*qkv, both, x)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
    wall, fox = both.parts
    scores = [
        Reference(Full(), 60, scheme, CPU)(*qkv, scheme, x) for scheme in (wall, Sum([wall, fox]))
    ]
    assert (scores[0] - scores[1]).abs().max() > 1e-3


def test_what_cannot_be_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^together: Wall cannot stand with a rotation$"):
        Sum([RoPE(HEAD_DIM), Wall(D_MODEL, HEAD_DIM, HEADS)])
    assert Sum([ALiBi(HEADS), Wall(D_MODEL, HEAD_DIM, HEADS)]).reads_inputs
    with pytest.raises(ValueError, match=r"a d_model that n_heads divides, got 32, 32 and 6$"):
        SelectiveRoPE(32, 8, 6)


@pytest.mark.parametrize("kind", ["wall", "selective_rope"])
@pytest.mark.parametrize(
    "pattern", [*PATTERNS, SinksInPlace(Window(10), n_sinks=3)], ids=lambda p: p.label
)
def test_a_text_in_pieces_is_the_same_text(pattern, kind):
    """Keys between the sinks and the window are dropped, what they said is not."""
    position = strong(0.0) if kind == "wall" else SelectiveRoPE(D_MODEL, HEAD_DIM, HEADS).double()
    *qkv, x = tensors(70)
    expected = Reference(pattern, 70, position, CPU)(*qkv, position, x)
    cached, start, found = CachedAttention(pattern, 70), 0, []
    for end in (30, 31, 50, 70):
        piece = [t[:, :, start:end] for t in qkv]
        found.append(cached(*piece, position, x[:, start:end]))
        start = end
    torch.testing.assert_close(torch.cat(found, dim=2), expected, rtol=0, atol=1e-9)
