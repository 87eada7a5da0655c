"""Masked language models: what is asked of them, how they are trained, resumed and scored."""

import csv
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from lexp.attention import make_attend
from lexp.commands.evaluate import eval_
from lexp.commands.run_parts import make_model
from lexp.commands.study import cost as study_weight
from lexp.commands.train import train
from lexp.config.schema import plain
from lexp.config.validation import read_train
from lexp.data import Tokens
from lexp.data.reading import Windows
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Bidirectional, BidirectionalWindow
from lexp.runs import checkpoint
from lexp.runs.run import run_name, variant
from lexp.scoring.protocol import Masked
from lexp.scoring.scorer import MaskedScorer
from lexp.system.errors import ConfigError
from lexp.training.objective import CausalLM, MaskedLM
from support.config import compose
from support.schemes import CPU, dims, make
from support.studies import LONGEST, Study, bumpy
from support.training import Killed, folder_of, result_of, stop_after

VOCABULARY = 50


def test_a_causal_batch_is_every_token_and_the_next():
    batch = torch.arange(12).view(2, 6)
    made = CausalLM().make_batch(Windows(batch.numpy()), 3, 0, VOCABULARY)
    assert torch.equal(made.tensors[0], batch[:, :-1])
    assert torch.equal(made.tensors[1], batch[:, 1:])
    assert made.n_targets == 10


def test_a_masked_batch_is_berts():
    """15 % of each window; of these 80 % masked, 10 % another token, 10 % as they were."""
    batch = torch.randint(VOCABULARY, (400, 101), generator=torch.Generator().manual_seed(0))
    (inputs, targets, chosen), n_targets, *_ = MaskedLM().make_batch(
        Windows(batch.numpy()), 5, 1, VOCABULARY
    )
    assert torch.equal(targets, batch[:, :-1])
    assert chosen.sum(1).eq(15).all() and n_targets == chosen.sum() == 6000
    assert torch.equal(inputs[~chosen], targets[~chosen])
    assert inputs.max() == VOCABULARY and inputs[chosen].min() >= 0
    of_chosen, were = inputs[chosen], targets[chosen]
    masked = of_chosen == VOCABULARY
    same = of_chosen == were
    assert masked.float().mean().item() == pytest.approx(0.8, abs=0.02)
    # A random token is the one that was there once in 50 times.
    assert same.float().mean().item() == pytest.approx(0.1 + 0.1 / VOCABULARY, abs=0.015)
    assert of_chosen[~masked & ~same].unique().numel() == VOCABULARY
    by_place = chosen.float().mean(0)  # no place is preferred: 0.15 +- 4 standard errors
    assert (by_place - 0.15).abs().max() < 4 * (0.15 * 0.85 / 400) ** 0.5 * 1.2


def test_a_masked_batch_is_a_function_of_seed_and_step():
    batch = torch.randint(VOCABULARY, (4, 41))

    def chosen(step, seed):
        return MaskedLM().make_batch(Windows(batch.numpy()), step, seed, VOCABULARY).tensors[0]

    assert torch.equal(chosen(3, 0), chosen(3, 0))
    assert not torch.equal(chosen(3, 0), chosen(4, 0))
    assert not torch.equal(chosen(3, 0), chosen(3, 1))


def test_losses_are_those_of_the_logits_at_chosen_places_and_nowhere_else():
    torch.manual_seed(0)
    model = Transformer(dims(), VOCABULARY + 1, [LayerEntry(lambda: make("tisa"))]).double()
    attend = make_attend(Bidirectional(), 20, model.schemes, CPU)
    inputs, targets, chosen = (
        MaskedLM()
        .make_batch(Windows(torch.randint(VOCABULARY, (3, 21)).numpy()), 0, 0, VOCABULARY)
        .tensors
    )
    logits = model(inputs, attend)
    expected = [
        -logits[row, t].log_softmax(-1)[targets[row, t]].item()
        for row in range(3) for t in range(20) if chosen[row, t]
    ]  # fmt: skip
    found = model.losses_at(inputs, targets, chosen, attend)
    np.testing.assert_allclose(found.tolist(), expected, atol=1e-12)
    total = model.loss_at(inputs, targets, chosen, attend)
    np.testing.assert_allclose(total.item(), sum(expected), atol=1e-12)


@pytest.mark.parametrize("overrides", [(), ("size.share_layers=true", "size.n_layers=3")])
def test_a_masked_model_resumes_bit_equal(tiny, monkeypatch, tmp_path, overrides):
    given = ("objective=mlm", "model=tisa", *overrides)
    whole = tiny(f"outputs={tmp_path}/whole", *given)
    train(whole)
    broken = tiny(f"outputs={tmp_path}/broken", *given)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 7)
        train(broken)
    train(broken)
    assert result_of(folder_of(broken)) == result_of(folder_of(whole))


