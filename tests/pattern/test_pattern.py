"""Patterns with positions of their own: against tables written out from the papers."""

import math

import pytest
import torch

from lexp.attention import (
    BlockSizes,
    BranchSizes,
    Chunked,
    ChunkSizes,
    Reference,
    branches,
    make_attend,
)
from lexp.pattern import (
    STRING,
    Blockwise,
    DualChunk,
    Full,
    KeysRead,
    LeakyReRoPE,
    LMInfinite,
    OwnChunk,
    ReRoPE,
    SelfExtend,
    Sinks,
    SinksInPlace,
    WiderWindow,
    Window,
    keys_read,
)
from lexp.position import ALiBi, NoPE, RoPE
from lexp.system.errors import NotDefined
from support.schemes import HEAD_DIM, SCHEMES, make

CPU = torch.device("cpu")
MOVED = [
    Sinks(Window(6), 2), Sinks(Blockwise(4), 3), SinksInPlace(Window(6), 2), LMInfinite(2, 5),
    SelfExtend(6, 3), ReRoPE(5),
    LeakyReRoPE(5, 4.0), DualChunk(5, 7), STRING(6, 2),
]  # fmt: skip
ALL = [Full(), Window(6), Blockwise(4), *MOVED]


def distances(pattern, n: int) -> list[list[float | None]]:
    """q_pos - k_pos of every pair; None where the key is not seen."""
    index = torch.arange(n)
    table: list[list[float | None]] = [[None] * n for _ in range(n)]
    for branch in pattern.branches:
        own = branch.allowed(index[:, None], index)
        q_pos, k_pos = branch.q_map(index).double(), branch.k_map(index).double()
        for i in range(n):
            for j in range(n):
                if own[i, j]:
                    assert table[i][j] is None, "branches are disjoint"
                    table[i][j] = (q_pos[i] - k_pos[j]).item()
    return table


def expected(n: int, rule) -> list[list[float | None]]:
    return [[rule(i, j) if j <= i else None for j in range(n)] for i in range(n)]


