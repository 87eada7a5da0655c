"""Properties of schemes made of schemes, and messages that name what the user chose."""

import pytest
import torch
from torch import nn

from lexp.attention import Reference, make_attend
from lexp.extension import PI, Lengths, LogNScale, YaRN
from lexp.extension.fitted import HeadScaled
from lexp.extension.frequencies import Tempered
from lexp.extension.interpolation import BetweenRows, Interpolated
from lexp.extension.scale import Scaled
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Bidirectional, Full
from lexp.position import (
    DAPE,
    SHAPE,
    ALiBi,
    FoX,
    Learned,
    NoPE,
    Position,
    RandomFloats,
    RandomPositions,
    RoPE,
    Sum,
    TokenPositions,
    Wrapper,
    XPos,
)
from lexp.position.compose import (
    MERGED,
    MERGED_OF_BIASES,
    MERGED_OF_READERS,
    MERGED_OF_SCORES,
)
from lexp.position.random_positions import SampledPositions
from lexp.system.errors import NotDefined

CPU, HEAD_DIM, HEADS, N, L = torch.device("cpu"), 8, 2, 21, 8
HOOKS = (
    "sample_positions", "embed", "transform_qk", "scale", "rotary_factors", "rotary_factors_ahead",
    "angles", "log_decays", "bias", "attention_weights",
)  # fmt: skip
NAMES = sorted(set(Position.__annotations__) - {"frequencies", "bounds"})


class Other(ALiBi):
    """A scheme that has no property as the base class has it, bar those that would be refused."""

    shift_invariant = False
    relative = by_distance = by_token = by_length = two_sided = per_layer = reads_tokens = True
    n_earlier, max_span = 3, 7


class Bounded(Learned):
    """A table that has other properties than the base class too."""

    by_length = per_layer = True
    n_earlier, max_span = 3, 7


# How each wrapper is made around a scheme, what it sets itself, and which hooks it adds or takes.
WRAPPERS = {
    Tempered: (lambda inner: Tempered(inner, 1.5), set(), set()),
    Interpolated: (lambda inner: Interpolated(inner, 2.0), {"max_span"}, set()),
    BetweenRows: (lambda _: BetweenRows(Bounded(9, 4), 2.0), {"max_len"}, set()),
    Scaled: (lambda inner: Scaled(inner, 2.0), set(), {"scale"}),
    HeadScaled: (
        lambda inner: HeadScaled(inner, nn.Parameter(torch.full((1, 2, 1), 2.0)), 0),
        set(),
        {"scale"},
    ),
    RandomPositions: (RandomPositions, {"max_len"}, {"sample_positions"}),
    RandomFloats: (lambda inner: RandomFloats(inner, 16), set(), {"sample_positions"}),
    TokenPositions: (
        lambda _: TokenPositions(Bounded(14, 4), lambda tokens: tokens, 8, 4),
        {"max_len", "reads_tokens"},
        set(),
    ),
    SHAPE: (lambda _: SHAPE(Bounded(12, 4), 8, 4), set(), set()),
    DAPE: (lambda inner: DAPE(inner, 2), {"two_sided"}, {"bias", "attention_weights"}),
}


def all_subclasses(cls: type) -> set[type]:
    return {s for own in cls.__subclasses__() for s in (own, *all_subclasses(own))}


def test_every_wrapper_of_lexp_is_listed_here():
    ours = {cls for cls in all_subclasses(Wrapper) if cls.__module__.startswith("lexp.")}
    bases = {cls for cls in ours if cls.__subclasses__()}
    assert ours - bases == set(WRAPPERS)


def test_every_property_is_merged():
    assert {*MERGED, *MERGED_OF_READERS, *MERGED_OF_BIASES, *MERGED_OF_SCORES} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda cls: cls.__name__)
def test_a_wrapper_has_every_property_of_what_is_inside(wrapper, name):
    make, changed, _ = WRAPPERS[wrapper]
    if name in changed:
        return
    inner = Other(2)
    inner.reads_indices = not issubclass(wrapper, SampledPositions)  # these refuse it
    outer = make(inner)
    of_biases = name in MERGED_OF_BIASES and not outer.inner.has_bias
    assert getattr(outer, name) == (False if of_biases else getattr(outer.inner, name))


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("inner", [ALiBi(2), RoPE(8), XPos(8), Sum([RoPE(8), ALiBi(2)])], ids=str)
@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda cls: cls.__name__)
def test_a_wrapper_has_the_hooks_of_what_is_inside(wrapper, inner, hook):
    make, _, toggled = WRAPPERS[wrapper]
    if wrapper is DAPE and not inner.has_bias:
        pytest.skip("goes around a bias")
    outer = make(inner)
    assert outer.overrides(hook) == (outer.inner.overrides(hook) != (hook in toggled))


def test_a_sum_has_the_properties_of_its_parts():
    both = Sum([RoPE(8), Other(2)])
    assert both.by_length and both.per_layer and both.n_earlier == 3 and both.max_span == 7
    assert not both.shift_invariant and both.two_sided and both.by_distance and both.relative
    assert not Sum([RoPE(8), NoPE(), DAPE(ALiBi(2), 2)]).two_sided
    assert not both.reads_inputs and Sum([ALiBi(2), FoX(8, 2)]).reads_inputs
    changed = both.with_parts([Interpolated(RoPE(8), 2.0), Interpolated(Other(2), 2.0)])
    assert changed.max_span == 14 and both.max_span == 7
    assert changed.title == both.title == "RoPE + Other"