def test_accumulation_changes_memory_not_the_result(tiny, tmp_path):
    results = []
    for n in (1, 4):
        config = tiny("objective=mlm", f"accumulation={n}", f"outputs={tmp_path}/{n}")
        train(config)
        found = checkpoint.latest(folder_of(config) / "checkpoints")
        model = make_model(read_train(plain(config)), 256)
        checkpoint.load_model(found, model)
        results.append(torch.cat([p.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


def tokens_of(*sizes: int) -> Tokens:
    ids = np.random.default_rng(0).integers(VOCABULARY, size=sum(sizes)).astype("<u1")
    return Tokens(tuple(f"d{n}" for n in range(len(sizes))), ids, np.cumsum([0, *sizes]), None)


def test_the_masked_protocol_asks_for_the_same_tokens_at_every_length():
    tokens, protocol, lengths = tokens_of(90, 20, 130), Masked(percent=20, seed=3), (7, 16, 64)
    spans = protocol.spans(tokens, lengths, None)
    assert [(span.document, span.first, span.n_tokens) for span in spans] == [
        (0, 0, 64),
        (2, 0, 64),
    ]
    asked = []
    for length in lengths:
        windows = [w for span in spans for w in protocol.windows(span, length)]
        documents = np.repeat([w.document for w in windows], [w.n_scored for w in windows])
        first = np.repeat([w.first for w in windows], [w.n_scored for w in windows])
        context = protocol.contexts(windows)
        assert (context < length).all()
        asked.append(list(zip(documents.tolist(), (first + context).tolist(), strict=True)))
    assert asked[0] == asked[1] == asked[2] and len(set(asked[0])) == len(asked[0])
    assert 10 < len(asked[0]) < 42  # of 128
    other = Masked(percent=20, seed=4)
    assert [w for s in spans for w in other.windows(s, 64)] != windows
    assert (protocol.label(lengths), Masked().label(lengths)) == (
        "masked-by-20s3-64", "masked-by-15-64",
    )  # fmt: skip


@pytest.mark.parametrize("pattern", [Bidirectional(), BidirectionalWindow(9)], ids=repr)
def test_scores_equal_brute_force(pattern):
    """Each window on its own, its chosen tokens masked, the loss of each read off the logits."""
    torch.manual_seed(0)
    model = Transformer(dims(), VOCABULARY + 1, [LayerEntry(lambda: make("rope_tisa"))]).eval()
    tokens, protocol = tokens_of(90, 20, 130), Masked(percent=20)
    spans = protocol.spans(tokens, [64], None)
    windows = [w for span in spans for w in protocol.windows(span, 24)]
    assert len({w.size for w in windows}) == 2  # the last one of a span is shorter
    found = MaskedScorer(model, pattern, nullcontext(), 50, protocol=protocol).score(
        tokens, windows
    )
    expected = []
    for window in windows:
        ids = torch.from_numpy(tokens.window(window.document, window.first, window.size))
        draws = np.random.default_rng([0, window.document]).random(64)
        masked = [t for t in range(window.size) if draws[window.first + t] < 0.2]
        inputs = ids.clone()
        inputs[masked] = VOCABULARY
        attend = make_attend(pattern, window.size, model.schemes, CPU)
        logits = model(inputs[None], attend)[0].detach()
        expected += [-logits[t].log_softmax(-1)[ids[t]].item() for t in masked]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_causal_and_masked_numbers_never_share_a_table(tiny, tmp_path):
    """Each is scored in its own way, and every other way is not defined, with the reason."""
    train(tiny("model=rope"))
    train(tiny("model=rope", "objective=mlm"))
    eval_(compose(
        "eval", f"outputs={tmp_path}/outputs", "lengths=[8,16,32]", "device=cpu",
        "attention=[full,trained,bidirectional,bidirectional_blockwise]",
        "protocol=[segments,masked]", "precision=float32",
    ))  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "outputs/default/results.csv").open()))
    good = {(r["run"].split("-")[1], r["protocol"], r["attention"]) for r in rows
            if r["status"] == "ok"}  # fmt: skip
    assert good == {
        ("nano", "segments-32", "full"), ("nano", "segments-32", "trained"),
        *[("mlm", "masked-by-15-32", a)
          for a in ("trained", "bidirectional", "bidirectional_blockwise")],
    }  # fmt: skip
    assert len(rows) == 2 * 3 * 2 * 4
    asked = {r["length"]: r["tokens"] for r in rows if r["protocol"] == "masked-by-15-32"}
    assert len(set(asked.values())) == 1
    text = (tmp_path / "outputs/default/results.md").read_text().replace("\\", "")
    for reason in (
        "attention pattern full is causal; the model is bidirectional",
        "attention pattern bidirectional is bidirectional; the model is causal",
        "protocol=segments needs a causal model; use protocol=[masked] for this run",
        "protocol=masked needs a masked language model; this run is causal",
    ):
        assert reason in text
    assert "15 % of the first 32 tokens of each document, masked all at once" in text


