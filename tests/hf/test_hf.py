"""Models of Hugging Face under lexp's attention: the same numbers as transformers where no method
is applied, and methods as transformers or a formula written here has them."""

import json

import pytest

transformers = pytest.importorskip("transformers", reason="needs the extra hf (transformers)")

import torch  # noqa: E402
from transformers import AttentionInterface  # noqa: E402
from transformers.models.llama.modeling_llama import rotate_half  # noqa: E402

from lexp.attention import make_attend  # noqa: E402
from lexp.evaluate import refuse_beyond  # noqa: E402
from lexp.extension import PI  # noqa: E402
from lexp.extension.base import Lengths  # noqa: E402
from lexp.extension.frequencies import NTK, DynamicNTK, YaRN  # noqa: E402
from lexp.hf.config import describe  # noqa: E402
from lexp.hf.load import fresh_model, load_model  # noqa: E402
from lexp.hf.source import find_source  # noqa: E402
from lexp.instruments.base import AnalysisInput  # noqa: E402
from lexp.instruments.heads import Heads  # noqa: E402
from lexp.instruments.receptive import Receptive  # noqa: E402
from lexp.pattern import Blockwise, Full, ReRoPE, Window  # noqa: E402
from lexp.system.errors import NotDefined  # noqa: E402
from support.hf import (  # noqa: E402
    CLASSES,
    CONFIGS,
    LLAMA,
    TRAINED,
    VOCAB,
    llama,
    logits,
    made,
    rope,
    saved,
)  # fmt: skip

LONG = 3 * TRAINED + 1


def opened(folder):
    source = find_source(str(folder))
    return load_model(source, describe(source))


def ours(model, tokens, pattern=None, first=0):
    with torch.no_grad():
        attend = make_attend(pattern or Full(), tokens.shape[1], model.schemes, tokens.device)
        return model.head(model.hidden(tokens, attend, first))


def draw(n, batch=2):
    return torch.randint(VOCAB, (batch, n), generator=torch.Generator().manual_seed(n))


def apart(a, b):
    return float((a - b).abs().max())


# Learned tables and MPT's bias tensor end at the trained length in transformers.
ENDS = ("gpt2", "mpt")


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(name, tmp_path):
    model = opened(saved(CONFIGS[name](), tmp_path))
    for n in [5, TRAINED] if name.startswith(ENDS) else [5, TRAINED, LONG]:
        theirs = logits(CONFIGS[name](), draw(n))
        assert theirs.std() > 0.3
        assert apart(ours(model, draw(n)), theirs) < 1e-4


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gpt2", "bloom"])
def test_the_tests_above_would_notice_a_wrong_position(name, tmp_path):
    """Scored as if at another position, or without them, logits are far from those."""
    model = opened(saved(CONFIGS[name](), tmp_path))
    right = ours(model, draw(TRAINED))
    if name == "gpt2":
        assert apart(ours(model, draw(TRAINED)[:, 1:], first=1), right[:, :-1]) > 0.1
        return
    squeezed = PI(2.0).extend(model, Full(), Lengths(TRAINED, TRAINED, TRAINED), None)
    assert apart(ours(squeezed, draw(TRAINED)), right) > 1e-2


def test_what_has_a_learned_table_ends_with_it(tmp_path):
    model = opened(saved(CONFIGS["gpt2"](), tmp_path))
    refuse_beyond(model, TRAINED)
    with pytest.raises(NotDefined, match="ends at 32 tokens"):
        refuse_beyond(model, TRAINED + 1)


@pytest.mark.parametrize(
    "kind, raw",
    [
        ("llama", {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}),
        ("llama", {"rope_theta": 5e5}),
        ("gpt_neox", {"rotary_pct": 0.25, "rotary_emb_base": 25000}),
    ],
)
def test_configs_of_older_files_read_as_transformers_reads_them(kind, raw, tmp_path):
    saved(CONFIGS[kind](), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    path.write_text(json.dumps({**config, **raw}))
    theirs = getattr(transformers, CLASSES[kind]).from_pretrained(
        tmp_path, attn_implementation="eager", dtype=torch.float32
    )
    with torch.no_grad():
        expected = theirs(draw(LONG), use_cache=False).logits
    assert apart(expected, logits(CONFIGS[kind](), draw(LONG))) > 1e-3
    assert apart(ours(opened(tmp_path), draw(LONG)), expected) < 1e-4


def test_weights_of_half_precision_and_in_pieces(tmp_path):
    half = made(CONFIGS["qwen2"]()).to(torch.bfloat16)
    half.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(find_source(str(tmp_path)).weights) > 2
    theirs = transformers.Qwen2ForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", dtype=torch.float32
    )
    with torch.no_grad():
        expected = theirs(draw(LONG), use_cache=False).logits
    assert apart(expected, logits(CONFIGS["qwen2"](), draw(LONG))) > 1e-3
    assert apart(ours(opened(tmp_path), draw(LONG)), expected) < 1e-4