def extended(extension, position: Position) -> Position:
    """The scheme as extended in a model, from L tokens to N."""
    dims = Dims(n_layers=1, d_model=8, n_heads=HEADS, head_dim=HEAD_DIM, d_ff=8)
    model = Transformer(dims, 9, [LayerEntry(lambda: position)])
    return extension.extend(model, Full(), Lengths(L, N, N), lambda n, length: None).position


def two_sided_output(position: Position, qkv, sampled=None):
    attend = make_attend(Bidirectional(), N, [position], CPU)
    out = attend(*qkv, position, qkv[0][:, 0], sampled)
    reference = Reference(Bidirectional(), N, position, CPU)
    expected = reference(*qkv, position, qkv[0][:, 0], sampled)
    # A scale is in float32.
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6 if position.has_scale else 1e-10)
    return out


def by_formula(qkv, angle, temperature: float, decay=None) -> torch.Tensor:
    """Softmax of Re(q_i conj(k_j) exp(i angle(i - j))) decay(|i - j|) temperature / sqrt(d)."""
    q, k = (torch.view_as_complex(t[0].unflatten(-1, (-1, 2)).contiguous()) for t in qkv[:2])
    index = torch.arange(N, dtype=torch.float64)
    offset = (index[:, None] - index)[..., None]  # [N, N, 1]
    wave = torch.exp(1j * offset * angle)
    if decay is not None:
        wave = wave * decay ** offset.abs()
    scores = (q[:, :, None] * k[:, None].conj() * wave).real.sum(-1)
    weights = (scores * temperature / HEAD_DIM**0.5).softmax(-1)
    return (weights @ qkv[2][0])[None]


@pytest.fixture
def qkv():
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(3, 1, HEADS, N, HEAD_DIM, generator=generator, dtype=torch.float64))


THETA = torch.tensor([10000 ** (-2 * c / HEAD_DIM) for c in range(4)], dtype=torch.float64)


def test_yarn_pi_and_log_n_of_a_masked_rope_are_their_formulas(qkv):
    s = N / L
    found = two_sided_output(extended(PI(), RoPE(HEAD_DIM)), qkv)
    torch.testing.assert_close(found, by_formula(qkv, THETA / s, 1.0))
    scale = torch.log(torch.tensor(float(N))) / torch.log(torch.tensor(float(L)))
    found = two_sided_output(extended(LogNScale(), RoPE(HEAD_DIM)), qkv)
    # N keys are in sight of every query.
    torch.testing.assert_close(found, by_formula(qkv, THETA, scale.item()), rtol=0, atol=1e-6)
    slowed = YaRN(alpha=0.1, beta=2.0, ramp="turns")
    turns = L * THETA / (2 * torch.pi)
    kept = ((turns - 0.1) / 1.9).clamp(0, 1)
    t = 0.1 * torch.log(torch.tensor(s, dtype=torch.float64)) + 1
    expected = by_formula(qkv, THETA * (kept + (1 - kept) / s), (t**2).item())
    torch.testing.assert_close(two_sided_output(extended(slowed, RoPE(HEAD_DIM)), qkv), expected)


def test_extensions_change_what_xpos_does_with_keys_after_the_query_too(qkv):
    zeta = torch.tensor(XPos(HEAD_DIM).xi, dtype=torch.float64).exp()
    s = N / L
    found = two_sided_output(extended(PI(), XPos(HEAD_DIM)), qkv)
    torch.testing.assert_close(found, by_formula(qkv, THETA / s, 1.0, zeta ** (1 / s)))
    found = two_sided_output(Tempered(XPos(HEAD_DIM), 1.3), qkv)
    torch.testing.assert_close(found, by_formula(qkv, THETA, 1.69, zeta))


@pytest.mark.parametrize(
    "inner", [RoPE(8), ALiBi(HEADS), XPos(8), Sum([RoPE(8), ALiBi(HEADS)])], ids=str
)
@pytest.mark.parametrize("kind", [RandomPositions, lambda inner: RandomFloats(inner, 8)])
def test_sampled_positions_at_both_sides(inner, kind, qkv):
    position = kind(inner).eval()
    sampled = position.sample_positions(N)
    assert two_sided_output(position, qkv, sampled).isfinite().all()


def test_messages_name_the_scheme_that_the_user_chose():
    rope = extended(PI(), RoPE(HEAD_DIM))
    assert rope.title == "RoPE" and extended(LogNScale(), Sum([NoPE(), ALiBi(2)])).title == (
        "NoPE + ALiBi"
    )
    with pytest.raises(NotDefined, match="^yarn changes rotary frequencies, ALiBi has none"):
        extended(YaRN(), ALiBi(2))
    with pytest.raises(NotDefined, match="^XPos overflows beyond"):
        make_attend(Full(), 20, [Interpolated(SteepAbsolute(8), 1.0)], CPU)
    with pytest.raises(NotDefined, match=r"does not reach into DAPE\(ALiBi\)$"):
        extended(PI(), DAPE(ALiBi(2), 2))
    with pytest.raises(NotDefined, match=r"^RandomPositions\(RoPE\) was trained at positions"):
        extended(PI(), RandomPositions(RoPE(HEAD_DIM)))


class SteepAbsolute(XPos):
    """xPos that wants its positions counted from 0, over which it overflows at once."""

    shift_invariant = relative = False
    title = "XPos"

    def __init__(self, head_dim: int):
        super().__init__(head_dim)
        self.max_span = 3
