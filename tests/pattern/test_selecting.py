"""Patterns that choose keys by content: against the papers' rules in loops, query by query."""

import math

import pytest
import torch

import oracles
from lexp.attention import (
    Chunked,
    ChunkSizes,
    Reference,
    WithinDocuments,
    fold_documents,
    make_attend,
    make_flex,
    make_moved,
)
from lexp.instruments.capture import capture_scores
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Transformer
from lexp.pattern import Bidirectional, Full, MoBA, ReAttention
from lexp.pattern.selecting import highest
from lexp.position import ALiBi, NoPE, RandomPositions, RoPE
from lexp.system.errors import NotDefined
from lexp.training.objective import refuse_other_attention
from support.schemes import HEAD_DIM, SCHEMES, dims, make

CPU = torch.device("cpu")
N, HEADS, SHARED = 46, 4, 2
MOBA = MoBA(block=5, top_k=3)
REATTENTION = ReAttention(n_global=3, local=7, n_votes=2, span=4, n_spans=3)
PATTERNS = [MOBA, REATTENTION]
# Several chunks, which begin within blocks and spans.
SMALL = ChunkSizes(max_rows=13)


def draws(n: int = N, n_shared: int = SHARED, dtype=torch.float64, batch: int = 2):
    """Queries of four heads, keys and values of two, and the layer's inputs."""
    generator = torch.Generator().manual_seed(0)
    made = [
        torch.randn(batch, heads, n, HEAD_DIM, generator=generator, dtype=torch.float64)
        for heads in (HEADS, n_shared, n_shared)
    ]
    x = torch.randn(batch, n, 32, generator=generator, dtype=torch.float64)
    return [t.to(dtype).requires_grad_() for t in made], x.to(dtype)