def test_self_extend_is_the_papers_table():
    """Jin et al. 2024, figure 3: window 4, group 2; grouped from distance 4 on."""

    def rule(i, j):
        return i - j if i - j < 4 else (i // 2 + 4 - 4 // 2) - j // 2

    assert distances(SelfExtend(4, 2), 20) == expected(20, rule)
    # The last row of the paper's figure for 10 tokens: 9 // 2 + 2 - j // 2, then the exact ones.
    assert distances(SelfExtend(4, 2), 10)[9] == [6, 6, 5, 5, 4, 4, 3, 2, 1, 0]


def test_rerope_is_a_ceiling():
    assert distances(ReRoPE(5), 20) == expected(20, lambda i, j: min(i - j, 5))


def test_leaky_rerope_goes_on_at_another_pace():
    def rule(i, j):
        return i - j if i - j < 5 else 5 + (i - j - 5) / 4

    assert distances(LeakyReRoPE(5, 4.0), 20) == expected(20, rule)


def test_string_shifts_far_keys_nearer():
    """An et al. 2024, section 4: S = 6, W = 2; released sizes at 300 trained tokens."""

    def rule(i, j):
        return i - j if i - j < 6 else i - j - 6 + 2

    assert distances(STRING(6, 2), 20) == expected(20, rule)
    fitted = STRING(temperature=1.25).fit(300, 900)
    assert (fitted.window, fitted.local, fitted.score_scale) == (99, 12, 1.25**2)
    # It differs from full attention within the trained length.
    q, k, v = torch.randn(3, 1, 1, 64, HEAD_DIM)
    full, other = (
        make_attend(pattern.fit(64, 64), 64, [rope], CPU)(q, k, v, rope, q[:, 0])
        for rope in [RoPE(HEAD_DIM)]
        for pattern in (Full(), STRING())
    )
    torch.testing.assert_close(other[:, :, :21], full[:, :, :21])
    assert (other - full)[:, :, 40:].abs().max() > 1e-3


def test_dual_chunk_is_the_released_rule():
    """An et al. 2024, chunks of 5, no distance above 7."""

    def rule(i, j):
        chunks = i // 5 - j // 5
        if chunks == 0:
            return i % 5 - j % 5
        return (min(i % 5 + 5, 7) if chunks == 1 else 7) - j % 5

    assert distances(DualChunk(5, 7), 23) == expected(23, rule)


def test_streaming_llm_re_indexes_inside_the_cache():
    """Xiao et al. 2023: sinks 0, 1 and the last 6 tokens; positions are places in that list."""
    table = distances(Sinks(Window(6), 2), 20)
    for i in range(20):
        cache = sorted({0, 1} & set(range(i + 1)) | set(range(max(0, i - 5), i + 1)))
        place = {j: n for n, j in enumerate(cache)}
        wanted = [place[i] - place[j] if j in place else None for j in range(20)]
        assert table[i] == wanted


def test_sinks_in_place_are_as_far_as_they_stand():
    table = distances(SinksInPlace(Window(6), 2), 20)
    for i in range(20):
        wanted = [i - j if j <= i and (j < 2 or j > i - 6) else None for j in range(20)]
        assert table[i] == wanted
    assert SinksInPlace(Window(6), 2).label == "window-6_sinks-2_in_place"


def test_blockwise_with_sinks_sees_bca_and_the_first_tokens():
    table = distances(Sinks(Blockwise(4), 3), 20)
    for i in range(20):
        first = max(0, i // 4 - 1) * 4
        cache = sorted(set(range(min(3, i + 1))) | set(range(first, i + 1)))
        place = {j: n for n, j in enumerate(cache)}
        assert table[i] == [place[i] - place[j] if j in place else None for j in range(20)]


def test_lm_infinite_is_a_lambda_with_a_ceiling():
    def rule(i, j):
        if i - j < 5:
            return i - j
        return 5 if j < 2 else None

    assert distances(LMInfinite(2, 5), 20) == expected(20, rule)


@pytest.mark.parametrize("pattern", ALL, ids=repr)
def test_keys_read_are_those_of_the_mask(pattern):
    index = torch.arange(40)
    n_pairs = int(pattern.allowed(index[:, None], index).sum())
    assert keys_read(pattern, 16, 40) == KeysRead(n_pairs / 40, 0.0)


@pytest.mark.parametrize("pattern", ALL, ids=repr)
def test_branches_keep_their_promises(pattern):
    """All seen keys are within `keys`, the diagonal is seen, n_keys counts, order ascends."""
    index = torch.arange(40)
    allowed = pattern.allowed(index[:, None], index)
    assert allowed.diagonal().all() and not allowed.triu(1).any()
    assert torch.equal(allowed.sum(1), pattern.n_keys(index))
    for start, end in ((0, 1), (0, 7), (5, 6), (9, 23), (17, 40)):
        for branch in pattern.branches:
            first, last = branch.keys(start, end)
            own = branch.allowed(index[start:end, None], index)
            assert not own[:, :first].any() and not own[:, max(first, last) :].any()
        for i in range(start, end):
            before = -1
            for branch in pattern.branches:
                seen = branch.allowed(torch.tensor(i), index).nonzero().flatten().tolist()
                assert all(j > before for j in seen[:1])
                before = max([before, *seen])


@pytest.mark.parametrize("pattern", [Sinks(), Sinks(Blockwise()), LMInfinite(), SelfExtend(),
                                     ReRoPE(), LeakyReRoPE(), DualChunk()], ids=repr)  # fmt: skip
@pytest.mark.parametrize("seq_len", [64, 200, 1000])
def test_sizes_left_open_keep_every_distance_within_the_trained_length(pattern, seq_len):
    index, found = torch.arange(seq_len), []
    for branch in pattern.fit(64, seq_len).branches:
        own = branch.allowed(index[:, None], index)
        at = branch.q_map(index).double()[:, None] - branch.k_map(index).double()
        found.append(at.masked_fill(~own, 0).max())
    # LM-Infinite caps distances at the trained length itself, as published.
    most = 64 if isinstance(pattern, LMInfinite) else 63
    assert max(found) <= most
    assert pattern.fit(64, seq_len).fit(64, seq_len) == pattern.fit(64, seq_len)


def test_which_patterns_change_distances_within_the_trained_length():
    """As docs/methods.md says; a window of that length and BCA see every key there."""
    every = [
        Full(), Window(), WiderWindow(), Blockwise(), OwnChunk(), Sinks(), SinksInPlace(),
        LMInfinite(), SelfExtend(), ReRoPE(), LeakyReRoPE(), DualChunk(), STRING(),
    ]  # fmt: skip
    plain = expected(64, lambda i, j: i - j)
    changing = {p.name for p in every if distances(p.fit(64, 64), 64) != plain}
    assert changing == {"self_extend", "rerope", "dual_chunk", "string"}


@pytest.mark.parametrize(
    "make_it",
    [lambda: Sinks(n_sinks=0), lambda: LMInfinite(0), lambda: SelfExtend(0), lambda: ReRoPE(0),
     lambda: SelfExtend(4, 0), lambda: LeakyReRoPE(4, 0.5), lambda: DualChunk(0),
     lambda: STRING(4, 0), lambda: Window(0),
     lambda: DualChunk(9, 7)],
)  # fmt: skip
def test_sizes_out_of_range_are_refused(make_it):
    with pytest.raises(ValueError, match="at least"):
        make_it()


def draws(n: int, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 4, n, HEAD_DIM, generator=generator, dtype=torch.float64)
    x = torch.randn(1, n, 32, generator=generator, dtype=torch.float64)
    return [t.to(dtype).requires_grad_() for t in (q, k, v)], x.to(dtype)


@pytest.mark.parametrize("position", [RoPE(HEAD_DIM), ALiBi(4)], ids=["rope", "alibi"])
@pytest.mark.parametrize("pattern", MOVED, ids=repr)
def test_the_reference_uses_those_distances(pattern, position):
    """Scores computed one by one at the distances of the table."""
    n = 24
    (q, k, v), x = draws(n)
    out = Reference(pattern, n, position, CPU)(q, k, v, position, x)
    table = distances(pattern, n)
    for i in (0, 7, 16, n - 1):
        seen = [j for j in range(n) if table[i][j] is not None]
        at = torch.tensor([table[i][j] for j in seen], dtype=torch.float64)
        if isinstance(position, ALiBi):
            scores = q[0, 1, i] @ k[0, 1, seen].T / math.sqrt(HEAD_DIM) - 0.0625 * at
        else:
            pairs = torch.view_as_complex(k[0, 1, seen].unflatten(-1, (-1, 2)).contiguous())
            own = torch.view_as_complex(q[0, 1, i].unflatten(-1, (-1, 2)).contiguous())
            theta = 10000 ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM).double()
            turned = own * torch.exp(1j * at[:, None] * theta) * pairs.conj()
            scores = turned.real.sum(-1) / math.sqrt(HEAD_DIM)
        weights = scores.softmax(0)
        torch.testing.assert_close(out[0, 1, i], weights @ v[0, 1, seen], rtol=0, atol=1e-12)


@pytest.mark.parametrize("pattern", ALL, ids=repr)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_in_every_pattern_equals_the_reference(scheme, pattern, monkeypatch):
    """Values and gradients, over several tiles and strips; or a reason why there are none.

    Values without gradients too, which have paths of their own.
    """
    sizes = BlockSizes(
        branches=BranchSizes(max_rows=16, min_rows=4), chunks=ChunkSizes(max_rows=13)
    )
    monkeypatch.setattr("lexp.position.path.BLOCK_KEYS", 7)
    n = 45
    torch.manual_seed(0)
    position = make(scheme).eval()
    with torch.no_grad():
        for parameter in position.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    try:
        attend = make_attend(pattern, n, [position], CPU, sizes=sizes)
    except NotDefined as reason:
        moves = any(branch.moves for branch in pattern.branches)
        only = pattern.only_moves and not position.relative
        assert moves and (only or position.samples_positions), reason
        return
    sampled = position.sample_positions(n)
    gradients = []
    for kind, dtype in ((Reference, torch.float64), (None, torch.float32)):
        inputs, x = draws(n, dtype)
        own = position.to(dtype)
        called = attend if kind is None else kind(pattern, n, own, CPU)
        out = called(*inputs, own, x, sampled)
        weight = torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)
        found = torch.autograd.grad((out * weight).sum(), [*inputs, *own.parameters()],
                                    allow_unused=True)  # fmt: skip
        gradients.append([out.detach(), *found])
    with torch.no_grad():
        scored = attend(*inputs, own, x, sampled)
    torch.testing.assert_close(scored.double(), gradients[0][0], rtol=0, atol=3e-5)
    for ours, theirs in zip(gradients[1], gradients[0], strict=True):
        if theirs is None:
            assert ours is None
            return
        size = theirs.abs().max().clamp(min=1).item()
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=3e-5 * size)


