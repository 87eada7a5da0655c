"""Models of Hugging Face whose layers differ: logits, methods and pieces against transformers."""

import json
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest

transformers = pytest.importorskip("transformers", reason="needs the extra hf (transformers)")

import torch  # noqa: E402

from lexp.attention import make_attend  # noqa: E402
from lexp.extension import PI  # noqa: E402
from lexp.extension.base import Lengths  # noqa: E402
from lexp.extension.frequencies import YaRN  # noqa: E402
from lexp.extension.scale import LogNScale, UniformScale  # noqa: E402
from lexp.hf.config import describe  # noqa: E402
from lexp.hf.layers import in_turn  # noqa: E402
from lexp.hf.load import load_model  # noqa: E402
from lexp.hf.source import find_source  # noqa: E402
from lexp.instruments.base import AnalysisInput  # noqa: E402
from lexp.instruments.heads import Heads  # noqa: E402
from lexp.instruments.variance import embedded  # noqa: E402
from lexp.pattern import Blockwise, Full, InTurns, ReRoPE, Window, replaced  # noqa: E402
from lexp.scoring.protocol import Prefix  # noqa: E402
from lexp.scoring.scorer import Scorer  # noqa: E402
from lexp.system.errors import ConfigError, NotDefined  # noqa: E402
from support.evaluation import tokens_of  # noqa: E402
from support.hf import (  # noqa: E402  # noqa: E402
    HYBRID,
    LAYERED,
    LONG_FACTORS,
    TRAINED,
    VOCAB,
    WINDOW,
    logits,
    made,
    phi3,
    saved,
)

LONG = 3 * TRAINED + 1
# The windows that the layers of each config take in turns.
WINDOWS = {
    "gemma2": (WINDOW, None), "gemma3": (WINDOW, WINDOW, None),
    "cohere2": (WINDOW, WINDOW, WINDOW, None), "smollm3": (None,), "olmo2": (None,),
    "olmo3": (WINDOW, WINDOW, WINDOW, None), "ministral": (None, WINDOW, WINDOW, WINDOW),
    "phi3": (WINDOW,), "phi3-longrope": (None,), "gpt_oss": (WINDOW, None),
    "qwen2": (None, WINDOW, WINDOW),
}  # fmt: skip


