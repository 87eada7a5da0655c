"""Rotary factors by head, learned, by length and by absolute position, on every path of attention.

Ms-PoE (Zhang et al. 2024, arXiv 2403.04797) divides positions by a ratio of each head's own; HARoPE
learns each head's rotation. Both are written here as a user would.
"""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import flex_attention as torch_flex

import oracles
from lexp.attention import (
    BlockSizes,
    Chunked,
    ChunkSizes,
    Flex,
    Reference,
    Tiles,
    TileSizes,
    flex,
    make_attend,
)
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import (
    Bidirectional,
    BidirectionalWindow,
    Blockwise,
    Full,
    SelfExtend,
    Sinks,
    Window,
)
from lexp.position import FIRE, ALiBi, FoPE, Position, RoPE, Sum
from lexp.position.base import Bias, Factors

CPU, HEADS, HEAD_DIM = torch.device("cpu"), 2, 16


class MsPoE(RoPE):
    """RoPE at positions divided by a ratio from 1.2 to 1.8, another one for each head."""

    def __init__(self, head_dim: int, n_heads: int):
        super().__init__(head_dim)
        self.ratios = torch.linspace(1.2, 1.8, n_heads).tolist()

    def rotary_factors(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors:
        heads = [super(MsPoE, self).rotary_factors(q_pos / r, k_pos / r, seq_len)
                 for r in self.ratios]  # fmt: skip
        q, k = zip(*heads, strict=True)
        return torch.stack(q), torch.stack(k)


class HARoPE(Position):
    """RoPE with learned frequencies of each head."""

    relative = two_sided = True

    def __init__(self, head_dim: int, n_heads: int):
        super().__init__()
        theta = torch.tensor(RoPE(head_dim).frequencies)
        self.theta = nn.Parameter(theta + 0.1 * torch.rand(n_heads, head_dim // 2))

    def rotary_factors(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors:
        theta = self.theta[:, None].double()
        return torch.exp(1j * q_pos[:, None] * theta), torch.exp(1j * k_pos[:, None] * theta)


class Absolute(Position):
    """A bias that reads where query and key stand, not how far apart."""

    shift_invariant = False

    def __init__(self, n_heads: int):
        super().__init__()
        self.slope = nn.Parameter(torch.rand(n_heads))

    def bias(self, x: Tensor) -> Bias:
        slope = self.slope
        return lambda pair: slope[pair.h] * (pair.q_pos / 20).cos() * (pair.k_pos / 30).sin()


class DynamicRoPE(RoPE):
    """RoPE whose frequencies fall with the length of the text."""

    by_length = True

    def rotary_factors(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors:
        s = max(1.0, seq_len / 32)
        return super().rotary_factors(q_pos / s, k_pos / s, seq_len)


MAKE = {
    "ms_poe": lambda: MsPoE(HEAD_DIM, HEADS),
    "harope": lambda: HARoPE(HEAD_DIM, HEADS),
    "harope + alibi": lambda: Sum([HARoPE(HEAD_DIM, HEADS), ALiBi(HEADS)]),
    "fope": lambda: FoPE(HEAD_DIM, HEADS, 64),
    "fope + rope": lambda: Sum([FoPE(HEAD_DIM, HEADS, 64), RoPE(HEAD_DIM)]),
    "absolute": lambda: Absolute(HEADS),
    "fire": lambda: FIRE(HEADS, 64),
    "dynamic": lambda: DynamicRoPE(HEAD_DIM),
}
# Tiles fold several of these rows into one call; chunks are of a few rows.
SIZES = BlockSizes(TileSizes(whole_tokens=50, chunk_rows=40, min_rows=16), ChunkSizes(max_rows=37))


def tiles(*args):
    return Tiles(*args, SIZES.tiles)


def chunked(*args):
    return Chunked(*args, SIZES.chunks)


def made(pattern, n, position, device):
    return make_attend(pattern, n, [position], device, sizes=SIZES)


PATHS = {
    "tiles, full": (tiles, Full()), "tiles, window": (tiles, Window(11)),
    "tiles, blockwise": (tiles, Blockwise(16)), "chunked, full": (chunked, Full()),
    "chunked, blockwise": (chunked, Blockwise(16)), "chunked, sinks": (chunked, Sinks(Window(9))),
    "chunked, self_extend": (made, SelfExtend(16, 4)), "flex, full": (Flex, Full()),
    "flex, blockwise": (Flex, Blockwise(16)), "two-sided": (made, Bidirectional()),
    "two-sided window": (made, BidirectionalWindow(9)),
}  # fmt: skip


def run(attend, position, n, dtype):
    """The output and the gradients of q, k, v and the parameters, in float64."""
    generator = torch.Generator().manual_seed(1)
    shape = (2, HEADS, n, HEAD_DIM)
    q, k, v, weight = torch.randn(4, *shape, generator=generator, dtype=torch.float64).to(dtype)
    x = torch.zeros(2, n, 8, dtype=dtype)
    inputs = [t.requires_grad_() for t in (q, k, v)]
    out = attend(*inputs, position, x)
    wanted = [*inputs, *position.parameters()]
    gradients = torch.autograd.grad((out * weight).sum(), wanted)
    return [t.detach().double() for t in (out, *gradients)]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", MAKE)
def test_every_path_is_the_reference_values_and_gradients(name, path, monkeypatch):
    monkeypatch.setattr(flex, "compiled", lambda: torch_flex.flex_attention)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *given: None)
    torch.manual_seed(0)
    make, pattern = PATHS[path]
    position, n = MAKE[name](), 150
    row = position.by_distance or not position.has_bias
    if (path.startswith("flex") and not row) or (
        pattern.two_sided and not (row and position.two_sided)
    ):
        pytest.skip("refused, as other tests say")
    expected = run(Reference(pattern, n, position.double(), CPU), position, n, torch.float64)
    found = run(make(pattern, n, position.float(), CPU), position, n, torch.float32)
    assert len(found) == 4 + len(list(position.parameters()))
    for ours, right in zip(found, expected, strict=True):
        size = right.abs().max().clamp(min=1).item()
        torch.testing.assert_close(ours, right, rtol=0, atol=3e-5 * size)


def test_ms_poe_is_rope_at_the_heads_positions():
    torch.manual_seed(0)
    position, n = MsPoE(HEAD_DIM, HEADS).double(), 12
    q, k, v = torch.randn(3, 1, HEADS, n, HEAD_DIM, dtype=torch.float64)
    out = Reference(Full(), n, position, CPU)(q, k, v, position, q[:, 0])
    causal = [[j <= i for j in range(n)] for i in range(n)]
    for h, ratio in enumerate((1.2, 1.8)):
        at = [m / ratio for m in range(n)]
        scores = oracles.rope(q[0, h], k[0, h], h, HEADS, {}, q[0, 0], at=at)
        expected = oracles.attention(scores, v[0, h], causal)
        # The ratios are kept in float32.
        torch.testing.assert_close(out[0, h], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pattern", [Full(), Window(9), Bidirectional()], ids=repr)
@pytest.mark.parametrize("under", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_learned_factors_follow_the_parameters(under, pattern):
    """Attention is made once, also for evaluation, and training goes on."""
    torch.manual_seed(0)
    position = HARoPE(HEAD_DIM, HEADS)
    q, k, v = torch.randn(3, 1, HEADS, 40, HEAD_DIM)
    with under():
        attend = make_attend(pattern, 40, [position], CPU)
        before = attend(q, k, v, position, q[:, 0])
    with torch.no_grad():
        position.theta += 0.1
    with under():
        after = attend(q, k, v, position, q[:, 0])
        fresh = make_attend(pattern, 40, [position], CPU)(q, k, v, position, q[:, 0])
    assert torch.equal(after, fresh) and not torch.allclose(after, before)


def test_a_model_learns_its_factors():
    torch.manual_seed(0)
    dims = Dims(n_layers=2, d_model=16, n_heads=HEADS, head_dim=HEAD_DIM, d_ff=16)
    model = Transformer(dims, 20, [LayerEntry(lambda: HARoPE(HEAD_DIM, HEADS))])
    attend = make_attend(Full(), 30, model.schemes, CPU)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    tokens = torch.randint(0, 20, (2, 31))
    start, losses = model.position.theta.clone(), []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model.loss(tokens[:, :-1], tokens[:, 1:], attend) / 60
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert not torch.equal(model.position.theta, start)


def test_constant_factors_are_made_once(monkeypatch):
    asked = []

    class Counted(MsPoE):
        def rotary_factors(self, *given):
            asked.append(given)
            return super().rotary_factors(*given)

    position = Counted(HEAD_DIM, HEADS)
    q, k, v = torch.randn(3, 1, HEADS, 40, HEAD_DIM)
    for pattern in (Full(), Window(9), Bidirectional()):
        asked.clear()
        attend = make_attend(pattern, 40, [position], CPU)
        for _ in range(3):
            attend(q, k, v, position, q[:, 0])
        assert len(asked) == 1


def test_fope_is_not_relative_and_still_has_positions_to_move():
    """The same distance at other places gives another score, by far more than rounding."""
    torch.manual_seed(0)
    position = FoPE(HEAD_DIM, HEADS, 64)
    assert not position.relative and not position.shift_invariant and position.reads_positions
    at = torch.arange(40, dtype=torch.float64)
    q, k = position.rotary_factors(at, at, 40)
    assert q.shape == (HEADS, 40, HEAD_DIM // 2)
    score = (q[:, 5:] * k[:, :-5].conj()).real.sum(-1)  # distance 5 at 35 places
    assert score.std(-1).min() > 0.1
    turning = RoPE(HEAD_DIM).rotary_factors(at, at, 40)
    plain = FoPE(HEAD_DIM, HEADS, 64, sigma=0.0).rotary_factors(at, at, 40)[0]
    kept = [theta >= 2 * math.pi / 64 for theta in RoPE(HEAD_DIM).frequencies]
    torch.testing.assert_close(plain[..., kept], turning[0][:, kept].expand_as(plain[..., kept]))
    assert plain[..., [not keep for keep in kept]].eq(1).all() and 0 < sum(kept) < len(kept)


@pytest.mark.parametrize(("sigma", "train_len"), [(-0.1, 64), (0.3, 5)])
def test_fope_refuses_what_has_no_meaning(sigma, train_len):
    with pytest.raises(ValueError, match="fope needs sigma >= 0 and a full turn in train_len"):
        FoPE(HEAD_DIM, HEADS, train_len, sigma)


@pytest.mark.parametrize(
    "position", [RoPE(8), FoPE(8, 2, 64), MsPoE(8, 2)], ids=lambda p: type(p).__name__
)
def test_rotary_factors_read_the_frequencies(position):
    """Which is what extensions change."""
    at = torch.arange(5, dtype=torch.float64)
    before = position.rotary_factors(at, at, 5)[0]
    position.frequencies = [theta / 2 for theta in position.frequencies]
    torch.testing.assert_close(position.rotary_factors(2 * at, at, 5)[0], before)
