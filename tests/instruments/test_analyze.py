"""Instruments: brute force in float64 on a small model, and the whole command."""

import math

import numpy as np
import pytest
import torch

from lexp.attention import ChunkSizes, Reference
from lexp.instruments.capture import capture_scores, hidden_states
from lexp.instruments.heads import Heads
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Transformer
from lexp.pattern import Blockwise, Full, SelfExtend, Window
from lexp.position import ALiBi, RoPE
from lexp.system.errors import ConfigError, NotDefined
from support.evaluation import tiny_model
from support.instruments import ids, run_analyze, view, weights_of
from support.schemes import SCHEMES, dims, make

CPU = torch.device("cpu")


@pytest.mark.parametrize("pattern", [Full(), Blockwise(4), Window(5)], ids=repr)
@pytest.mark.parametrize("position", [RoPE(8), ALiBi(2)], ids=lambda p: type(p).__name__)
def test_heads_are_the_brute_force(position, pattern):
    model, texts = tiny_model(position).double().eval(), ids(2, 20)
    rows = Heads().measure(view(model, pattern, texts, ChunkSizes(max_rows=7))).rows
    found = {(r["measure"], r["layer"], r["head"]): r["value"] for r in rows}
    per_text = [weights_of(model, pattern, text) for text in texts]
    for layer in range(2):
        for head in range(2):
            expected = {"entropy": [], "relative_entropy": [], "sink": [], "distance": []}
            for weights in per_text:
                for i in range(1, 20):
                    a = {j: w for j, w in enumerate(weights[layer][head, i].tolist()) if w > 0}
                    entropy = -sum(w * math.log(w) for w in a.values())
                    seen = int(pattern.n_keys(torch.tensor(i)))
                    expected["entropy"].append(entropy)
                    expected["relative_entropy"].append(entropy / math.log(max(2, seen)))
                    expected["sink"].append(sum(w for j, w in a.items() if j < 4))
                    expected["distance"].append(sum(w * (i - j) for j, w in a.items()))
            for name, values in expected.items():
                assert found[name, layer, head] == pytest.approx(np.mean(values), rel=1e-9), name


def test_layers_that_share_a_block_have_a_state_each():
    model = tiny_model(RoPE(8)).eval()
    model.blocks[1] = model.blocks[0]
    text = ids(1, 9)
    states = hidden_states(model, text, Full())
    attend = Reference(Full(), 9, model.position, CPU)
    with torch.no_grad():
        expected = [model.embedding(text)]
        for block in model.blocks:
            expected.append(block(expected[-1], model.position, attend, None))
    assert len(states) == 3
    for state, wanted in zip(states, expected, strict=True):
        torch.testing.assert_close(state, wanted, rtol=1e-4, atol=1e-5)


def test_a_text_of_one_token_has_no_query_with_a_choice():
    with pytest.raises(NotDefined, match="heads needs texts of 2 tokens or more"):
        Heads().measure(view(tiny_model(RoPE(8)), Full(), ids(1, 1)))


def test_equal_scores_are_the_largest_entropy_and_a_known_distance():
    model = tiny_model(RoPE(8)).double().eval()
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight.zero_()
    rows = Heads().measure(view(model, Full(), ids(1, 9))).rows
    expected = {
        "relative_entropy": 1.0,
        "scores": 0.0,
        "entropy": sum(math.log(i + 1) for i in range(1, 9)) / 8,
        "distance": sum(i / 2 for i in range(1, 9)) / 8,
        "sink": sum(min(4, i + 1) / (i + 1) for i in range(1, 9)) / 8,
    }
    for row in rows:
        assert row["value"] == pytest.approx(expected[row["measure"]], abs=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_watched_attention_computes_what_it_shows(scheme):
    torch.manual_seed(0)
    model = Transformer(dims(), 50, [LayerEntry(lambda: make(scheme))]).eval()
    text, layers = ids(1, 12), []

    def plain(q, k, v, position, x, sampled=None):
        return Reference(Blockwise(3), 12, position, CPU)(q, k, v, position, x, sampled)

    with torch.no_grad():
        expected = model.hidden(text, plain)
    seen = capture_scores(
        model, text, Blockwise(3), on_layer=lambda layer: layers.append(layer.index)
    )
    torch.testing.assert_close(seen, expected, rtol=0, atol=2e-5)
    assert layers == list(range(len(model.blocks)))
    states = hidden_states(model, text, Blockwise(3))
    assert len(states) == len(model.blocks) + 1
    with torch.no_grad():
        last = model.norm(states[-1])
    torch.testing.assert_close(last, expected, rtol=0, atol=2e-5)


def test_moved_patterns_are_looked_at_too():
    model = tiny_model(RoPE(8)).eval()
    rows = Heads().measure(view(model, SelfExtend(6, 2), ids(1, 20))).rows
    assert all(math.isfinite(float(row["value"])) for row in rows)


def test_the_command_keeps_numbers_and_pictures_and_looks_once(
    study,
    capsys,
    monkeypatch,
):
    rows = run_analyze(study, "states=[trained,random]")
    good = [row for row in rows if row["status"] == "ok"]
    assert {row["state"] for row in good} == {"trained", "random"}
    assert {row["length"] for row in good if row["model"] == "rope"} == {"8", "16", "32"}
    assert all(math.isfinite(float(row["value"])) for row in good)
    missing = [row for row in rows if row["status"] == "not defined"]
    assert {(row["model"], row["length"]) for row in missing} == {("learned", "32")}
    assert "heads not defined for learned: Learned ends at 16 tokens" in capsys.readouterr().out
    assert (study.folder / "analysis" / "heads-1.png").read_bytes()[:4] == b"\x89PNG"
    monkeypatch.setattr(Heads, "measure", None)
    assert run_analyze(study, "states=[trained,random]") == rows


def test_trained_and_random_models_differ_and_methods_do(study):
    rows = run_analyze(study, "states=[trained,random]", "model=rope")

    def values(**wanted: str) -> list[str]:
        return [r["value"] for r in rows if all(r[k] == v for k, v in wanted.items())]

    assert values(state="trained") != values(state="random")
    full, blockwise = (
        values(state="trained", length="32", method=m) for m in ("full", "blockwise")
    )
    assert full != blockwise


REFUSED = {
    "instruments=[]": r"instruments=\[\] \(at least one",
    "states=[young]": r"states=\['young'\] \(of trained, random\)",
    "texts=0": r"texts=0 \(at least 1\)",
}


@pytest.mark.parametrize("override", REFUSED)
def test_values_lexp_analyze_refuses(study, override):
    with pytest.raises(ConfigError, match=REFUSED[override]):
        run_analyze(study, override)