class Opened(NamedTuple):
    model: object
    described: object
    trained: object


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Opens the checkpoint of a family, made once."""
    known = {}

    def open_(name, nope=False):
        if (name, nope) not in known:
            folder = saved(LAYERED[name](), tmp_path_factory.mktemp(name), tokenizer=False)
            source = find_source(str(folder))
            described = describe(source)
            if nope:
                described = described.without_positions()
            patterns = tuple(Full() if w is None else Window(w) for w in described.windows)
            trained = InTurns(patterns) if len(patterns) > 1 else patterns[0]
            known[name, nope] = Opened(load_model(source, described), described, trained)
        return known[name, nope]

    return open_


def ours(model, tokens, pattern):
    with torch.no_grad():
        attend = make_attend(pattern, tokens.shape[1], model.schemes, tokens.device)
        return model(tokens, attend)


def draw(n, batch=1):
    return torch.randint(VOCAB, (batch, n), generator=torch.Generator().manual_seed(n))


def apart(a, b):
    return float((a - b).abs().max())


@pytest.mark.parametrize("name", LAYERED)
def test_logits_are_those_of_transformers(name, opened):
    """Windows, positions and scores by layer; LongRoPE's factors on both sides of their limit."""
    one = opened(name)
    assert one.described.windows == WINDOWS[name]
    for n in [TRAINED // 2, TRAINED // 2 + 1, LONG]:
        theirs = logits(LAYERED[name](), draw(n))
        assert theirs.std() > 0.3
        assert apart(ours(one.model, draw(n), one.trained), theirs) < 1e-4
    if one.trained != Full():
        assert apart(ours(one.model, draw(LONG), Full()), theirs) > 1e-2


def without_scores_of_their_own(position):
    return position.parts[0]


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss"])
def test_the_test_above_would_notice_plain_softmax(name, opened):
    model, _, trained = opened(name)
    schemes = [without_scores_of_their_own(position) for position in model.schemes]
    right = ours(model, draw(LONG), trained)
    with torch.no_grad():
        attend = make_attend(trained, LONG, schemes, right.device)
        x = model.embedding(draw(LONG))
        for block, scheme in zip(model.blocks, schemes, strict=True):
            x = block(x, scheme, attend, None)
        assert apart(model.head(model.norm(x)), right) > 1e-2


def masked(config, tokens, mask):
    """Logits of transformers with another mask in the layers that see everything."""
    n = tokens.shape[1]
    i, j = torch.arange(n)[:, None], torch.arange(n)
    own = torch.where((j <= i) & (j > i - WINDOW), 0.0, -1e30)[None, None]
    masks = {"full_attention": mask, "sliding_attention": own}
    with torch.no_grad():
        return made(config)(tokens, use_cache=False, attention_mask=masks).logits


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "olmo3", "ministral", "gpt_oss"])
def test_a_method_replaces_full_attention_alone(name, opened):
    """Blocks as in Sun et al. 2022, section 3.2, in global layers; windows stay in local ones."""
    model, _, trained = opened(name)
    i, j = torch.arange(LONG)[:, None], torch.arange(LONG)
    blocks = torch.where((j <= i) & (i // 12 - j // 12 <= 1), 0.0, -1e30)[None, None]
    theirs = masked(LAYERED[name](), draw(LONG), blocks)
    found = ours(model, draw(LONG), replaced(trained, Blockwise(12)))
    assert apart(found, theirs) < 1e-4
    assert apart(ours(model, draw(LONG), trained), theirs) > 1e-2
    assert apart(ours(model, draw(LONG), Blockwise(12)), theirs) > 1e-2


def test_full_attention_by_name_is_what_the_layers_have(opened):
    _, _, trained = opened("gemma2")
    assert replaced(trained, Full()) == trained


def test_what_moves_positions_is_undefined_where_the_replaced_layers_have_none(opened):
    model, _, trained = opened("cohere2")
    with pytest.raises(NotDefined, match=r"rerope .*NoPE \(layer 4\) has none"):
        ours(model, draw(LONG), replaced(trained, ReRoPE(8)))
    model, _, trained = opened("gemma3")
    moved = ours(model, draw(LONG), replaced(trained, ReRoPE(8)))
    assert apart(moved, ours(model, draw(LONG), trained)) > 1e-2


def linear(config, factor):
    """The same config with its rotary positions interpolated, for transformers to compute."""
    parameters = config.rope_parameters
    if parameters["rope_type"] == "longrope":
        both = ("short_factor", "long_factor")
        new = {key: [x * factor for x in parameters[key]] for key in both}
    else:
        new = {"rope_type": "linear", "factor": factor}
    config.rope_parameters = {**parameters, **new}
    return config


@pytest.mark.parametrize("name", ["smollm3", "cohere2", "gemma2", "phi3-longrope"])
def test_extensions_change_the_layers_that_rotate(name, opened):
    """Positions divided by 2 (PI) where there are some; beside them NoPE, caps and windows stay."""
    model, _, trained = opened(name)
    extended = PI(2.0).extend(model, trained, Lengths(TRAINED, LONG, LONG), None)
    theirs = logits(linear(LAYERED[name](), 2.0), draw(LONG))
    assert apart(ours(extended, draw(LONG), trained), theirs) < 1e-4
    assert apart(ours(model, draw(LONG), trained), theirs) > 1e-2


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss"])
@pytest.mark.parametrize("extension", [LogNScale(), UniformScale(2.0)])
def test_scales_are_undefined_where_softmax_is_the_layers_own(name, extension, opened):
    model, _, trained = opened(name)
    with pytest.raises(NotDefined, match="weighs its own way"):
        extension.extend(model, trained, Lengths(TRAINED, LONG, LONG), None)


def test_layers_of_one_kind_share_a_scheme_extended_or_not(opened):
    model, _, trained = opened("gemma3")
    extended = YaRN(4.0).extend(model, trained, Lengths(TRAINED, LONG, LONG), None)
    for schemes in (model.schemes, extended.schemes):
        assert [id(scheme) for scheme in schemes] == [
            id(schemes[2 if n % 3 == 2 else 0]) for n in range(5)
        ]
    assert len({id(scheme) for scheme in (*model.schemes, *extended.schemes)}) == 4


def test_the_shortest_list_that_layers_take_in_turns():
    assert in_turn("aabaaba") == "aab"
    assert in_turn("aaaa") == "a"
    assert in_turn("aab") == "aab"


@pytest.mark.parametrize("name", ["olmo3", "gpt_oss", "phi3-longrope"])
def test_rotary_positions_can_be_taken_away(name, opened):
    """As published code does it at run time: every angle is 0, and nothing else changes."""
    model, _, trained = opened(name, nope=True)
    theirs = made(LAYERED[name]())
    rotary = theirs.model.rotary_emb
    rotary.register_forward_hook(lambda *call: (torch.ones(1, 1, 1), torch.zeros(1, 1, 1)))
    with torch.no_grad():
        expected = theirs(draw(LONG), use_cache=False).logits
    assert apart(ours(model, draw(LONG), trained), expected) < 1e-4
    assert apart(logits(LAYERED[name](), draw(LONG)), expected) > 1e-2
    assert not any(scheme.reads_positions for scheme in model.schemes)


@pytest.mark.parametrize("name", ["gemma2", "cohere2", "gpt_oss"])
def test_long_texts_in_pieces_are_what_one_pass_gives(name, opened):
    """The field of the last token is the sum of the layers' lookbacks."""
    model, _, trained = opened(name)
    tokens = tokens_of(400)
    (window,) = Prefix().windows(Prefix().spans(tokens, [399], None)[0], 399)
    pattern = replaced(trained, Blockwise(8))
    whole, streamed = (Scorer(model, pattern, nullcontext(), n) for n in (1000, 16))
    assert len(whole.pieces([window])) == 1 and len(streamed.pieces([window])) > 2
    expected = whole.score(tokens, [window])
    np.testing.assert_allclose(streamed.score(tokens, [window]), expected, rtol=0, atol=2e-5)
    # One layer that sees everything needs the text as a whole.
    assert len(Scorer(model, trained, nullcontext(), 16).pieces([window])) == 1


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss"])
def test_entropy_of_heads_is_that_of_transformers_weights(name, opened):
    """Soft caps and sinks included; of what the keys get, a sink's part left out."""
    model, _, trained = opened(name)
    text = draw(TRAINED)
    with torch.no_grad():
        weights = made(LAYERED[name]())(text, use_cache=False, output_attentions=True).attentions
    rows = Heads().measure(AnalysisInput(model, trained, text, TRAINED, "trained")).rows
    found = {(r["layer"], r["head"]): r["value"] for r in rows if r["measure"] == "entropy"}
    for layer, of_layer in enumerate(weights):
        w = of_layer[0].double()
        w = w / w.sum(-1, keepdim=True)
        entropy = -(w * w.clamp(min=1e-300).log()).sum(-1)[:, 1:].mean(-1)
        for head, expected in enumerate(entropy.tolist()):
            assert found[layer, head] == pytest.approx(expected, abs=1e-5)


def test_normal_inputs_have_the_scale_of_what_the_layers_get(opened):
    """Gemma multiplies embeddings by sqrt(d_model)."""
    model, _, _ = opened("gemma2")
    usual = model.embedding(draw(200)).std()
    with embedded(model, 1), torch.no_grad():
        assert model.embedding(draw(200)).std() == pytest.approx(float(usual), rel=0.05)


def dynamic(name):
    config = LAYERED[name]()
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    nested = "rope_type" not in config.rope_parameters
    parameters = {**config.rope_parameters, "full_attention": rope} if nested else rope
    return {**config.to_dict(), "rope_parameters": parameters}


# What is refused, and words of the line.
REFUSED = {
    "dynamic": (partial(dynamic, "gemma2"), "rope_type 'dynamic' changes with the length"),
    "dynamic-in-some-layers": (
        partial(dynamic, "olmo3"),
        "rope_type 'dynamic' changes with the length",
    ),
    "chunks": (
        lambda: {
            **LAYERED["ministral"]().to_dict(),
            "layer_types": ["chunked_attention", *["full_attention"] * 3],
        },
        "layer_types chunked_attention: only full_attention and sliding_attention",
    ),
    "no-window": (
        lambda: {**LAYERED["gpt_oss"]().to_dict(), "sliding_window": None},
        "sliding_window=None",
    ),
    "both-sides": (
        lambda: {**LAYERED["gemma3"]().to_dict(), "use_bidirectional_attention": True},
        "use_bidirectional_attention=True",
    ),
    "quantised": (
        lambda: {
            **LAYERED["gpt_oss"]().to_dict(),
            "quantization_config": {"quant_method": "mxfp4"},
        },
        "quantization_config=",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_said_before_any_weight_is_read(case, tmp_path):
    config, words = REFUSED[case]
    (tmp_path / "config.json").write_text(json.dumps(config()))
    (tmp_path / "model.safetensors").write_text("no weights")
    with pytest.raises(ConfigError) as caught:
        describe(find_source(str(tmp_path)))
    assert words in str(caught.value) and str(tmp_path) in str(caught.value)


def test_only_rotary_positions_can_be_taken_away(tmp_path):
    source = find_source(str(saved(transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=8, n_layer=1, n_head=1, n_positions=8
    ), tmp_path, tokenizer=False)))  # fmt: skip
    with pytest.raises(ConfigError, match="a gpt2 model has learned ones"):
        describe(source).without_positions()


def test_factors_of_longrope_follow_the_length_of_the_whole_text(tmp_path):
    """A text one token past the limit has the long factors at its first tokens too."""
    most = TRAINED // 2
    config = partial(phi3, original_max_position_embeddings=most)
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75}
    source = find_source(
        str(saved(config(rope_parameters={**rope, **LONG_FACTORS}), tmp_path, tokenizer=False))
    )
    model = load_model(source, describe(source))
    for n, factors in ((most, "short_factor"), (most + 1, "long_factor")):
        same = dict.fromkeys(LONG_FACTORS, LONG_FACTORS[factors])
        expected = logits(config(rope_parameters={**rope, **same}), draw(most + 1))[:, :n]
        assert apart(ours(model, draw(most + 1)[:, :n], Full()), expected) < 1e-4


def test_hybrid_configs_of_the_tests_are_longer_than_their_window():
    assert HYBRID["sliding_window"] < TRAINED // 2 < LONG
