"""Patterns against hand-made masks; tiles against the dense reference, values and gradients."""

import pytest
import torch

import oracles
from lexp.attention import AttentionInput, Chunked, ChunkSizes, Reference, Tiles, TileSizes
from lexp.attention.tiles import cut
from lexp.pattern import Blockwise, Full, Window
from lexp.position import T5, ALiBi, FoX, KerplePower, NoPE, RoPE, XPos
from lexp.system.errors import NotDefined
from lexp.system.malloc import give_back
from support.schemes import D_MODEL, make

CPU = torch.device("cpu")
HEADS, HEAD_DIM = 2, 8
SCHEMES = {
    "nope": NoPE(), "rope": RoPE(HEAD_DIM), "xpos": XPos(HEAD_DIM), "alibi": ALiBi(HEADS),
    "t5": T5(HEADS), "kerple": KerplePower(HEADS), "fox": FoX(HEAD_DIM, HEADS),
}  # fmt: skip


def drawn(pattern, n: int) -> list[str]:
    index = torch.arange(n)
    allowed = pattern.allowed(index[:, None], index[None, :])
    return ["".join("x" if a else "." for a in row) for row in allowed.tolist()]


def test_patterns_as_pictures():
    assert drawn(Full(), 4) == ["x...", "xx..", "xxx.", "xxxx"]
    assert drawn(Window(3), 6) == ["x.....", "xx....", "xxx...", ".xxx..", "..xxx.", "...xxx"]
    assert drawn(Blockwise(2), 6) == ["x.....", "xx....", "xxx...", "xxxx..", "..xxx.", "..xxxx"]


@pytest.mark.parametrize("n", [1, 2, 5, 16, 17, 23])
@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_allowed_is_the_papers(n, size):
    index = torch.arange(n)
    for pattern, expected in (
        (Blockwise(size), oracles.blockwise_allowed(n, size)),
        (Window(size), oracles.window_allowed(n, size)),
    ):
        assert pattern.allowed(index[:, None], index[None, :]).tolist() == expected


@pytest.mark.parametrize("pattern", [Full(), Window(7), Blockwise(5)])
def test_lookback_and_period_keep_their_promises(pattern):
    """No query from an aligned start sees further back than lookback; the period repeats."""
    n = 60
    index = torch.arange(n)
    allowed = pattern.allowed(index[:, None], index[None, :])
    assert allowed.diagonal().all() and not allowed.triu(1).any()
    p = pattern.period
    assert torch.equal(allowed[p:, p:], allowed[:-p, :-p]) or pattern == Full()
    if pattern.lookback is not None:
        for start in range(0, n, p):
            assert not allowed[start:, : max(0, start - pattern.lookback)].any()


def test_sizes_left_open_follow_the_trained_length():
    assert Blockwise().fit(128, 999) == Blockwise(64)
    assert Window().fit(128, 999) == Window(128)
    assert Blockwise(10).fit(128, 999) == Blockwise(10)
    assert (Blockwise().label, Blockwise(10).label, Window(9).label) == (
        "blockwise", "blockwise-10", "window-9",
    )  # fmt: skip


@pytest.mark.parametrize("size", [0, -3])
def test_patterns_refuse_sizes_below_one(size):
    with pytest.raises(ValueError, match=str(size)):
        Blockwise(size)
    with pytest.raises(ValueError, match=str(size)):
        Window(size)


PATTERNS = [Full(), Window(50), Window(1), Blockwise(32), Blockwise(100), Blockwise(64)]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 99, 100, 101, 333])
def test_tiles_equal_the_masked_reference(n, pattern, scheme):
    position = SCHEMES[scheme]
    generator = torch.Generator().manual_seed(n)
    q, k, v = torch.randn(3, 2, HEADS, n, HEAD_DIM, generator=generator, dtype=torch.float64)
    expected = Reference(pattern, n, position, CPU)(q, k, v, position.double(), q[:, 0])
    q, k, v = q.float(), k.float(), v.float()
    found = Tiles(pattern, n, position, CPU)(q, k, v, position.float(), q[:, 0])
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("pattern", [Full(), Window(50), Blockwise(32)], ids=repr)
def test_gradients_through_tiles_equal_the_references(pattern, scheme):
    position, n = SCHEMES[scheme], 200
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(3, 1, HEADS, n, HEAD_DIM, generator=generator, dtype=torch.float64)
    weight = torch.randn(1, HEADS, n, HEAD_DIM, generator=generator, dtype=torch.float64)

    def gradients(kind, dtype):
        q, k, v = (x.to(dtype).requires_grad_() for x in draws)
        out = kind(pattern, n, position, CPU)(q, k, v, position.to(dtype), draws[0, :, 0].to(dtype))
        return torch.autograd.grad((out * weight.to(dtype)).sum(), (q, k, v))

    pairs = zip(gradients(Tiles, torch.float32), gradients(Reference, torch.float64), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=3e-5)