def test_the_report_compares_masked_models_with_their_own_window(tmp_path):
    """And with nothing that was printed of causal ones, though papers have ALiBi's."""
    study = Study(tmp_path)
    run = study.run("alibi", 0, "objective=mlm")
    masked = Masked()
    label = masked.label([LONGEST])
    study.line(
        run,
        {256: bumpy(), 512: bumpy(), 1024: bumpy() + 0.5},
        pattern=Bidirectional(),
        protocol=masked,
    )
    study.line(
        run,
        dict.fromkeys((256, 512, 1024), bumpy()),
        pattern=BidirectionalWindow(),
        protocol=masked,
    )
    folder = study.report()
    row = study.named(f"Reach and gain, {label}")["alibi", "bidirectional"]
    assert row["reach"] == "512" and row["against window"].startswith("+0.5")
    differences = study.named(f"Differences of methods at {LONGEST}, {label}")
    assert set(differences) == {("alibi", "bidirectional_window")}
    assert not list(folder.glob("perplexity-of-the-last*"))
    assert "published curves" not in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["model=fox"], "model=fox: FoX is not defined for keys after the query"),
        (["model=swat_softmax"], "model=swat_softmax: attention pattern window is causal"),
        (
            ["objective.share=1.5"],
            "objective: share=1.5, mask=0.8, random=0.1: share must be above 0 and below 1",
        ),
        (["objective.random=0.5"], "mask and random must add up to at most 1"),
        (["objective._target_=os.system"], "objective._target_=os.system: only classes under lexp"),
    ],
)
def test_what_a_masked_model_cannot_be_is_said_before_training(tiny, overrides, words):
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        train(tiny("objective=mlm", *overrides))


def test_runs_of_before_keep_their_names():
    """Neither objective=causal nor share_layers=false is part of what names a run."""
    now = plain(compose("train"))
    then = {**now, "objective": {"name": "causal", "_target_": "of.another.Version"}}
    then["size"] = {k: v for k, v in now["size"].items() if k != "share_layers"}
    assert run_name(now) == run_name(then) and variant(now) == variant(then)
    names = {run_name(plain(compose("train", *o))) for o in (
        [], ["objective=mlm"], ["size.share_layers=true"], ["objective=mlm", "objective.share=0.3"],
    )}  # fmt: skip
    assert len(names) == 4


@pytest.mark.parametrize("objective", ["causal", "mlm"])
@pytest.mark.parametrize("shared", [False, True])
def test_parameters_are_counted_right(objective, shared):
    settings = read_train(plain(compose(
        "train", "size=nano", "model=tisa_layers", f"objective={objective}",
        f"size.share_layers={str(shared).lower()}",
    )))  # fmt: skip
    model = make_model(settings, 256)
    made = sum(p.numel() for p in model.parameters())
    assert study_weight.n_parameters(settings, 256) == made
    inner = 4 * 128 * 128 + 2 * 128 * 512 + 2 * 128  # by hand: q, k, v, out, two of d_ff, two norms
    rows = 256 + (objective == "mlm")
    assert made == (1 if shared else 4) * inner + 2 * rows * 128 + 128 + 4 * 3 * 5 * 4
    # What multiplies does not get less by sharing.
    apart = replace(settings, size=replace(settings.size, share_layers=False))
    assert study_weight.weigh(settings, 1.0).training() == study_weight.weigh(apart, 1.0).training()


def test_shared_layers_are_one_block_used_again_and_again():
    torch.manual_seed(0)
    size = {"d_model": 32, "n_heads": 4, "head_dim": 8, "d_ff": 64}
    shared = Transformer(Dims(3, **size, share_layers=True), 50, [LayerEntry(lambda: make("rope"))])
    apart = Transformer(Dims(3, **size), 50, [LayerEntry(lambda: make("rope"))])
    apart.load_state_dict(shared.state_dict())
    tokens = torch.randint(50, (2, 20))
    outputs = []
    for model in (shared, apart):
        attend = make_attend(Bidirectional(), 20, model.schemes, CPU)
        outputs.append(model(tokens, attend))
        outputs[-1].square().mean().backward()
    assert torch.equal(*outputs)
    ours = shared.blocks[0].mlp_in.weight.grad
    theirs = sum(block.mlp_in.weight.grad for block in apart.blocks)
    torch.testing.assert_close(ours, theirs)