@pytest.mark.parametrize("pattern", ALL, ids=repr)
def test_strips_equal_tiles_where_both_can(pattern):
    """The general path in float32 against the fused kernel, a bounded error in bfloat16 too."""
    position, n = RoPE(HEAD_DIM), 300
    (q, k, v), x = draws(n, torch.float32)
    with torch.no_grad():
        expected_out = make_attend(pattern, n, [position], CPU)(q, k, v, position, x)
    found = Chunked(pattern, n, position, CPU)(q, k, v, position, x)
    torch.testing.assert_close(found, expected_out, rtol=0, atol=3e-6)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = [t.bfloat16() for t in (q, k, v)]
        rough = Chunked(pattern, n, position, CPU)(*narrow, position, x)
        with torch.no_grad():
            fused = make_attend(pattern, n, [position], CPU)(*narrow, position, x)
    assert rough.dtype == fused.dtype == torch.bfloat16
    assert (rough.float() - expected_out).abs().max() < 0.05
    assert (fused.float() - expected_out).abs().max() < 0.05


@pytest.mark.parametrize("pattern", MOVED, ids=repr)
def test_each_key_is_rotated_once_a_branch_and_few_are_read_that_no_query_sees(
    pattern, monkeypatch
):
    """Counted at the functions that rotate keys and that compute scores, at 400 tokens."""
    position, n = RoPE(HEAD_DIM), 400
    rotated, read = [], 0
    rotate_keys, fused = branches.rotate_keys, branches.FUSED

    def counted_keys(k, *rest):
        rotated.append(k.shape[2])
        return rotate_keys(k, *rest)

    def counted_scores(q, k, *rest, **named):
        nonlocal read
        read += q.shape[2] * k.shape[2]
        return fused(q, k, *rest, **named)

    monkeypatch.setattr(branches, "rotate_keys", counted_keys)
    monkeypatch.setattr(branches, "FUSED", counted_scores)
    (q, k, v), x = draws(n, torch.float32)
    sizes = BlockSizes(branches=BranchSizes(min_rows=2))
    with torch.no_grad():
        make_attend(pattern, n, [position], CPU, sizes=sizes)(q, k, v, position, x)
    index = torch.arange(n)
    seen = [branch.allowed(index[:, None], index) for branch in pattern.branches]
    assert rotated == [int(own.any(0).sum()) for own in seen]
    n_seen = sum(int(own.sum()) for own in seen)
    assert n_seen <= read <= 1.4 * n_seen