def test_sliding_window_is_the_pattern_of_the_model_itself(tmp_path):
    def config():
        return transformers.MistralConfig(**LLAMA, sliding_window=7)

    source = find_source(str(saved(config(), tmp_path)))
    described = describe(source)
    assert described.windows == (7,)
    model, theirs = load_model(source, described), logits(config(), draw(LONG))
    assert apart(ours(model, draw(LONG), Window(7)), theirs) < 1e-4
    assert apart(ours(model, draw(LONG)), theirs) > 1e-2


def mask_of(n, allowed):
    """A float mask [1, 1, n, n], 0 where allowed(i, j), found pair by pair."""
    rows = [[0.0 if allowed(i, j) else -1e30 for j in range(n)] for i in range(n)]
    return torch.tensor(rows)[None, None]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt_neox-serial-yarn", "gpt2"])
def test_blockwise_is_transformers_with_the_mask_of_the_paper(name, tmp_path):
    """Sun et al. 2022, section 3.2: own block and the one before, positions as they are."""
    n, b = (TRAINED if name == "gpt2" else LONG), 6
    mask = mask_of(n, lambda i, j: j <= i and i // b - j // b <= 1)
    theirs = logits(CONFIGS[name](), draw(n), attention_mask=mask)
    model = opened(saved(CONFIGS[name](), tmp_path))
    assert apart(ours(model, draw(n), Blockwise(b)), theirs) < 1e-4
    assert apart(ours(model, draw(n)), theirs) > 1e-2


def test_blockwise_on_bloom_keeps_its_bias(tmp_path):
    """Its mask builder takes no mask of pairs: the causal mask is replaced on its way in."""
    n, b = LONG, 6
    theirs = made(CONFIGS["bloom-6-heads"]())
    mask = mask_of(n, lambda i, j: j <= i and i // b - j // b <= 1)
    for block in theirs.transformer.h:
        block.self_attention.register_forward_pre_hook(
            lambda module, given, named: (given, {**named, "attention_mask": mask}),
            with_kwargs=True,
        )
    with torch.no_grad():
        expected = theirs(draw(n), use_cache=False).logits
    model = opened(saved(CONFIGS["bloom-6-heads"](), tmp_path))
    assert apart(ours(model, draw(n), Blockwise(b)), expected) < 1e-4


def naive_rerope(window, theta):
    """Attention whose every pair is turned by its own distance, none above `window`."""

    def attention(module, q, k, v, mask, scaling, **rest):
        groups = q.shape[1] // k.shape[1]
        k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
        n = q.shape[2]
        scores = torch.full((*q.shape[:3], n), -1e30)
        for i in range(n):
            for j in range(i + 1):
                angle = torch.cat([theta, theta]) * min(i - j, window)
                turned = q[:, :, i] * angle.cos() + rotate_half(q[:, :, i]) * angle.sin()
                scores[:, :, i, j] = (turned * k[:, :, j]).sum(-1) * scaling
        return (scores.softmax(-1) @ v).transpose(1, 2), None

    return attention


def test_rerope_is_its_formula_pair_by_pair(tmp_path):
    window, n = 8, 40
    theirs = made(CONFIGS["qwen3"]())
    theta = theirs.model.rotary_emb.inv_freq.clone()
    theirs.model.rotary_emb.inv_freq.zero_()  # queries and keys come unturned
    AttentionInterface.register("naive_rerope", naive_rerope(window, theta))
    theirs.config._attn_implementation = "naive_rerope"
    with torch.no_grad():
        expected = theirs(draw(n), use_cache=False).logits
    model = opened(saved(CONFIGS["qwen3"](), tmp_path))
    assert apart(ours(model, draw(n), ReRoPE(window)), expected) < 1e-4
    assert apart(ours(model, draw(n)), expected) > 1e-3


FACTOR = 4.0
YARN = {"factor": FACTOR, "original_max_position_embeddings": TRAINED}
# head_dim is 8: base times s^(d / (d - 2)) (bloc97 2023).
NTK_BASE = {"rope_type": "default", "rope_theta": 10000.0 * FACTOR ** (8 / 6)}


@pytest.mark.parametrize(
    "extension, theirs",
    [
        (PI(FACTOR), rope("linear", factor=FACTOR)),
        (YaRN(FACTOR), rope("yarn", **YARN)),
        (NTK(FACTOR), {"rope_parameters": NTK_BASE}),
        (DynamicNTK(FACTOR), rope("dynamic", factor=FACTOR)),
    ],
    ids=["pi", "yarn", "ntk", "dynamic_ntk"],
)
def test_extensions_are_rope_scaling_of_transformers(extension, theirs, tmp_path):
    model = opened(saved(llama(), tmp_path))
    extended = extension.extend(model, Full(), Lengths(TRAINED, LONG, LONG), None)
    expected = logits(llama(**theirs), draw(LONG))
    assert apart(ours(extended, draw(LONG)), expected) < 1e-4
    assert apart(ours(model, draw(LONG)), expected) > 1e-2


@pytest.mark.parametrize("name", ["llama-tied-biased", "gpt_neox", "bloom-6-heads", "mpt", "gpt2"])
def test_entropy_of_heads_is_that_of_transformers_weights(name, tmp_path):
    text = draw(TRAINED, batch=1)
    theirs = made(CONFIGS[name]())
    with torch.no_grad():
        weights = theirs(text, use_cache=False, output_attentions=True).attentions
    model = opened(saved(CONFIGS[name](), tmp_path))
    rows = Heads().measure(AnalysisInput(model, Full(), text, TRAINED, "trained")).rows
    found = {(r["layer"], r["head"]): r["value"] for r in rows if r["measure"] == "entropy"}
    for layer, of_layer in enumerate(weights):
        w = of_layer[0].double()
        entropy = -(w * w.clamp(min=1e-300).log()).sum(-1)[:, 1:].mean(-1)
        for head, expected in enumerate(entropy.tolist()):
            assert found[layer, head] == pytest.approx(expected, abs=1e-5)
    assert len(found) == 2 * model.dims.n_heads


@pytest.mark.parametrize("name", ["llama", "bloom", "mpt", "gpt2"])
def test_receptive_field_is_the_gradient_of_transformers(name, tmp_path):
    text = draw(TRAINED, batch=1)
    theirs = made(CONFIGS[name]())
    embedded = theirs.get_input_embeddings()(text[:, :-1]).detach().requires_grad_()
    out = theirs(inputs_embeds=embedded, use_cache=False).logits[0, -1].log_softmax(-1)
    out[text[0, -1]].backward()
    expected = embedded.grad[0].norm(dim=-1).double()
    model = opened(saved(CONFIGS[name](), tmp_path))
    found = (
        Receptive().measure(AnalysisInput(model, Full(), text, TRAINED, "trained")).arrays["shares"]
    )
    assert expected.min() > 0
    shares = (expected / expected.sum()).flip(0)  # by distance
    assert apart(torch.from_numpy(found), shares) < 1e-5


def test_a_fresh_model_is_as_transformers_makes_it(tmp_path):
    source = find_source(str(saved(CONFIGS["llama"](), tmp_path)))
    torch.manual_seed(11)
    theirs = transformers.LlamaForCausalLM(CONFIGS["llama"]()).eval()
    with torch.no_grad():
        expected = theirs(draw(LONG), use_cache=False).logits
    assert apart(ours(fresh_model(describe(source), 11), draw(LONG)), expected) < 1e-5
    assert apart(ours(fresh_model(describe(source), 12), draw(LONG)), expected) > 1e-3


def test_bfloat16_stays_near(tmp_path):
    for name in ("llama", "gpt_neox", "bloom"):
        model = opened(saved(CONFIGS[name](), tmp_path / name))
        exact = ours(model, draw(LONG))
        with torch.autocast("cpu", torch.bfloat16):
            rough = ours(model, draw(LONG)).float()
        assert 1e-4 < apart(rough, exact) < 0.5