@pytest.mark.parametrize("scheme", ["alibi", "nope", "xpos", "fox"])
def test_chunked_full_attention_equals_the_reference(scheme):
    """Lengths past the one-tile limit go over query chunks, the last one partial."""
    sizes = TileSizes(whole_tokens=100, chunk_rows=64)
    position, n = SCHEMES[scheme], 333
    # Without a bias the kernel masks by itself, and one tile is all.
    assert len(cut(Full(), n, position, sizes)) == (6 if position.has_bias else 1)
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, HEADS, n, HEAD_DIM, generator=generator, dtype=torch.float64)
    expected = Reference(Full(), n, position, CPU)(q, k, v, position.double(), q[:, 0])
    q, k, v = q.float(), k.float(), v.float()
    found = Tiles(Full(), n, position, CPU, sizes)(q, k, v, position.float(), q[:, 0])
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bfloat16_error_is_bounded(scheme):
    """bf16 inputs: the error stays that of rounding the inputs, also far into the sequence."""
    position, n = SCHEMES[scheme], 2000
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, HEADS, n, HEAD_DIM, generator=generator).bfloat16()
    expected = Reference(Blockwise(64), n, position, CPU)(
        q.double(), k.double(), v.double(), position.double(), q[:, 0].double()
    )
    found = Tiles(Blockwise(64), n, position, CPU)(q, k, v, position.float(), q[:, 0].float())
    found = found.double()
    assert (found - expected).abs().max() < 0.05
    assert (found - expected).square().mean().sqrt() < 0.005


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
@pytest.mark.parametrize("n", [1, 64, 100, 5000, 70_001])
def test_groups_cover_every_query_once_in_order(n, pattern, has_bias):
    rows = 0
    for group in cut(pattern, n, ALiBi(2) if has_bias else NoPE()):
        assert group.start == rows and group.left <= group.start
        rows += group.rows * group.n_tiles
    assert rows == n


def test_bounded_patterns_take_linear_work_and_flat_temporaries():
    for pattern in (Window(128), Blockwise(64)):
        for n in (1 << 13, 1 << 16, 1 << 20):
            groups = cut(pattern, n, ALiBi(2))
            scores = sum(g.rows * g.n_tiles * (g.rows + g.left) for g in groups)
            assert scores <= 4 * 128 * n
            assert max(g.rows * g.n_tiles for g in groups) <= 16384
    assert max(g.rows for g in cut(Full(), 1 << 16, ALiBi(2))) == TileSizes().chunk_rows
    # A bias that reads more than the distance is a matrix: of fewer rows, the longer they are.
    assert max(g.rows for g in cut(Full(), 1 << 16, FoX(8, 2))) == 256
    assert TileSizes().whole_tokens < 1 << 16


def test_a_long_window_scores_few_keys_that_it_masks():
    n, window = 1 << 16, 8192
    groups = cut(Window(window), n, RoPE(64))
    scores = sum(g.rows * g.n_tiles * (g.rows + g.left) for g in groups)
    seen = n * window - window * (window - 1) // 2
    assert scores < 1.15 * seen
    assert max(g.n_tiles * (g.rows + g.left) for g in groups) <= 2 * 16384
    # Where rows are as many as the lookback, they stay so.
    assert {g.rows for g in cut(Window(1024), 1 << 14, NoPE())} == {1024}


@pytest.mark.parametrize("scheme", ["alibi", "rope", "xpos", "fox"])
def test_a_window_longer_than_its_tiles_equals_the_reference(scheme):
    sizes = TileSizes(min_rows=8, window_rows=16, group_rows=120)
    position, n, pattern = SCHEMES[scheme], 203, Window(41)
    # Fewer keys before the first tiles, then three tiles in each call and a last one cut short.
    shapes = {(g.rows, g.n_tiles, g.left) for g in cut(pattern, n, position, sizes)}
    assert shapes == {(16, 1, 0), (16, 1, 16), (16, 1, 32), (16, 3, 40), (11, 1, 40)}
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, HEADS, n, HEAD_DIM, generator=generator, dtype=torch.float64)
    expected = Reference(pattern, n, position, CPU)(q, k, v, position.double(), q[:, 0])
    q, k, v = q.float(), k.float(), v.float()
    found = Tiles(pattern, n, position, CPU, sizes)(q, k, v, position.float(), q[:, 0])
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=3e-6)


def test_blockwise_forgets_what_is_out_of_reach():
    """Locality: only keys of a query's own block and the one before move its output."""
    position, n, block = RoPE(HEAD_DIM), 160, 32
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, HEADS, n, HEAD_DIM, generator=generator)
    attend = Tiles(Blockwise(block), n, position, CPU)
    before = attend(q, k, v, position, q)
    k, v = k.clone(), v.clone()
    k[:, :, 40] += 1
    v[:, :, 40] += 1
    moved = (attend(q, k, v, position, q) != before).any(-1).any(1)[0]
    assert not moved[:40].any() and moved[40:96].all() and not moved[96:].any()