def test_what_only_moves_positions_means_nothing_without_any():
    with pytest.raises(
        NotDefined, match="self_extend changes relative positions, but NoPE has none"
    ):
        make_attend(SelfExtend(4, 2), 20, [NoPE()], CPU)
    make_attend(SelfExtend(4, 2), 20, [RoPE(HEAD_DIM), NoPE()], CPU)  # a hybrid has some


@pytest.mark.parametrize("pattern", [SelfExtend(), ReRoPE(), LeakyReRoPE(), DualChunk(), Sinks(),
                                     LMInfinite(), STRING()], ids=repr)  # fmt: skip
def test_rope_far_past_float32s_exact_positions_is_still_right(pattern):
    """20,000 tokens, trained at 64: the last row in float64."""
    position, n = RoPE(HEAD_DIM), 20_000
    generator = torch.Generator().manual_seed(3)
    q, k, v = torch.randn(3, 1, 1, n, HEAD_DIM, generator=generator)
    fitted = pattern.fit(64, n)
    attend = make_attend(fitted, n, [position], CPU)
    out = attend(q, k, v, position, q[:, 0])
    with torch.no_grad():
        scored = attend(q, k, v, position, q[:, 0])
    i, index = torch.tensor([n - 1]), torch.arange(n)
    scores = torch.full((n,), -math.inf, dtype=torch.float64)
    theta = 10000 ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM).double()
    own, keys = (torch.view_as_complex(t.double().unflatten(-1, (-1, 2)).contiguous())
                 for t in (q[0, 0, -1], k[0, 0]))  # fmt: skip
    for branch in fitted.branches:
        at = branch.q_map(i).double() - branch.k_map(index).double()
        turned = own * torch.exp(1j * at[:, None] * theta) * keys.conj()
        mine = branch.allowed(i, index)
        scores = torch.where(mine, turned.real.sum(-1) / math.sqrt(HEAD_DIM), scores)
    expected_row = scores.softmax(0) @ v[0, 0].double()
    for found in (out, scored):
        torch.testing.assert_close(found[0, 0, -1].double(), expected_row, rtol=0, atol=1e-6)
