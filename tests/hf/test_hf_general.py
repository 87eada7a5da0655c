"""The general path of model=hf: families without an entry of their own."""

import csv
import math
import re
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers", reason="needs the extra hf (transformers)")

import torch  # noqa: E402
from transformers import AttentionInterface  # noqa: E402

from lexp.attention import make_attend  # noqa: E402
from lexp.commands.analyze import analyze  # noqa: E402
from lexp.commands.evaluate import eval_  # noqa: E402
from lexp.evaluate import refuse_beyond  # noqa: E402
from lexp.extension import Extension  # noqa: E402
from lexp.extension.base import Lengths  # noqa: E402
from lexp.extension.frequencies import YaRN  # noqa: E402
from lexp.extension.interpolation import PI  # noqa: E402
from lexp.extension.scale import DroPE, LogNScale  # noqa: E402
from lexp.hf.config import describe  # noqa: E402
from lexp.hf.family import FAMILIES  # noqa: E402
from lexp.hf.general import DescribedGeneral  # noqa: E402
from lexp.hf.load import fresh_model, load_model  # noqa: E402
from lexp.hf.source import find_source  # noqa: E402
from lexp.pattern import (  # noqa: E402
    Blockwise,
    Full,
    LMInfinite,
    SelfExtend,
    Sinks,
    SinksInPlace,
    Window,
    in_turns,
    replaced,
)
from lexp.scoring.protocol import TextWindow  # noqa: E402
from lexp.scoring.scorer import Scorer  # noqa: E402
from lexp.system.errors import ConfigError, NotDefined  # noqa: E402
from support.config import compose, dataset  # noqa: E402
from support.evaluation import tokens_of  # noqa: E402
from support.hf import LLAMA, TRAINED, VOCAB, logits, made, saved  # noqa: E402
from support.hf_general import BERT, GENERAL, LAYERED, REFUSED  # noqa: E402

LONG = 3 * TRAINED + 1
# Families with a table of positions, which ends at the trained length.
ENDS = ("opt", "gpt_bigcode", "biogpt")


def opened(folder):
    source = find_source(str(folder))
    return load_model(source, describe(source))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Each family's model under lexp, loaded from a folder once."""
    kept = {}

    def get(name):
        if name not in kept:
            folder = tmp_path_factory.mktemp(name)
            kept[name] = opened(saved(GENERAL[name](), folder, tokenizer=False))
        return kept[name]

    return get


def ours(model, tokens, pattern, first=0):
    with torch.no_grad():
        attend = make_attend(pattern, tokens.shape[1], model.schemes, tokens.device)
        return model.head(model.hidden(tokens, attend, first))


def draw(n, batch=2):
    return torch.randint(VOCAB, (batch, n), generator=torch.Generator().manual_seed(n))


def apart(a, b):
    return float((a - b).abs().max())


def mask_of(n, allowed):
    """A float mask [1, 1, n, n], 0 where allowed(i, j), found pair by pair."""
    rows = [[0.0 if allowed(i, j) else -1e30 for j in range(n)] for i in range(n)]
    return torch.tensor(rows)[None, None]


