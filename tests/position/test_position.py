"""Every scheme in conf/model against its oracle; a scheme without an oracle fails."""

import math
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import oracles
from lexp.attention import (
    Attend,
    BlockSizes,
    ChunkSizes,
    Reference,
    Tiles,
    TileSizes,
    make_attend,
)
from lexp.attention.chunked import Chunked
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Transformer
from lexp.pattern import Blockwise, Full, Window
from lexp.position import T5, TISA, CoPE, Learned, Position, Sinusoidal, XPos
from lexp.position.alibi import alibi_slopes
from lexp.position.base import Pair
from lexp.position.cope import Counted, keys_beyond
from support.schemes import CPU, D_MODEL, HEAD_DIM, SCHEMES, TRAIN_LEN, dims, make, qkv


def expected_output(oracle, position, learned, q, k, v, x, sampled):
    """The oracle's output for all heads, [1, H, T, D]."""
    n = q.shape[2]
    causal = [[j <= i for j in range(n)] for i in range(n)]
    extra = {} if sampled is None else {"at": sampled.tolist()}
    found = oracles.of_heads(oracle, q[0], k[0], learned, x[0], **extra)
    if getattr(oracle, "gives_weights", False):
        heads = [weights @ v[0, h] for h, weights in enumerate(found)]
    else:
        heads = [oracles.attention(scores, v[0, h], causal) for h, scores in enumerate(found)]
    return torch.stack(heads)[None]


@pytest.mark.parametrize("n_heads", [4, 6])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_reference_and_fast_paths_match_the_paper_values_and_gradients(
    scheme, n_heads, monkeypatch
):
    """Gradients of queries, keys, values and of every learned parameter of the scores."""
    if scheme == "selective_rope" and D_MODEL % n_heads:
        pytest.skip("each head has its part of the layer's input")
    monkeypatch.setattr("lexp.position.path.BLOCK_KEYS", 7)
    torch.manual_seed(0)
    check_against_oracle(getattr(oracles, scheme), make(scheme, n_heads).eval().double(), n_heads)


@pytest.mark.parametrize("max_pos", [2, 5])
def test_cope_past_its_last_embedding_matches_the_paper(max_pos):
    """Of 20 keys, at gates of a half on average, most queries count to the end."""
    torch.manual_seed(0)
    check_against_oracle(oracles.cope, CoPE(HEAD_DIM, max_pos).double(), 4)


def test_cope_is_right_where_far_keys_are_not_looked_up(monkeypatch):
    found = []

    def spy(count, last):
        found.append(keys_beyond(count, last))
        return found[-1]

    monkeypatch.setattr("lexp.position.cope.FAR_KEYS", 3)
    monkeypatch.setattr("lexp.position.cope.keys_beyond", spy)
    torch.manual_seed(0)
    position = CoPE(HEAD_DIM, 4).double()
    fast = Chunked(Full(), 20, position, CPU, ChunkSizes(max_rows=4))
    check_against_oracle(oracles.cope, position, 4, fast)
    assert 0 in found and max(found) >= 6


def test_cope_computed_again_may_find_other_far_keys(monkeypatch):
    """A count next to the last embedding's: how a product is rounded depends on its memory."""
    found = iter([0, 64, 0])
    monkeypatch.setattr("lexp.position.cope.keys_beyond", lambda count, last: next(found))
    generator = torch.Generator().manual_seed(0)
    scores, by_position, weight = (
        torch.randn(1, 2, 4, n, generator=generator, requires_grad=True) for n in (128, 16, 128)
    )
    given = scores, by_position, torch.ones(4, 128, dtype=torch.bool)
    kept = Counted.apply(*given)
    again = checkpoint(Counted.apply, *given, use_reentrant=False)
    expected, gradients = (
        torch.autograd.grad((out * weight.detach()).sum(), [scores, by_position])
        for out in (kept, again)
    )
    torch.testing.assert_close(gradients, expected)
    assert next(found, None) is None


def test_cope_of_a_key_that_is_nan_is_nan():
    """So that training stops as diverged, and an evaluation has the place."""
    q, k, v = (x.detach() for x in qkv(4, 20, torch.float32))
    k[0, 0, 7] = math.nan
    position = CoPE(HEAD_DIM, 4)
    out = Chunked(Full(), 20, position, CPU)(q, k, v, position, v[:, 0])
    assert out[0, 0, 7:].isnan().all() and out[0, 1:].isfinite().all()