def turned(x: torch.Tensor, position: int) -> torch.Tensor:
    """RoPE of one vector [D], by its angles."""
    theta = 10000 ** (-torch.arange(0, HEAD_DIM, 2, dtype=torch.float64) / HEAD_DIM)
    cos, sin = (position * theta).cos(), (position * theta).sin()
    even, odd = x[0::2], x[1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten()


def expected(pattern, scheme: str, q, k, v) -> torch.Tensor:
    """The papers' attention of all heads, [B, H, T, D]."""
    n_sharing = q.shape[1] // k.shape[1]
    rotated = scheme == "rope"
    outputs = []
    for text in range(len(q)):
        shared = [h // n_sharing for h in range(q.shape[1])]
        keys_of_all = None
        if isinstance(pattern, ReAttention):
            sizes = (pattern.n_global, pattern.local, pattern.n_votes, pattern.span)
            keys_of_all = oracles.reattention_keys(
                q[text], k[text][shared], *sizes, pattern.n_spans
            )
        heads = []
        for h, own in enumerate(shared):
            q_h, k_h = q[text, h], k[text, own]

            def score(i, j, at_i, at_j, q_h=q_h, k_h=k_h, h=h):
                if rotated:
                    return turned(q_h[i], at_i) @ turned(k_h[j], at_j) / math.sqrt(HEAD_DIM)
                slope = 2 ** (-8 * (h + 1) / HEADS) if scheme == "alibi" else 0.0
                return q_h[i] @ k_h[j] / math.sqrt(HEAD_DIM) - slope * (at_i - at_j)

            keys = keys_of_all
            if keys is None:
                q_at, k_at = (
                    torch.stack([turned(row, t) for t, row in enumerate(rows)]) if rotated else rows
                    for rows in (q_h, k_h)
                )
                keys = oracles.moba_keys(q_at, k_at, pattern.block, pattern.top_k)
            v_h = v[text, own]
            heads.append(oracles.selected_attention(score, v_h, keys, keys_of_all is not None))
        outputs.append(torch.stack(heads))
    return torch.stack(outputs)


@pytest.mark.parametrize(
    ("scheme", "position"),
    [("nope", NoPE()), ("rope", RoPE(HEAD_DIM)), ("alibi", ALiBi(HEADS))],
    ids=["nope", "rope", "alibi"],
)
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
def test_attention_is_the_papers(pattern, scheme, position):
    """Values and gradients of the dense formula and of chunks, with keys that heads share."""
    (q, k, v), x = draws()
    wanted = expected(pattern, scheme, q, k, v)
    weight = torch.linspace(-1, 1, wanted.numel(), dtype=torch.float64).view_as(wanted)
    gradients = torch.autograd.grad((wanted * weight).sum(), [q, k, v])
    for kind, sizes in ((Reference, ()), (Chunked, (SMALL,))):
        out = kind(pattern, N, position, CPU, *sizes)(q, k, v, position, x)
        torch.testing.assert_close(out, wanted, rtol=0, atol=1e-12)
        found = torch.autograd.grad((out * weight).sum(), [q, k, v])
        for ours, theirs in zip(found, gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_equals_the_reference(scheme, pattern, monkeypatch):
    """Values and gradients in float32 over several chunks; or a reason why there are none."""
    monkeypatch.setattr("lexp.position.path.BLOCK_KEYS", 7)
    torch.manual_seed(0)
    position = make(scheme).eval()
    with torch.no_grad():
        for parameter in position.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    try:
        make_attend(pattern, N, [position], CPU)
    except NotDefined as reason:
        assert pattern.moves and (position.samples_positions or position.has_log_decays), reason
        return
    sampled = position.sample_positions(N)
    results = []
    for dtype in (torch.float64, torch.float32):
        inputs, x = draws(n_shared=HEADS, dtype=dtype, batch=1)
        own = position.to(dtype)
        wide = dtype == torch.float64
        kind = Reference(pattern, N, own, CPU) if wide else Chunked(pattern, N, own, CPU, SMALL)
        out = kind(*inputs, own, x, sampled)
        weight = torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)
        leaves = [*inputs, *own.parameters()]
        found = torch.autograd.grad((out * weight).sum(), leaves, allow_unused=True)
        results.append([out.detach(), *found])
    for theirs, ours in zip(*results, strict=True):
        assert (theirs is None) == (ours is None)
        if theirs is not None:
            size = theirs.abs().max().clamp(min=1).item()
            torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=3e-5 * size)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
def test_a_later_token_changes_no_earlier_loss(pattern):
    """Nor does another text of the batch. Few tokens: the first layer has equal keys."""
    torch.manual_seed(0)
    entry = LayerEntry(lambda: RoPE(HEAD_DIM), Full())
    model = Transformer(dims(), 11, [entry, entry]).eval()
    tokens = torch.randint(11, (2, N + 1), generator=torch.Generator().manual_seed(1))
    attend = make_attend(pattern, N, model.schemes, CPU)
    changed = tokens.clone()
    changed[0, 30:] = (changed[0, 30:] + 1) % 11
    with torch.no_grad():
        before, after = (model.losses(t[:, :-1], t[:, 1:], attend) for t in (tokens, changed))
    assert torch.equal(before[0, :29], after[0, :29]) and torch.equal(before[1], after[1])
    assert (before[0, 30:] != after[0, 30:]).all()


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
def test_packed_documents_are_computed_as_if_alone(pattern):
    position, lengths = RoPE(HEAD_DIM), (19, 1, 26)
    (q, k, v), x = draws(batch=1)
    starts = torch.zeros(1, N, dtype=torch.bool)
    starts[0, [0, 19, 20]] = True

    def attend_at(n):
        return make_attend(pattern, n, [position], CPU)

    packed = WithinDocuments(attend_at, fold_documents(starts))(q, k, v, position, x, None)
    documents = zip(*(t.split(lengths, dim=2) for t in (q, k, v)), x.split(lengths, 1), strict=True)
    alone = [
        Reference(pattern, q_own.shape[2], position, CPU)(q_own, k_own, v_own, position, x_own)
        for q_own, k_own, v_own, x_own in documents
    ]
    torch.testing.assert_close(packed, torch.cat(alone, dim=2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
def test_as_many_keys_are_seen_as_it_says(pattern):
    products = torch.randn(2, HEADS, N, N, generator=torch.Generator().manual_seed(0))
    seen = pattern.seen(products)
    counts, index = seen.sum(-1), torch.arange(N)
    assert seen.diagonal(dim1=-2, dim2=-1).all() and not seen.triu(1).any()
    assert seen.shape[1] == (1 if pattern.recounts else HEADS)
    if pattern.recounts:  # spans may overlap
        assert (counts <= pattern.n_keys(index)).all() and counts.max() == 3 + 7 + 3 * 4
    else:
        assert (counts == pattern.n_keys(index)).all() and counts.max() == 3 * 5


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
def test_as_many_keys_are_read_to_choose_as_it_says(pattern):
    """Those whose product, raised or lowered alone, changes which keys the last query sees."""
    read: set[int] = set()
    for seed in range(12):
        products = torch.randn(1, HEADS, 1, N, generator=torch.Generator().manual_seed(seed))
        seen = pattern.seen(products)
        for change in (50.0, -50.0):
            differs = pattern.seen(products + change * torch.eye(N)[:, None, None]) != seen
            read |= set(differs.flatten(1).any(1).nonzero().flatten().tolist())
    blocks = {key // pattern.block for key in read} if isinstance(pattern, MoBA) else read
    assert len(blocks) == pattern.n_to_choose(torch.tensor(N - 1))


def test_equal_keys_are_chosen_from_the_end():
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0, -math.inf]])
    assert highest(scores, 2).tolist() == [[False, False, True, False, True, False]]
    assert highest(scores, 9).tolist() == [[True] * 5 + [False]]
    assert not highest(scores, 0).any()
    # Rounding decides nothing.
    assert highest(torch.tensor([[1.0, 1.0 - 1e-6, 0.9]]), 1).tolist() == [[False, True, False]]
    # Of keys that are all alike, the votes go to the last candidates.
    alike = ReAttention(1, 2, n_votes=2, span=1, n_spans=1).seen(torch.zeros(1, 3, 9, 9))
    assert alike[0, 0, 8].nonzero().flatten().tolist() == [0, 6, 7, 8]


@pytest.mark.parametrize("train_len", [4, 33, 64, 512, 8192])
def test_sizes_left_open_keep_every_key_within_the_trained_length(train_len):
    index = torch.arange(4 * train_len)
    fitted = ReAttention().fit(train_len, 4 * train_len)
    assert train_len * 7 // 8 < fitted.n_keys(index).max() <= train_len
    assert fitted.fit(train_len, 4 * train_len) == fitted
    assert MoBA().fit(train_len, 1) == MoBA(max(1, train_len // 16), 3)
    if train_len == 8192:
        assert fitted == ReAttention(32, 4096, 4, 32, 127)
        assert MoBA().fit(train_len, 1).n_keys(index).max() == 3 * 512


def test_sizes_without_meaning_are_refused():
    with pytest.raises(NotDefined, match="leave no room for a span of 9 in 16 trained tokens"):
        ReAttention(span=9).fit(16, 64)
    for wrong in (lambda: ReAttention(0), lambda: ReAttention(n_votes=0), lambda: MoBA(0),
                  lambda: MoBA(top_k=0)):  # fmt: skip
        with pytest.raises(ValueError, match="must be at least 1"):
            wrong()


LONG = 2**63 - 1


@pytest.mark.parametrize(
    ("given", "alike"),
    [
        (MoBA(block=LONG, top_k=LONG), MoBA(block=N)),
        (ReAttention(3, 7, 2, LONG, 1), ReAttention(3, 7, 2, 2 * N, 1)),
        (ReAttention(3, 7, 2, 4, LONG), ReAttention(3, 7, 2, 4, N)),
        (ReAttention(LONG, LONG, LONG, 4, 3), ReAttention(N, N, N, 4, 3)),
    ],
    ids=["block", "span", "n_spans", "first_and_last"],
)
def test_sizes_beyond_every_text_are_those_of_the_text(given, alike):
    products = torch.randn(1, HEADS, N, N, generator=torch.Generator().manual_seed(0))
    assert torch.equal(given.seen(products), alike.seen(products))
    index = torch.arange(N)
    assert (given.n_keys(index) <= index + 1).all()
    assert torch.equal(given.n_to_choose(index), alike.n_to_choose(index))


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
def test_paths_that_cannot_hold_it_say_so(pattern):
    schemes = [RoPE(HEAD_DIM)]
    with pytest.raises(NotDefined, match=f"{pattern.name} is not one unbroken.*kernel=tiles"):
        make_flex(pattern, N, schemes, CPU)
    with pytest.raises(NotDefined, match=f"{pattern.name} is causal; the model is bidirectional"):
        refuse_other_attention(Bidirectional(), pattern)
    entry = LayerEntry(lambda: RoPE(HEAD_DIM), Full())
    model = Transformer(dims(), 11, [entry, entry])
    with pytest.raises(NotDefined, match=f"{pattern.name} chooses keys by content.*=\\[full\\]"):
        capture_scores(model, torch.zeros(1, 9).long(), pattern, lambda layer, chunk: None)


def test_reattention_needs_positions_that_it_may_count():
    scheme = RandomPositions(RoPE(HEAD_DIM), 128)
    with pytest.raises(NotDefined, match="reattention changes positions, but this scheme samples"):
        make_attend(REATTENTION, N, [scheme], CPU)
    with pytest.raises(NotDefined, match="reattention counts positions anew"):
        make_moved(REATTENTION, N, [RoPE(HEAD_DIM)], CPU)
    make_moved(MOBA, N, [RoPE(HEAD_DIM)], CPU)
