"""Attention at both sides: every admitted scheme against its formula, the others refused."""

import pytest
import torch

import oracles
from lexp.attention import (
    BidirectionalAttention,
    BidirectionalSizes,
    BlockSizes,
    Reference,
    make_attend,
    refuse_meaningless,
)
from lexp.attention.chunked import Chunked, ChunkSizes
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Transformer
from lexp.pattern import Bidirectional, BidirectionalBlockwise, BidirectionalWindow
from lexp.position import XPos
from lexp.system.errors import NotDefined
from support.schemes import CPU, D_MODEL, SCHEMES, dims, make, qkv

ADMITTED = [s for s in SCHEMES if make(s).two_sided]


def test_a_scheme_is_admitted_if_and_only_if_there_is_an_oracle_for_it():
    assert set(ADMITTED) == set(oracles.BOTH_SIDES)


def allowed_by(pattern, n: int) -> list[list[bool]]:
    """The patterns' definitions, one pair at a time."""
    if isinstance(pattern, BidirectionalWindow):
        return [[2 * abs(i - j) + 1 <= pattern.window for j in range(n)] for i in range(n)]
    if isinstance(pattern, BidirectionalBlockwise):
        return [[abs(i // pattern.block - j // pattern.block) <= 1 for j in range(n)]
                for i in range(n)]  # fmt: skip
    return [[True] * n for _ in range(n)]


PATTERNS = [Bidirectional(), BidirectionalWindow(5), BidirectionalWindow(8),
            BidirectionalBlockwise(3)]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_patterns_are_their_definitions(pattern):
    for n in (1, 2, 3, 7, 20):
        index = torch.arange(n)
        found = pattern.allowed(index[:, None], index)
        assert found.tolist() == allowed_by(pattern, n)
        assert pattern.n_keys(index).tolist() == found.sum(1).tolist()
        for start, end in ((0, n), (0, 1), (n - 1, n), (n // 2, n // 2 + 1)):
            first, last = pattern.reach(start, end, n)
            assert not found[start:end, :first].any() and not found[start:end, last:].any()
        behind, ahead = (b.allowed(index[:, None], index) for b in pattern.branches)
        assert torch.equal(behind, found.tril()) and torch.equal(ahead, found.triu(1))


def test_sizes_left_open_follow_the_trained_length():
    assert BidirectionalWindow().fit(128, 999) == BidirectionalWindow(128)
    assert BidirectionalBlockwise().fit(128, 999) == BidirectionalBlockwise(42)
    for pattern in (BidirectionalWindow().fit(128, 999), BidirectionalBlockwise().fit(128, 999)):
        assert 120 < pattern.n_keys(torch.arange(999)).max() <= 128


@pytest.mark.parametrize("pattern", [Bidirectional(), BidirectionalWindow(7)], ids=repr)
@pytest.mark.parametrize("scheme", ADMITTED)
def test_reference_and_fast_path_match_the_formula_values_and_gradients(scheme, pattern):
    """In float64, whole and in tiles of a few rows; in float32; of q, k, v and what is learned."""
    torch.manual_seed(0)
    n, n_heads = 13, 2
    oracle = oracles.BOTH_SIDES[scheme]
    position = make(scheme, n_heads).double().eval()
    learned = {name: p for name, p in position.named_parameters() if not name.endswith("table")}
    with torch.no_grad():
        for parameter in learned.values():
            parameter += 0.3 * torch.randn_like(parameter)
    q, k, v = qkv(n_heads, n)
    x = torch.randn(1, n, D_MODEL, dtype=torch.float64)
    allowed, sampled = allowed_by(pattern, n), position.sample_positions(n)
    at = {} if sampled is None else {"at": sampled.tolist()}
    own = oracles.leaves(oracle, learned)
    known = {**dict(position.named_buffers()), **own}
    heads = [
        oracles.attention(oracle(q[0, h], k[0, h], h, n_heads, known, **at), v[0, h], allowed)
        for h in range(n_heads)
    ]
    expected = torch.stack(heads)[None]
    weight = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    inputs = [q, k, v, *learned.values()]
    gradients = torch.autograd.grad((expected * weight).sum(), [q, k, v, *own.values()])

    def check(out, inputs, atol):
        torch.testing.assert_close(out.double(), expected, rtol=0, atol=atol)
        total = (out * weight.to(out.dtype)).sum()
        for ours, theirs in zip(torch.autograd.grad(total, inputs), gradients, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=10 * atol, atol=10 * atol)

    check(Reference(pattern, n, position, CPU)(q, k, v, position, x, sampled), inputs, 1e-12)
    for rows in (1 << 10, 4):
        sizes = BlockSizes(bidirectional=BidirectionalSizes(max_mask=1, min_rows=rows))
        attend = make_attend(pattern, n, [position], CPU, sizes=sizes)
        check(attend(q, k, v, position, x, sampled), inputs, 1e-12)
    single = [t.detach().float().requires_grad_() for t in (q, k, v)]
    position = position.float()
    attend = make_attend(pattern, n, [position], CPU)
    out = attend(*single, position, x.float(), sampled)
    parameters = [p for name, p in position.named_parameters() if name in learned]
    check(out, [*single, *parameters], 2e-6)


@pytest.mark.parametrize("scheme", ["nope", "rope", "alibi", "xpos"])
def test_chunks_of_instruments_end_with_the_text(scheme):
    """With the query rows in several chunks, of which each sees keys after its own."""
    n, position = 13, make(scheme).double()
    q, k, v = qkv(4, n)
    x = torch.randn(1, n, D_MODEL, dtype=torch.float64)
    for pattern in PATTERNS:
        chunked = Chunked(pattern, n, position, CPU, ChunkSizes(max_rows=5))
        expected = Reference(pattern, n, position, CPU)(q, k, v, position, x)
        out = chunked(q, k, v, position, x)
        torch.testing.assert_close(out, expected, rtol=0, atol=2e-6)  # rotations are float32


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - set(ADMITTED)))
def test_other_schemes_are_refused_with_their_name(scheme):
    with pytest.raises(NotDefined, match=r"\S+ is not defined for keys after the query"):
        refuse_meaningless(Bidirectional(), [make(scheme)])


@pytest.mark.parametrize("scheme", ADMITTED)
def test_factors_differ_ahead_exactly_where_a_scheme_says_so(scheme):
    at = torch.arange(9, dtype=torch.float64)
    position = make(scheme)
    behind, ahead = (
        hook(at, at, 9) for hook in (position.rotary_factors, position.rotary_factors_ahead)
    )
    same = behind is None or all(map(torch.equal, behind, ahead))
    assert position.has_factors_ahead == (not same)


def test_xpos_decays_at_both_sides_and_stays_finite_far_beyond_its_span():
    """zeta^n as printed, past what float32 can hold; against the formula in float64."""
    n, d = 600, 8
    position = XPos(d, scale_base=1)
    q, k, v = torch.randn(3, 1, 1, n, d, generator=torch.Generator().manual_seed(3))
    out = make_attend(Bidirectional(), n, [position], CPU)(q, k, v, position, q)
    assert out.isfinite().all()
    i, c = n // 2, torch.arange(d // 2, dtype=torch.float64)
    offset = i - torch.arange(n, dtype=torch.float64)[:, None]
    turned = torch.polar(((2 * c / d + 0.4) / 1.4) ** offset.abs(), offset * 10000 ** (-2 * c / d))
    q_i, k_all = (torch.view_as_complex(t.double().unflatten(-1, (-1, 2)).contiguous())
                  for t in (q[0, 0, i], k[0, 0]))  # fmt: skip
    scores = (q_i * k_all.conj() * turned).real.sum(-1) / d**0.5
    torch.testing.assert_close(
        out[0, 0, i].double(), scores.softmax(0) @ v[0, 0].double(), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("scheme", ["rope", "xpos", "tisa", "nope"])
@pytest.mark.parametrize("pattern", [Bidirectional(), BidirectionalWindow(5)], ids=repr)
def test_padding_changes_nothing(scheme, pattern):
    """A text alone, and beside a longer one: the same output, and no gradient from what follows."""
    torch.manual_seed(0)
    position = make(scheme).double()
    q, k, v = (t.detach().expand(2, -1, -1, -1).clone().requires_grad_() for t in qkv(4, 12))
    attend = make_attend(pattern, 12, [position], CPU, torch.tensor([12, 7]))
    out = attend(q, k, v, position, q[:, 0])
    alone = make_attend(pattern, 7, [position], CPU)(
        *(t[1:, :, :7] for t in (q, k, v)), position, q[1:, 0, :7]
    )
    torch.testing.assert_close(out[1:, :, :7], alone, rtol=0, atol=1e-12)
    gradients = torch.autograd.grad(out[1, :, :7].square().sum(), (q, k, v))
    assert all(g.isfinite().all() and g[1, :, 7:].eq(0).all() for g in gradients)


@pytest.mark.parametrize("scheme", ["rope", "xpos", "tisa"])
def test_autocast_leaves_scores_and_biases_alone(scheme):
    torch.manual_seed(0)
    position = make(scheme)
    q, k, v = (t.detach().bfloat16().requires_grad_() for t in qkv(4, 40))
    x = torch.randn(1, 40, D_MODEL)
    wide = make_attend(Bidirectional(), 40, [position], CPU)(
        q.float(), k.float(), v.float(), position, x
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = BidirectionalAttention(Bidirectional(), 40, position, CPU)(q, k, v, position, x)
    assert out.dtype == torch.bfloat16
    assert (out.float() - wide).abs().max() < 0.03
    out.float().square().sum().backward()
    assert q.grad.isfinite().all()


# They give the tokens of the next test no position: two of them look for digits.
BLIND = ("nope", "abacus", "coupled")


@pytest.mark.parametrize("scheme", ADMITTED)
def test_later_tokens_matter_and_so_does_their_place(scheme):
    """A model reads what follows; NoPE alone cannot tell in which order it stands."""
    torch.manual_seed(0)
    model = Transformer(dims(), 50, [LayerEntry(lambda: make(scheme))]).eval()
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.mul_(3)  # at initialisation attention is nearly uniform
    attend = make_attend(Bidirectional(), 16, model.schemes, CPU)
    tokens = torch.arange(16)[None]
    other, swapped = tokens.clone(), tokens.clone()
    other[0, 2] = 40
    swapped[0, [1, 4]] = tokens[0, [4, 1]]
    before = model(tokens, attend)[0, 0]
    assert (model(other, attend)[0, 0] - before).abs().max() > 1e-4
    assert (model(swapped, attend)[0, 0] - before).abs().max().gt(1e-4) == (scheme not in BLIND)