@pytest.mark.parametrize("gamma", [0.01, 0.4])
@pytest.mark.parametrize("scale_base", [1, 64, 512])
@pytest.mark.parametrize("pattern", [Full(), Window(40), Blockwise(8)], ids=repr)
def test_xpos_of_any_constants_neither_overflows_nor_drifts(pattern, scale_base, gamma):
    """Steep decays leave float32 within a few tokens; tiles are kept short enough for them."""
    position, n = XPos(HEAD_DIM, gamma=gamma, scale_base=scale_base), 3000
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, n, HEAD_DIM, generator=generator)
    found = Tiles(pattern, n, position, CPU)(q, k, v, position, q)
    # The formula in float64 over distances, which cannot overflow.
    for i in (n // 2, n - 1):
        distance = (i - torch.arange(i + 1)).double()[:, None]
        c = torch.arange(HEAD_DIM // 2, dtype=torch.float64)
        zeta = (2 * c / HEAD_DIM + gamma) / (1 + gamma)
        angle = distance * 10000 ** (-2 * c / HEAD_DIM)
        q_i, keys = q[0, 0, i].double().view(-1, 2), k[0, 0, : i + 1].double().view(i + 1, -1, 2)
        dot, cross = (q_i * keys).sum(-1), q_i[:, 0] * keys[..., 1] - q_i[:, 1] * keys[..., 0]
        turned = dot * angle.cos() + cross * angle.sin()
        scores = (zeta ** (distance / scale_base) * turned).sum(-1) / HEAD_DIM**0.5
        allowed = pattern.allowed(torch.tensor(i), torch.arange(i + 1))
        weights = scores.masked_fill(~allowed, -torch.inf).softmax(0)
        expected = weights @ v[0, 0, : i + 1].double()
        torch.testing.assert_close(found[0, 0, i].double(), expected, rtol=0, atol=2e-5)


def test_a_tile_too_long_for_the_scheme_is_not_defined():
    position = XPos(HEAD_DIM, scale_base=1)
    with pytest.raises(
        NotDefined, match=r"XPos overflows beyond 31 positions, blockwise-64 needs 64"
    ):
        Tiles(Blockwise(64), 300, position, CPU)


@pytest.mark.parametrize("scheme", ["xpos", "alibi", "fox", "cope", "wall"])
@pytest.mark.parametrize("pattern", [Full(), Blockwise(5)], ids=repr)
def test_chunks_of_the_last_queries_are_the_last_of_all(pattern, scheme):
    torch.manual_seed(0)
    position, n, first = make(scheme, HEADS).double(), 23, 14
    q, k, v = torch.randn(3, 1, HEADS, n, HEAD_DIM, dtype=torch.float64)
    x = torch.randn(1, n, D_MODEL, dtype=torch.float64)
    attend = Chunked(pattern, n, position, CPU, ChunkSizes(max_rows=4))
    chunks = list(attend.chunks(AttentionInput(q, k, v, position, x, None), first))
    assert [chunk.start for chunk in chunks] == [14, 18, 22]
    found = torch.cat([chunk.weights @ chunk.values(v) for chunk in chunks], dim=2)
    expected = attend(q, k, v, position, x)[:, :, first:]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("batch", "n", "rows"),
    [(1, 128, [128]), (16, 128, [64, 64]), (1, 257, [257]), (2, 513, [129, 129, 129, 126])],
)
def test_a_cpu_cuts_texts_of_many_scores_into_chunks_of_one_size(batch, n, rows):
    q = torch.zeros(batch, HEADS, n, 2)
    inputs = AttentionInput(q, q, q, NoPE(), q[:, 0])
    chunks = Chunked(Full(), n, NoPE(), CPU).chunks(inputs)
    assert [chunk.scores.shape[2] for chunk in chunks] == rows


def test_strips_give_memory_back_and_change_nothing_by_it(monkeypatch):
    position, n = RoPE(HEAD_DIM), 100
    q, k, v = torch.randn(3, 1, HEADS, n, HEAD_DIM, generator=torch.Generator().manual_seed(0))
    sizes = ChunkSizes(max_rows=10)
    expected = Chunked(Full(), n, position, CPU, sizes)(q, k, v, position, q[:, 0])
    calls = []
    monkeypatch.setattr("lexp.attention.chunked.give_back", lambda: calls.append(give_back()))
    same = Chunked(Full(), n, position, CPU, sizes)(q, k, v, position, q[:, 0])
    assert torch.equal(same, expected)
    assert not calls  # a short text
    sizes = ChunkSizes(max_rows=10, give_back_scores=HEADS * 10 * 200)
    same = Chunked(Full(), n, position, CPU, sizes)(q, k, v, position, q[:, 0])
    assert torch.equal(same, expected)
    assert len(calls) == 2
