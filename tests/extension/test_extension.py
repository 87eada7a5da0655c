"""Inference-time extensions against their papers, and which scheme each is defined for."""

import math

import pytest
import torch

from lexp.attention import Reference, make_attend
from lexp.config.instantiate import build
from lexp.extension import (
    NTK,
    PI,
    DroPE,
    DynamicNTK,
    Extension,
    Lengths,
    LocalIndex,
    LogNScale,
    LongRoPE,
    NTKByParts,
    Resonance,
    ResonanceYaRN,
    UniformScale,
    VectorReplacement,
    YaRN,
    with_schemes,
)
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Transformer
from lexp.pattern import Blockwise, Full
from lexp.position import DAPE, FIRE, HoPE, Learned, NoPE, RoPE, Sinusoidal, Sum, XPos
from lexp.position.alibi import ALiBi
from lexp.system.errors import NotDefined
from support.config import choices
from support.schemes import HEAD_DIM, SCHEMES, dims, make

CPU = torch.device("cpu")
L = 64
LENGTHS = Lengths(train_len=L, length=256, longest=512)  # s = 8, or 4 for the length itself
BASE = 10000.0
FULL = Full()


def no_sample(n: int, length: int) -> torch.Tensor:
    raise AssertionError("this extension measures nothing")


def changed(extension: Extension, position, lengths: Lengths = LENGTHS, pattern=FULL):
    """The scheme as extended in a model that has no other."""
    model = Transformer(dims(), 50, [LayerEntry(lambda: position)])
    return extension.extend(model, pattern, lengths, no_sample).position


def angles(position) -> list[float]:
    """The angle by which each channel pair turns in one token."""
    one = torch.ones(1, dtype=torch.float64)
    return position.rotary_factors(one, one, 1)[0][0].angle().tolist()