def check_against_oracle(oracle, position: Position, n_heads: int, fast: Any = None):
    n = 20
    with torch.no_grad():
        for parameter in position.parameters():  # some start where nothing can be seen
            parameter += 0.3 * torch.randn_like(parameter)
    q, k, v = qkv(n_heads, n)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, n, D_MODEL, generator=generator, dtype=torch.float64)
    # A table of absolute positions is no part of the scores.
    learned = {n: p for n, p in position.named_parameters() if not n.endswith("table")}
    inputs = [q, k, v, *learned.values()]
    sampled = position.sample_positions(n)
    own = oracles.leaves(oracle, learned)
    known = {**dict(position.named_buffers()), **own}
    expected = expected_output(oracle, position, known, q, k, v, x, sampled)
    weight = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    gradients = torch.autograd.grad((expected * weight).sum(), [q, k, v, *own.values()])

    reference = Reference(Full(), n, position, CPU)(q, k, v, position, x, sampled)
    torch.testing.assert_close(reference, expected, rtol=0, atol=1e-12)
    found = torch.autograd.grad((reference * weight).sum(), inputs)
    for ours, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)

    single = [x.detach().float().requires_grad_() for x in (q, k, v)]
    position = position.float()
    attend = fast or make_attend(Full(), n, [position], CPU)
    output = attend(*single, position, x.float(), sampled)
    torch.testing.assert_close(output, expected.float(), rtol=0, atol=1e-5)
    parameters = [p for n, p in position.named_parameters() if n in learned]
    found = torch.autograd.grad((output * weight.float()).sum(), [*single, *parameters])
    for ours, theirs in zip(found, gradients, strict=True):
        scale = theirs.abs().max().clamp(min=1).item()
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=2e-5 * scale)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_promises_about_positions_hold(scheme):
    """Moving and stretching all positions changes scores exactly where the scheme says so."""
    torch.manual_seed(0)
    position = make(scheme).double().eval()
    with torch.no_grad():
        for parameter in position.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    q, k, v = qkv(4, 20)
    x = torch.randn(1, 20, D_MODEL, dtype=torch.float64)
    near = torch.arange(20, dtype=torch.float64)
    attend = Reference(Full(), 20, position, CPU)

    def output(positions):
        return attend(q, k, v, position, x, positions)

    moved, stretched = ((output(p) - output(near)).abs().max() for p in (near + 977, 3 * near))
    assert stretched.gt(1e-6) == position.reads_positions
    # Those that read positions otherwise than by their distance, and FIRE's indices, say so.
    reads_more = position.reads_positions and not position.relative
    assert moved.gt(1e-3) if reads_more else moved.lt(1e-9)
    assert not (reads_more and position.shift_invariant)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_factors_are_made_where_positions_are(scheme):
    """Strips ask for them in every tile: ways to the CPU and back would each be waited for."""
    position = make(scheme)
    there = torch.arange(5, dtype=torch.float64, device="meta")
    factors = position.rotary_factors(there, there, 5)
    assert factors is None or {t.device.type for t in factors} == {"meta"}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_shift_invariance_is_as_promised(scheme):
    """LEX, section 2.1: what comes before the tokens in sight, masked, changes nothing."""
    torch.manual_seed(0)
    n, window = 40, 8
    position = make(scheme).double().eval()
    once = [t.detach() for t in qkv(4, n)] + [torch.randn(1, n, D_MODEL, dtype=torch.float64)]
    q, k, v, x = (torch.cat([t, t], dim=-2) for t in once)
    # Far enough apart for FIRE's threshold of 512.
    sampled = 16 * torch.arange(2 * n, dtype=torch.float64) if position.samples_positions else None
    out = Reference(Window(window), 2 * n, position, CPU)(q, k, v, position, x, sampled)
    clear = window + position.n_earlier
    same = torch.allclose(out[:, :, n + clear :], out[:, :, clear:n], rtol=0, atol=1e-9)
    assert position.shift_invariant == (same and not position.has_embedding)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_promises_about_hooks_hold(scheme):
    """What attention reads off a scheme before calling it is what it then gets."""
    x = torch.randn(1, 20, D_MODEL)
    position = make(scheme)
    at = torch.arange(20, dtype=torch.float64)
    factors, q = position.rotary_factors(at, at, 20), torch.randn(1, 4, 20, HEAD_DIM)
    assert (factors is not None) == position.has_rotary_factors
    assert (position.transform_qk(q, q)[0] is not q) == position.transforms_qk
    assert (position.embed(x, at.long(), at.long()[None]) is not x) == position.has_embedding
    assert (position.angles(x) is not None) == position.has_angles
    assert (position.log_decays(x) is not None) == position.has_log_decays
    assert (position.bias(x) is not None) == position.has_bias
    assert (position.attention_weights(x) is not None) == position.has_attention_weights
    assert (position.sample_positions(20) is not None) == position.samples_positions
    assert (position.scale(torch.ones(20)) is not None) == position.has_scale


