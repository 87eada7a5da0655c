"""Schemes made of schemes, and where they are refused."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from lexp.attention import Reference, Tiles, make_attend
from lexp.extension import PI, Lengths
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Transformer
from lexp.pattern import Blockwise, Branch, DualChunk, Full, Pattern, Sinks
from lexp.position import (
    FIRE,
    SHAPE,
    T5,
    ALiBi,
    FoX,
    Learned,
    NoPE,
    RandomPositions,
    RoPE,
    Sinusoidal,
    Sum,
    TransformerXL,
    XPosDecay,
)
from lexp.system.errors import NotDefined
from support.schemes import D_MODEL, HEAD_DIM, dims

CPU = torch.device("cpu")


def test_together_lies_flat():
    """Extensions reach every part of a mixture of mixtures."""
    inner = Sum([NoPE(), ALiBi(4)])
    whole = Sum([RoPE(HEAD_DIM), inner])
    assert [type(part).__name__ for part in whole.parts] == ["RoPE", "NoPE", "ALiBi"]


@pytest.mark.parametrize(
    ("make_it", "reason"),
    [
        (lambda: Sum([NoPE()]), "two schemes or more"),
        (lambda: Sum([Learned(9, 8), FoX(8, 2)]), "embeddings have no layers"),
        (lambda: Sum([RandomPositions(RoPE(8)), NoPE()]), "cannot be one of several"),
        (lambda: RandomPositions(FIRE(4, 16)), "reads indices"),
        (lambda: SHAPE(RoPE(8), 16), "^RoPE adds no positions to the embeddings"),
        (lambda: SHAPE(Learned(20, 8), 16, 5), "needs 21 rows, .* Learned has 20$"),
        (lambda: SHAPE(Sinusoidal(8), 16, 0), "max_shift >= 1, got 0"),
        (
            lambda: RandomPositions(SHAPE(Sinusoidal(8), 16)),
            r"^SHAPE\(Sinusoidal\) draws positions",
        ),
        (lambda: RandomPositions(RandomPositions(RoPE(8))), "draws positions itself"),
    ],
)
def test_mixtures_without_a_meaning_are_refused(make_it, reason):
    with pytest.raises(ValueError, match=reason):
        make_it()


# What Ruoss et al. 2023 draw positions for, T5's relative bias, and FIRE (Zhou et al. 2024): the
# scheme, and what RandomPositions goes around.
RANDOMISED = {
    "sinusoidal": (lambda: Sinusoidal(D_MODEL), None),
    "learned": (lambda: Learned(64, D_MODEL), None),
    "rope": (lambda: RoPE(HEAD_DIM), None),
    "alibi": (lambda: ALiBi(4), None),
    "transformer_xl": (lambda: TransformerXL(D_MODEL, HEAD_DIM, 4), None),
    "t5": (lambda: T5(4), None),
    "fire": (lambda: FIRE(4, 16), lambda: FIRE(4, 16, index="position")),
}


@dataclass(frozen=True)
class Only(Pattern):
    """Queries see the chosen ones of the earlier keys, and their own."""

    name: ClassVar[str] = "only"
    chosen: frozenset[int] = frozenset()

    @property
    def branches(self) -> tuple[Branch, ...]:
        seen = torch.tensor([index in self.chosen for index in range(64)])
        return (Branch(lambda i, j: (j == i) | (seen[j] & (j < i)), lambda start, end: (0, end)),)


@pytest.mark.parametrize("scheme", RANDOMISED)
def test_a_randomised_scheme_is_the_scheme_in_a_longer_text_that_is_seen_in_part(scheme):
    """The tokens lie at the drawn positions of 64 plain ones; nobody sees what is between them."""
    torch.manual_seed(0)
    plain, inner = RANDOMISED[scheme]
    drawing = LayerEntry(lambda: RandomPositions((inner or plain)(), max_pos=64))
    model = Transformer(dims(), 50, [drawing]).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # at initialisation attention is nearly uniform
    assert model.position.max_len == 64
    longer = Transformer(dims(), 50, [LayerEntry(plain)]).double().eval()
    weights = {name.replace(".inner.", "."): w for name, w in model.state_dict().items()}
    longer.load_state_dict({name: w for name, w in weights.items() if not name.endswith("seed")})

    drawn, tokens = model.position.sample_positions(20).long(), torch.randint(0, 50, (2, 20))
    assert drawn[-1] > 30, "otherwise they would nearly be 0 .. 19"
    text = torch.zeros(2, 64, dtype=torch.long)
    text[:, drawn] = tokens
    seen = Reference(Only(frozenset(drawn.tolist())), 64, longer.position, CPU)
    expected = longer.hidden(text, seen)[:, drawn]
    found = model.hidden(tokens, Reference(Full(), 20, model.position, CPU))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def offsets(position: SHAPE, n_rows: int, calls: int) -> torch.Tensor:
    """The position that each row's token 3 gets, by call: the table's row says its own number."""
    x = torch.zeros(n_rows, 5, 1)
    found = torch.stack([position.embed(x, torch.arange(5), None)[..., 0] for _ in range(calls)])
    assert torch.equal(found - found[..., :1], torch.arange(5.0).expand(calls, n_rows, 5))
    return found[..., 0].long()


def test_shape_shifts_each_row_of_a_training_batch_and_none_in_evaluation():
    """Kiyono et al. 2021: k ~ U{0 .. K}, one for each row; 0 when it is evaluated."""
    table = Learned(5 + 7, 1)
    table.table = torch.nn.Parameter(torch.arange(12.0)[:, None])
    position = SHAPE(table, train_len=5, max_shift=7)
    drawn = offsets(position, 40, 100)
    counts = torch.bincount(drawn.flatten(), minlength=8)
    assert len(counts) == 8 and counts.min() > 420 and counts.max() < 580  # 500 each
    assert not (drawn[:, :1] == drawn).all() and not (drawn[:1] == drawn).all()
    assert not offsets(position.eval(), 3, 2).any()
    saved, again = position.train().state_dict(), SHAPE(Learned(12, 1), 5, 7)
    again.load_state_dict(saved)
    assert torch.equal(offsets(again, 6, 3), offsets(position, 6, 3))  # a resumed run


@pytest.mark.parametrize("inner", [Sinusoidal(D_MODEL), Learned(564, D_MODEL)], ids=str)
def test_shape_is_its_embedding_at_shifted_positions(inner):
    """Rows of a batch are what the scheme itself gives each of them at its own offset."""
    torch.manual_seed(0)
    position, x = SHAPE(inner, train_len=64, max_shift=500), torch.randn(3, 64, D_MODEL)
    shifts = torch.randint(501, (3,), generator=torch.Generator().manual_seed(int(position.seed)))
    found = position.embed(x, torch.arange(64), None)
    for row, shift in enumerate(shifts.tolist()):
        expected = inner.embed(x[row : row + 1], torch.arange(shift, shift + 64), None)
        torch.testing.assert_close(found[row : row + 1], expected, rtol=0, atol=0)


def test_fractions_of_t5s_distances_do_not_depend_on_the_origin():
    """Interpolated by 1.5625 distance 25 is 16, on a border, from wherever it is counted."""
    torch.manual_seed(0)
    position = T5(4)
    model = Transformer(dims(), 50, [LayerEntry(lambda: position)])
    for factor in (1.5625, 3.0):
        changed = (
            PI(factor).extend(model, Full(), Lengths(64, 200, 200), lambda n, t: None).position
        )
        q, k, v = torch.randn(3, 1, 4, 200, HEAD_DIM)
        expected = Reference(Full(), 200, changed.double(), CPU)(
            q.double(), k.double(), v.double(), changed, q[:, 0].double()
        )
        found = Tiles(Blockwise(200), 200, changed.float(), CPU)(q, k, v, changed, q[:, 0])
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_fires_network_is_not_rounded_by_autocast():
    position = FIRE(4, 16)
    q, k, v = torch.randn(3, 1, 4, 300, HEAD_DIM)
    with torch.no_grad():
        position.mlp[2].weight *= 30  # so that rounding would be seen
        exact = Tiles(Full(), 300, position, CPU)(q, k, v, position, q[:, 0])
        with torch.autocast("cpu", torch.bfloat16):
            found = Tiles(Full(), 300, position, CPU)(q, k, v, position, q[:, 0])
    assert (found.float() - exact).square().mean().sqrt() < 0.004


def test_steep_xpos_in_patterns_that_reset_positions_is_refused_not_nan():
    position = XPosDecay(HEAD_DIM, scale_base=1)
    q, k, v = torch.randn(3, 1, 4, 600, HEAD_DIM)
    for pattern in (DualChunk(), Sinks(Blockwise())):
        attend = make_attend(pattern.fit(256, 600), 600, [position], CPU)
        with pytest.raises(NotDefined, match="XPosDecay overflows beyond"):
            attend(q, k, v, position, q[:, 0])


def test_sinks_need_room_in_the_trained_length():
    with pytest.raises(NotDefined, match="300 sinks leave no room in 128 trained tokens"):
        Sinks(n_sinks=300).fit(128, 600)


def test_tiles_in_float64_are_exact():
    position = ALiBi(4).double()
    q, k, v = torch.randn(3, 1, 4, 100, HEAD_DIM, dtype=torch.float64)
    expected = Reference(Full(), 100, position, CPU)(q, k, v, position, q[:, 0])
    found = Tiles(Full(), 100, position, CPU)(q, k, v, position, q[:, 0])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