def test_pi_squeezes_positions():
    theta = [BASE ** (-2 * c / HEAD_DIM) for c in range(HEAD_DIM // 2)]
    assert angles(changed(PI(), RoPE(HEAD_DIM))) == pytest.approx([t / 8 for t in theta])
    assert angles(changed(PI("length"), RoPE(HEAD_DIM))) == pytest.approx([t / 4 for t in theta])
    assert angles(changed(PI(2.5), RoPE(HEAD_DIM))) == pytest.approx([t / 2.5 for t in theta])


def test_pi_of_a_bias_is_the_bias_of_smaller_distances():
    """ALiBi's slopes divided by s; at a length within training as it was."""
    q = torch.randn(1, 4, 30, HEAD_DIM, dtype=torch.float64)
    whole, squeezed = ALiBi(4).double(), ALiBi(4).double()
    squeezed.slopes = squeezed.slopes / 8
    out = [
        Reference(Full(), 30, p, CPU)(q, q, q, p, q[:, 0])
        for p in (squeezed, changed(PI(), whole), whole,
                  changed(PI("length"), whole, Lengths(L, 32, 512)))
    ]  # fmt: skip
    torch.testing.assert_close(out[1], out[0])
    torch.testing.assert_close(out[3], out[2])
    assert not torch.allclose(out[1], out[2])


def test_pi_of_embeddings_reads_between_their_rows():
    position = Learned(4, 3)
    x, at = torch.zeros(1, 6, 3), torch.arange(6)
    found = changed(PI(2.0), position).embed(x, at, None)[0]
    rows = position.table
    wanted = [rows[0], (rows[0] + rows[1]) / 2, rows[1], (rows[1] + rows[2]) / 2, rows[2],
              (rows[2] + rows[3]) / 2]  # fmt: skip
    torch.testing.assert_close(found, torch.stack(wanted))
    assert changed(PI(2.0), position).max_len == 8
    wave = Sinusoidal(8)
    half = changed(PI(2.0), wave).embed(torch.zeros(1, 6, 8), at, None)
    torch.testing.assert_close(half, wave.embed(torch.zeros(1, 6, 8), at / 2, None))


def test_ntk_changes_the_base():
    """bloc97: base s^(d / (d - 2))."""
    base = BASE * 8 ** (HEAD_DIM / (HEAD_DIM - 2))
    wanted = [base ** (-2 * c / HEAD_DIM) for c in range(HEAD_DIM // 2)]
    assert angles(changed(NTK(), RoPE(HEAD_DIM))) == pytest.approx(wanted)


def test_dynamic_ntk_follows_the_length():
    """Hugging Face: base (s len / L - (s - 1))^(d / (d - 2)) past L."""
    for factor, now in ((None, 4.0), (2.0, 2.0 * 4 - 1)):
        base = BASE * now ** (HEAD_DIM / (HEAD_DIM - 2))
        wanted = [base ** (-2 * c / HEAD_DIM) for c in range(HEAD_DIM // 2)]
        assert angles(changed(DynamicNTK(factor), RoPE(HEAD_DIM))) == pytest.approx(wanted)
    short = changed(DynamicNTK(), RoPE(HEAD_DIM), Lengths(L, 64, 512))
    assert angles(short) == pytest.approx(angles(RoPE(HEAD_DIM)))


def test_ntk_by_parts_ramps_over_turns():
    """Peng et al. 2023, equations 17 to 20, at head_dim 32 trained at 256."""
    wanted = []
    for c in range(16):
        theta = BASE ** (-2 * c / 32)
        r = 256 / (2 * math.pi / theta)
        gamma = 0 if r < 1 else 1 if r > 32 else (r - 1) / 31
        wanted.append((1 - gamma) * theta / 4 + gamma * theta)
    found = angles(changed(NTKByParts(), RoPE(32), Lengths(256, 1024, 1024)))
    assert found == pytest.approx(wanted)
    assert found[0] == pytest.approx(1.0) and found[-1] == pytest.approx(BASE ** (-30 / 32) / 4)


def test_yarn_is_the_released_ramp_and_temperature():
    """jquesnelle/yarn: whole channels between the two correction dimensions; 0.1 ln s + 1."""
    d, trained, s = 128, 4096, 16.0

    def dimension(turns):
        return d * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(BASE))

    low, high = math.floor(dimension(32)), math.ceil(dimension(1))
    assert (low, high) == (20, 46)
    wanted = []
    for c in range(d // 2):
        theta, share = BASE ** (-2 * c / d), min(1, max(0, (c - low) / (high - low)))
        wanted.append(theta / s * share + theta * (1 - share))
    position = changed(YaRN(16.0), RoPE(d), Lengths(trained, 65536, 65536))
    assert angles(position) == pytest.approx(wanted)
    one = torch.ones(1, dtype=torch.float64)
    q, k = position.rotary_factors(one, one, 1)
    assert q.abs()[0].tolist() == pytest.approx([0.1 * math.log(16) + 1] * (d // 2))
    assert k.abs()[0].tolist() == pytest.approx([0.1 * math.log(16) + 1] * (d // 2))


def test_a_ramp_over_channels_needs_two_of_them():
    for position in (RoPE(2), HoPE(HEAD_DIM, 8)):
        with pytest.raises(NotDefined, match="yarn needs two rotating channel pairs"):
            changed(YaRN(), position)


def test_resonance_rounds_wavelengths_to_whole_tokens():
    """Wang et al. 2024: 2 pi / theta, rounded, of RoPE's and of YaRN's frequencies."""
    wanted = []
    for c in range(16):
        wavelength = 2 * math.pi * BASE ** (2 * c / 32)
        wanted.append(2 * math.pi / int(wavelength + 0.5))
    resonant = changed(Resonance(), RoPE(32))
    assert angles(resonant) == pytest.approx(wanted, rel=1e-12)
    at = torch.arange(0, 61, 6, dtype=torch.float64)  # the fastest pair: 6.28 tokens, now 6
    turned, _ = resonant.rotary_factors(at, at, 61)
    torch.testing.assert_close(turned[:, 0], torch.ones_like(turned[:, 0]))
    lengths = Lengths(256, 1024, 1024)
    slow, both = (changed(kind(), RoPE(32), lengths) for kind in (YaRN, ResonanceYaRN))
    rounded = [2 * math.pi / int(2 * math.pi / theta + 0.5) for theta in angles(slow)]
    assert angles(both) == pytest.approx(rounded, rel=1e-12)
    one = torch.ones(1, dtype=torch.float64)
    lengths_of = [position.rotary_factors(one, one, 1)[0].abs() for position in (slow, both)]
    torch.testing.assert_close(*lengths_of)
    with pytest.raises(NotDefined, match="resonance rounds wavelengths, ALiBi has none to round"):
        changed(Resonance(), ALiBi(4))
    with pytest.raises(NotDefined, match="RoPE has none to round"):
        changed(Resonance(), resonant)


def test_longrope_divides_each_frequency():
    divisors = [1.0, 1.5, 3.0, 8.0]
    position = changed(LongRoPE(8.0, divisors), RoPE(HEAD_DIM))
    theta = [BASE ** (-2 * c / HEAD_DIM) for c in range(4)]
    assert angles(position) == pytest.approx([t / x for t, x in zip(theta, divisors, strict=True)])
    q, _ = position.rotary_factors(*[torch.ones(1, dtype=torch.float64)] * 2, 1)
    assert abs(q[0, 0]) == pytest.approx(math.sqrt(1 + math.log(8) / math.log(64)))
    with pytest.raises(NotDefined, match="2 divisors for 4 channel pairs"):
        changed(LongRoPE(8.0, [1.0, 2.0]), RoPE(HEAD_DIM))
    with pytest.raises(ValueError, match="one number from 1 for each channel pair"):
        LongRoPE()


def test_xpos_keeps_its_decay_when_its_rotation_is_slowed():
    position = changed(NTK(), XPos(HEAD_DIM))
    assert position.xi == XPos(HEAD_DIM).xi
    assert angles(position) == pytest.approx(angles(changed(NTK(), RoPE(HEAD_DIM))))


def rows_scaled(q, scale: list[float]) -> torch.Tensor:
    """Causal attention of q with itself, row i's scores times scale[i]."""
    scores = q @ q.T / math.sqrt(HEAD_DIM)
    out = [
        (scores[i, : i + 1] * scale[i]).softmax(0) @ q[: i + 1] for i in range(len(q))
    ]  # fmt: skip
    return torch.stack(out)


@pytest.mark.parametrize(
    ("extension", "scale"),
    [
        (LogNScale(), [max(1, math.log(i + 1) / math.log(64)) if i else 1 for i in range(256)]),
        (UniformScale(), [1 + 0.3973 * math.log(4)] * 256),
        (UniformScale(1.8), [1.8] * 256),
        (DroPE(), [1 + 0.412 * math.log(4)] * 256),
    ],
    ids=lambda v: getattr(v, "label", ""),
)
def test_scales_multiply_the_scores(extension, scale):
    q = torch.randn(256, HEAD_DIM, dtype=torch.float64)
    for before in [
        NoPE(), RoPE(HEAD_DIM) if isinstance(extension, DroPE) else Sum([NoPE(), NoPE()])
    ]:  # fmt: skip
        position = changed(extension, before)
        out = Reference(Full(), 256, position, CPU)(*[q[None, None]] * 3, position, q[None])
        torch.testing.assert_close(out[0, 0], rows_scaled(q, scale))
        single = q.float()[None, None]
        fast = make_attend(Full(), 256, [position], CPU)(*[single] * 3, position, single[0])
        torch.testing.assert_close(fast[0, 0], rows_scaled(q, scale).float(), rtol=0, atol=1e-5)


def test_fires_local_index_starts_again_with_the_keys_in_sight():
    """Under blockwise attention rows of the third block equal those of the second."""
    torch.manual_seed(0)
    position = FIRE(4, 16).double()
    q = torch.randn(1, 4, 16, HEAD_DIM, dtype=torch.float64).repeat(1, 1, 5, 1)
    for extension, same in ((LocalIndex(), True), (Extension(), False)):
        own = changed(extension, position, pattern=Blockwise(16))
        out = Reference(Blockwise(16), 80, own, CPU)(q, q, q, own, q[:, 0])
        assert torch.allclose(out[:, :, 16:32], out[:, :, 64:80]) == same


def test_vector_replacement_spreads_the_trained_vectors():
    """Recomputed by hand: the first layer's mean outputs, stretched, in place of its own."""
    torch.manual_seed(0)
    model = Transformer(dims(), 50, [LayerEntry(NoPE)])
    texts = torch.randint(0, 50, (3, 40))
    lengths = Lengths(train_len=12, length=40, longest=40)
    extension = VectorReplacement(layer=1, alpha=1.3, keep=4, n_texts=3)
    other = extension.extend(model, Full(), lengths, lambda n, length: texts[:n, :length])
    attend = make_attend(Full(), 40, model.schemes, CPU)
    first, second = model.blocks
    with torch.no_grad():
        p = torch.stack([first(model.embedding(t)[None], model.position, attend, None)[0]
                         for t in texts]).mean(0)  # fmt: skip
        new = p.clone()
        for t in range(4, 40):
            at = 4 + (t - 4) * (11 - 4) / (39 - 4)
            low = min(int(at), 10)
            new[t] = 1.3 * (p[low] + (at - low) * (p[low + 1] - p[low]))
        h = first(model.embedding(texts[:1]), model.position, attend, None)
        h = torch.cat([h[:, :4], h[:, 4:] - p[4:] + new[4:]], dim=1)
        wanted = model.head(model.norm(second(h, model.position, attend, None)))
        found = other(texts[:1], attend)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    with pytest.raises(NotDefined, match="keeps 11 of 12 vectors"):
        VectorReplacement(keep=11).extend(model, Full(), lengths, no_sample)
    within = Lengths(train_len=12, length=12, longest=40)
    assert extension.extend(model, Full(), within, no_sample) is model


def test_extensions_of_hybrids_change_the_layers_and_parts_they_can():
    theta = angles(RoPE(HEAD_DIM))
    model = Transformer(dims(), 50, [LayerEntry(lambda: RoPE(HEAD_DIM)), LayerEntry(NoPE)])
    first, second = NTK().extend(model, Full(), LENGTHS, no_sample).schemes
    assert angles(first) != pytest.approx(theta) and isinstance(second, NoPE)
    whole = Sum([RoPE(HEAD_DIM), ALiBi(4)])
    assert angles(changed(NTK(), whole)) == pytest.approx(angles(first))
    assert angles(whole) == pytest.approx(theta), "the given scheme stays as it is"


def turns(position) -> bool:
    """Whether the scheme, or a part of it, turns queries by an angle that grows with positions."""
    at = torch.arange(1, 4, dtype=torch.float64)
    factors = position.rotary_factors(at, at, 3)
    return factors is not None and bool(factors[0].angle().abs().max() > 0)


def defined(name: str, position) -> bool:
    """Whether an extension has a meaning for a layer's scheme, by what its hooks do."""
    if name == "none":
        return True
    if position.samples_positions or isinstance(position, DAPE):
        return False
    if name == "pi":
        absolute = position.has_embedding and not position.reads_tokens
        return position.reads_positions or absolute
    if name in ("ntk", "dynamic_ntk", "ntk_by_parts", "yarn", "longrope") or "resonance" in name:
        return turns(position)
    if name in ("log_n", "uniform_scale", "head_scale", "fitted_scale"):
        return not position.has_attention_weights and not position.has_scale
    if name == "drope":
        bare = isinstance(position, NoPE) or turns(position)
        return bare and not position.has_attention_weights and not position.transforms_qk
    return isinstance(position, {"local_index": FIRE, "vector_replacement": NoPE}[name])


@pytest.mark.parametrize("name", choices("extension"))
def test_each_extension_is_defined_where_it_means_something(name):
    """And leaves the model it was given alone; elsewhere it says why not."""
    type_name, pattern = type_of(name), Blockwise(32) if name == "local_index" else FULL
    for scheme in SCHEMES:
        torch.manual_seed(0)
        model = Transformer(dims(), 50, [LayerEntry(lambda: make(scheme))]).eval()  # noqa: B023
        node = {"_target_": f"lexp.extension.{type_name}"}
        if name == "longrope":
            pairs = [len(part.frequencies) for part in model.position.parts]
            node["divisors"] = [2.0] * max(1, *pairs)
        extension = build(node, Extension, name)
        tokens = torch.randint(0, 50, (1, 80))
        given = model, pattern, Lengths(L, 80, 80), lambda n, t: tokens[:, :t]  # noqa: B023
        schemes = [make(scheme)]
        some = all if name == "vector_replacement" else any
        if not some(defined(name, position) for position in schemes):
            with pytest.raises(NotDefined, match=".{21}"):
                extension.extend(*given)
            continue
        before = model(tokens[:, :L], make_attend(Full(), L, model.schemes, CPU))
        other = extension.extend(*given)
        n = min(80, other.position.max_len or 80)
        assert other(tokens[:, :n], make_attend(Full(), n, other.schemes, CPU)).isfinite().all()
        after = model(tokens[:, :L], make_attend(Full(), L, model.schemes, CPU))
        assert torch.equal(after, before)


@pytest.mark.parametrize("scheme", ["cope", "path", "path_fox", "swat", "transformer_xl"])
@pytest.mark.parametrize("extension", [LogNScale(), UniformScale(), DroPE()])
def test_schemes_that_make_their_own_weights_are_not_said_to_lack_a_softmax(scheme, extension):
    """CoPE, PaTH and Transformer-XL have one; what they weigh by is more than scaled scores."""
    with pytest.raises(NotDefined, match=r"scales scores, [\w +]+ weighs its own way$"):
        changed(extension, make(scheme))


def type_of(name: str) -> str:
    """The class that a choice of the extension group builds."""
    from lexp.config.schema import plain
    from support.config import compose

    needs = ["extension.longrope.divisors=[2]"] if name == "longrope" else []
    node = plain(compose("eval", f"extension=[{name}]", *needs))["extension"][name]
    return node["_target_"].rpartition(".")[2]


@pytest.mark.parametrize(
    "make_it",
    [lambda: PI(0.5), lambda: NTK("long"), lambda: YaRN(ramp="x"), lambda: NTKByParts(alpha=40.0),
     lambda: UniformScale(0.0), lambda: DroPE(-1.0), lambda: VectorReplacement(layer=0)],
)  # fmt: skip
def test_values_out_of_range_are_refused(make_it):
    with pytest.raises(ValueError, match="must|needs"):
        make_it()


def test_labels_show_what_was_chosen():
    chosen = [PI(), PI(8), PI("length"), UniformScale(1.2), YaRN(beta=8.0), DroPE(0.1)]
    labels = [extension.label for extension in chosen]
    assert labels == ["pi", "pi-8", "pi-length", "uniform_scale-1.2", "yarn-beta=8", "drope-0.1"]
    first, second = LongRoPE(None, [1.0, 2.0]).label, LongRoPE(None, [1.0, 3.0]).label
    assert first != second and len(first) < 40


def test_with_schemes_shares_the_weights():
    model = Transformer(dims(), 50, [LayerEntry(lambda: RoPE(HEAD_DIM))])
    other = with_schemes(model, [NoPE()])
    assert isinstance(other.position, NoPE) and isinstance(model.position, RoPE)
    assert other.head.weight is model.head.weight