def test_sinusoidal_is_the_papers_wave():
    position = Sinusoidal(D_MODEL)
    at = [0, 1, 7, 500, 100_000]
    none = torch.zeros(len(at), D_MODEL, dtype=torch.float64)
    found = position.embed(none, torch.tensor(at), None)
    expected = [[oracles.sinusoidal_embedding(p, c, D_MODEL) for c in range(D_MODEL)] for p in at]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    x = torch.ones(1, D_MODEL)
    assert torch.allclose(
        position.embed(x, torch.tensor([0]), None) - position.embed(0 * x, torch.tensor([0]), None),
        torch.full_like(x, math.sqrt(D_MODEL)),
    )


def test_learned_adds_its_row_and_trains_it():
    position = Learned(5, 3)
    x = torch.zeros(1, 4, 3)
    out = position.embed(x, torch.arange(4), None)
    assert torch.equal(out[0], position.table[:4])
    out.sum().backward()
    assert position.table.grad[:4].eq(1).all() and position.table.grad[4].eq(0).all()


@pytest.mark.parametrize("n_heads", sorted(oracles.ALIBI_SLOPES))
def test_alibi_slopes(n_heads):
    assert alibi_slopes(n_heads) == pytest.approx(oracles.ALIBI_SLOPES[n_heads])


PENALTIES = [
    s for s in SCHEMES
    if make(s).has_bias and not getattr(getattr(oracles, s, None), "free_sign", False)
]  # fmt: skip


@pytest.mark.parametrize("scheme", PENALTIES)
def test_penalties_never_reward_distance(scheme):
    """The sign: what the papers subtract is subtracted. (T5 and TISA may learn either sign.)"""
    torch.manual_seed(0)
    bias = make(scheme).bias(torch.randn(1, 201, D_MODEL))
    keys, zero = torch.arange(201).flip(0), torch.zeros(1, dtype=torch.long)
    pair = Pair(
        zero, torch.arange(4)[:, None], zero + 200, keys, torch.tensor(200.0), keys.float(),
        zero + 201,
    )  # fmt: skip
    by_distance = bias(pair)
    assert by_distance[:, 0].abs().max() < 1e-6  # nothing at distance 0
    assert (by_distance[:, 1:] < 0).all()
    assert (by_distance[:, -1] < by_distance[:, 1]).all()


def test_t5_buckets_are_the_published_ones():
    """torchscale's and T5's table for 32 buckets and max_distance 128, at its borders."""
    position = T5(1)
    at = torch.tensor(
        [-3, 0, 1, 15, 16, 17, 18, 19, 20, 21, 23, 24, 63, 64, 112, 113, 127, 128, 9999]
    )
    expected = [0, 0, 1, 15, 16, 16, 16, 17, 17, 18, 18, 19, 26, 26, 30, 31, 31, 31, 31]
    assert position.bucket(at.float()).tolist() == expected
    assert position.bucket(at.double()).tolist() == expected


def test_tisa_folds_its_centres_into_the_past():
    torch.manual_seed(0)
    assert (TISA(4).centre > 0).any()
    assert (TISA(4, fold=True).centre <= 0).all()