@pytest.mark.parametrize("name", GENERAL)
def test_the_untouched_model_and_its_masks(name, models):
    """Full attention is the model itself; BCA (Sun et al. 2022, section 3.2: own block and the one
    before) and a window are the model itself with a mask given pair by pair."""
    n = TRAINED if name in ENDS else LONG
    model, tokens = models(name), draw(n)
    theirs = logits(GENERAL[name](), tokens)
    assert theirs.std() > 0.2
    assert apart(ours(model, tokens, Full()), theirs) < 2e-5
    for pattern, allowed in (
        (Blockwise(6), lambda i, j: j <= i and i // 6 - j // 6 <= 1),
        (Window(5), lambda i, j: i - 5 < j <= i),
        (SinksInPlace(Window(5), 2), lambda i, j: j <= i and (j < 2 or j > i - 5)),
    ):
        # OPT would count positions from a mask of two dimensions.
        given = {"attention_mask": mask_of(n, allowed), "position_ids": torch.arange(n)[None]}
        masked = logits(GENERAL[name](), tokens, **given)
        assert apart(ours(model, tokens, pattern), masked) < 2e-5
        assert apart(masked, theirs) > 1e-2


@pytest.mark.parametrize("name", LAYERED)
def test_methods_replace_the_layers_that_see_everything(name, tmp_path):
    source = find_source(str(saved(LAYERED[name](), tmp_path, tokenizer=False)))
    described = describe(source)
    assert described.windows == (7, None)
    model, tokens = load_model(source, described), draw(LONG)
    trained = in_turns((Window(7), Full()))
    theirs = logits(LAYERED[name](), tokens)
    assert apart(ours(model, tokens, trained), theirs) < 2e-5
    masks = {
        "sliding_attention": mask_of(LONG, lambda i, j: i - 7 < j <= i),
        "full_attention": mask_of(LONG, lambda i, j: j <= i and i // 6 - j // 6 <= 1),
    }
    masked = logits(LAYERED[name](), tokens, attention_mask=masks)
    assert apart(ours(model, tokens, replaced(trained, Blockwise(6))), masked) < 2e-5
    assert apart(masked, theirs) > 1e-2


def test_a_sliding_window_is_the_models_own_pattern_and_full_widens_it(tmp_path):
    def config(window):
        return transformers.Starcoder2Config(**LLAMA, sliding_window=window)

    source = find_source(str(saved(config(7), tmp_path, tokenizer=False)))
    described = describe(source)
    assert described.windows == (7,)
    with pytest.raises(ConfigError, match="a starcoder2 model computes its own"):
        described.without_positions()
    model, tokens = load_model(source, described), draw(LONG)
    assert apart(ours(model, tokens, Window(7)), logits(config(7), tokens)) < 2e-5
    assert apart(ours(model, tokens, Full()), logits(config(None), tokens)) < 2e-5
    assert apart(ours(model, tokens, Full()), ours(model, tokens, Window(7))) > 1e-2


@pytest.mark.parametrize("name", ["stablelm", "nemotron"])
def test_long_texts_under_bca_are_read_in_pieces_with_the_losses_of_one_pass(name, models):
    model, n = models(name), 1000
    tokens = tokens_of(n + 1)
    windows = [TextWindow(0, 0, n, n)]

    def scorer(batch_tokens):
        return Scorer(model, Blockwise(8), torch.autocast("cpu", enabled=False), batch_tokens)

    assert len(scorer(64).pieces(windows)) > 5 and len(scorer(n).pieces(windows)) == 1
    found = scorer(64).score(tokens, windows)
    ids = torch.from_numpy(tokens.ids.astype("int64"))[None]
    mask = mask_of(n, lambda i, j: j <= i and i // 8 - j // 8 <= 1)
    theirs = logits(GENERAL[name](), ids[:, :-1], attention_mask=mask)[0]
    expected = torch.nn.functional.cross_entropy(theirs, ids[0, 1:], reduction="none")
    assert apart(torch.from_numpy(found), expected) < 2e-4


@pytest.mark.parametrize("name", ENDS)
def test_a_table_of_positions_ends_with_the_trained_length(name, models):
    refuse_beyond(models(name), TRAINED)
    with pytest.raises(NotDefined, match="ends at 32 tokens"):
        refuse_beyond(models(name), TRAINED + 1)
    # Within it a piece of a text reads the rows of its own place.
    tokens = draw(TRAINED)
    whole = ours(models(name), tokens, Window(1))[:, 5:]
    assert apart(ours(models(name), tokens[:, 5:], Window(1), first=5), whole) < 2e-5
    assert apart(ours(models(name), tokens[:, 5:], Window(1)), whole) > 1e-2


@pytest.mark.parametrize(
    "pattern", [SelfExtend(2, 4), Sinks(Window(5)), LMInfinite(2, 5)], ids=lambda p: p.name
)
def test_patterns_that_move_positions_are_not_defined(pattern, models):
    said = (
        f"{pattern.name} changes positions, but the layers of StableLmForCausalLM apply their own"
    )
    with pytest.raises(NotDefined, match=said):
        ours(models("stablelm"), draw(TRAINED), pattern)


@pytest.mark.parametrize("extension", [PI(2.0), YaRN(2.0), DroPE()], ids=lambda e: e.name)
def test_extensions_of_positions_are_not_defined(extension, models):
    with pytest.raises(NotDefined, match="the layers of StableLmForCausalLM apply their own"):
        extension.extend(models("stablelm"), Full(), Lengths(TRAINED, LONG, LONG), None)
    assert Extension().extend(models("stablelm"), Full(), Lengths(TRAINED, LONG, LONG), None)


def scaled_by_log_n(module, q, k, v, mask, scaling, **rest):
    """Eager attention whose scores are times max(1, log n / log L), n = i + 1 keys (Su 2021)."""
    groups, n = q.shape[1] // k.shape[1], q.shape[2]
    k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
    grows = torch.tensor([max(1.0, math.log(i + 1) / math.log(TRAINED)) for i in range(n)])
    scores = q @ k.transpose(-1, -2) * scaling * grows[:, None]
    scores = scores + torch.full((n, n), -1e30).triu(1)
    return (scores.softmax(-1) @ v).transpose(1, 2), None


def test_log_n_scales_scores_and_leaves_positions(models):
    model = LogNScale().extend(models("stablelm"), Full(), Lengths(TRAINED, LONG, LONG), None)
    theirs = made(GENERAL["stablelm"]())
    AttentionInterface.register("scaled_by_log_n", scaled_by_log_n)
    theirs.config._attn_implementation = "scaled_by_log_n"
    with torch.no_grad():
        expected = theirs(draw(LONG), use_cache=False).logits
    assert apart(ours(model, draw(LONG), Full()), expected) < 2e-5
    assert apart(ours(models("stablelm"), draw(LONG), Full()), expected) > 1e-3


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_before_any_weight_is_read(name, tmp_path):
    config, reason = REFUSED[name]
    config().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    source = find_source(str(tmp_path))
    with pytest.raises(ConfigError) as refused:
        describe(source)
    said = str(refused.value)
    assert f"the model family {name!r} is not supported" in said and reason in said
    assert "\n" not in said


def test_a_family_that_transformers_does_not_have(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "alice"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="'alice' is none of transformers' causal language"):
        describe(find_source(str(tmp_path)))


def test_a_model_that_counts_positions_its_own_way_is_refused(tmp_path):
    """RoBERTa's first position is not 0."""
    config = transformers.RobertaConfig(**BERT, is_decoder=True, pad_token_id=1)
    with pytest.raises(ConfigError, match="its logits under lexp's attention are not its own"):
        opened(saved(config, tmp_path, tokenizer=False))


def test_tokens_that_reach_others_by_more_than_attention_are_refused(tmp_path, monkeypatch):
    from transformers.models.stablelm import modeling_stablelm

    source = find_source(str(saved(GENERAL["stablelm"](), tmp_path, tokenizer=False)))
    described = describe(source)
    plain = modeling_stablelm.StableLmMLP.forward
    monkeypatch.setattr(
        modeling_stablelm.StableLmMLP, "forward", lambda self, x: plain(self, x) + x.roll(1, 1)
    )
    with pytest.raises(ConfigError, match="tokens reach others by more than attention"):
        load_model(source, described)


def test_a_fresh_model_is_as_transformers_makes_it(tmp_path):
    source = find_source(str(saved(GENERAL["granite"](), tmp_path, tokenizer=False)))
    described = describe(source)
    assert isinstance(described, DescribedGeneral)
    torch.manual_seed(11)
    theirs = transformers.GraniteForCausalLM(GENERAL["granite"]()).eval()
    with torch.no_grad():
        expected = theirs(draw(LONG), use_cache=False).logits
    assert apart(ours(fresh_model(described, 11), draw(LONG), Full()), expected) < 2e-5


def test_half_precision_stays_near(models):
    exact = ours(models("stablelm"), draw(LONG), Blockwise(6))
    with torch.autocast("cpu", torch.bfloat16):
        rough = ours(models("stablelm"), draw(LONG), Blockwise(6)).float()
    assert 1e-4 < apart(rough, exact) < 0.5


def test_the_results_table_has_numbers_and_reasons(tmp_path, texts, capsys):
    folder = saved(GENERAL["stablelm"](), tmp_path / "tiny")
    base = [f"outputs={tmp_path}/outputs", "device=cpu", "precision=float32", *dataset(texts)]
    base += ["model=hf", f"path={folder}"]
    eval_(compose("eval", *base, "lengths=[16,64]", "attention=[full,blockwise,self_extend]"))
    with (tmp_path / "outputs/default/results.csv").open() as file:
        found = {(r["attention"], r["length"]): r for r in csv.DictReader(file)}
    assert {r["status"] for (name, _), r in found.items() if name != "self_extend"} == {"ok"}
    assert found["full", "16"]["nll"] == found["blockwise", "16"]["nll"]
    assert found["full", "64"]["nll"] != found["blockwise", "64"]["nll"]
    assert found["self_extend", "64"]["status"] == "not defined"
    said = " ".join("".join(capsys.readouterr()).split())
    assert "self_extend changes positions, but the layers of StableLmForCausalLM apply" in said
    analyze(compose("analyze", *base, "instruments=[heads]", "lengths=[24]", "texts=1"))
    with (tmp_path / "outputs/default/analysis/heads.csv").open() as file:
        assert {r["status"] for r in csv.DictReader(file)} == {"not defined"}


def test_the_table_of_families_is_what_the_tests_show():
    text = (Path(__file__).parents[2] / "docs" / "huggingface.md").read_text()
    said = {}
    for path, families in re.findall(r"^\| (full|general|refused) \| ([^|]+) \|", text, re.M):
        said.setdefault(path, []).extend(re.findall(r"`(\w+)`", families))
    assert sorted(said["full"]) == sorted(FAMILIES)
    assert sorted(said["general"]) == sorted([*GENERAL, *LAYERED])
    assert sorted(said["refused"]) == sorted(REFUSED)