def test_xpos_constants_of_the_authors_code():
    """zeta_0 = 0.2857 and zeta_31 = 0.9777 at head_dim 64, after dividing the exponent by 512."""
    xi = XPos(64).xi
    assert math.exp(512 * xi[0]) == pytest.approx(0.2857, abs=5e-5)
    assert math.exp(512 * xi[31]) == pytest.approx(0.9777, abs=5e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pattern", [Window(64), Blockwise(32)])
def test_xpos_a_million_positions_from_the_origin_equals_xpos_at_it(pattern, dtype):
    """The same 256 tokens, first and last in a sequence of a million, attend alike."""
    n, copied, clear = 1_000_000 + 256, 256, 64
    generator = torch.Generator().manual_seed(2)
    q, k, v = torch.randn(3, 1, 1, n, HEAD_DIM, generator=generator).to(dtype)
    for x in (q, k, v):
        x[:, :, -copied:] = x[:, :, :copied]
    position = XPos(HEAD_DIM)
    out = Tiles(pattern, n, position, CPU)(q, k, v, position, q)
    assert out.isfinite().all()
    # The first `clear` of the copies see what comes before them, and that differs.
    start, end = out[0, 0, clear:copied].float(), out[0, 0, clear - copied :].float()
    torch.testing.assert_close(end, start, rtol=0, atol=2e-6 if dtype == torch.float32 else 2e-2)


def test_xpos_full_attention_far_past_the_papers_range_matches_float64():
    """20,000 tokens go over query chunks; the last rows against the formula in float64."""
    n = 20_000
    generator = torch.Generator().manual_seed(3)
    q, k, v = torch.randn(3, 1, 1, n, HEAD_DIM, generator=generator)
    position = XPos(HEAD_DIM)
    out = Tiles(Full(), n, position, CPU)(q, k, v, position, q)
    assert len(Tiles(Full(), n, position, CPU).tiling.groups) > 1
    i = n - 1
    distance = i - torch.arange(n, dtype=torch.float64)
    c = torch.arange(HEAD_DIM // 2, dtype=torch.float64)
    zeta = (2 * c / HEAD_DIM + 0.4) / 1.4
    angle = distance[:, None] * 10000 ** (-2 * c / HEAD_DIM)
    q_i, k_all = q[0, 0, i].double().view(-1, 2), k[0, 0].double().view(n, -1, 2)
    dot = (q_i * k_all).sum(-1)
    cross = q_i[:, 0] * k_all[..., 1] - q_i[:, 1] * k_all[..., 0]
    decay = zeta ** (distance[:, None] / 512)
    scores = (decay * (dot * angle.cos() + cross * angle.sin())).sum(-1) / math.sqrt(HEAD_DIM)
    expected = scores.softmax(0) @ v[0, 0].double()
    torch.testing.assert_close(out[0, 0, i].double(), expected, rtol=0, atol=1e-6)


def assert_causal(model: Transformer, attend: Attend, n: int, changed_at: tuple[int, ...]) -> None:
    """Changing token t leaves all logits before t bit-equal, and moves those at t."""
    tokens = torch.randint(0, 50, (1, n))
    before = model(tokens, attend)
    for t in changed_at:
        changed = tokens.clone()
        changed[0, t] = (changed[0, t] + 1) % 50
        after = model(changed, attend)
        assert torch.equal(after[0, :t], before[0, :t])
        assert not torch.equal(after[0, t], before[0, t])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_causality_changing_a_token_leaves_all_logits_before_it_bit_equal(scheme):
    torch.manual_seed(0)
    model = Transformer(dims(), 50, [LayerEntry(lambda: make(scheme))]).eval()
    attend = make_attend(Full(), TRAIN_LEN, model.schemes, CPU)
    assert_causal(model, attend, TRAIN_LEN, (0, 1, 31, TRAIN_LEN - 1))


@pytest.mark.parametrize("pattern", [Full(), Blockwise(8), Window(20)], ids=repr)
@pytest.mark.parametrize("scheme", [s for s in SCHEMES if (make(s).max_len or 333) >= 333])
def test_causality_holds_across_folded_and_chunked_tiles(scheme, pattern):
    sizes = BlockSizes(TileSizes(whole_tokens=100), ChunkSizes(max_rows=100))
    torch.manual_seed(0)
    n = 333
    model = Transformer(dims(), 50, [LayerEntry(lambda: make(scheme))]).eval()
    attend = make_attend(pattern, n, model.schemes, CPU, sizes=sizes)
    assert_causal(model, attend, n, (1, 64, 200, n - 1))


# Wall starts as NoPE, and parameters three times as large make that closer still.
NOT_AT_START = {"nope", "nope_log_n", "nope_ssmax", "abacus", "coupled", "wall"}


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - NOT_AT_START))
def test_position_matters(scheme):
    """Swapping two earlier tokens changes the last prediction by more than rounding."""
    torch.manual_seed(0)
    model = Transformer(dims(), 50, [LayerEntry(lambda: make(scheme))]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # at initialisation attention is nearly uniform
    attend = make_attend(Full(), 16, model.schemes, CPU)
    tokens = torch.arange(16)[None]
    swapped = tokens.clone()
    swapped[0, [3, 9]] = tokens[0, [9, 3]]
    difference = (model(tokens, attend) - model(swapped, attend))[0, -1].abs().max()
    assert difference > 1e-4
