"""Probes: examples read back as text, scores against brute force, models that must and cannot."""

import csv
import json
import math
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lexp.attention import Reference, make_attend
from lexp.commands import probe as probe_task
from lexp.commands.probe import probe
from lexp.commands.report import report
from lexp.commands.train import train
from lexp.data import Tokens
from lexp.data.tokenizer import Bytes, Subwords, train_bpe
from lexp.display.table import TableCell
from lexp.evaluate import Method, ModelIdentity, ModelUnderTest, RunInfo
from lexp.extension import Extension
from lexp.instruments.base import CheckpointInfo
from lexp.instruments.heads import Heads
from lexp.instruments.measure import measure
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Full, Window
from lexp.position import RoPE
from lexp.probes import MQAR, Copy, Form, Material, Passkey, Recall, make_examples
from lexp.probes.measures import interval
from lexp.probes.result import COLUMNS, PROBES
from lexp.probes.run import ProbePlan, run_probes
from lexp.probes.score import score_examples
from lexp.report.probes import probe_tables, probes_caption
from lexp.result_store.arrays import write_arrays
from lexp.system.errors import ConfigError, DataError, Incomplete, NotDefined
from support.config import compose
from support.texts import make_text

CPU = torch.device("cpu")
KINDS = [Passkey(), Recall(), MQAR(), Copy()]
by_name = pytest.mark.parametrize("kind", KINDS, ids=lambda p: p.name)

TEXTS = [make_text(seed, 900) for seed in range(3)]
TEXTS[0] += "\nThe year 1789, and the year 1812; No. 48213 was #77 of 10450.\n" * 20


def make_material(name: str) -> Material:
    tokenizer = Bytes() if name == "bytes" else Subwords(train_bpe(TEXTS, 400), "made here")
    ids = [encoded.ids for encoded in tokenizer.encode(TEXTS)]
    starts = np.concatenate([[0], np.cumsum([len(one) for one in ids])])
    return Material(Tokens(("a", "b", "c"), np.concatenate(ids), starts, None), tokenizer)


BYTES = make_material("bytes")
both = pytest.mark.parametrize("material", [BYTES, make_material("bpe")], ids=["bytes", "bpe"])


def read(material: Material, tokens: np.ndarray) -> str:
    """Tokens as text, not by the code under test. One character a byte."""
    if isinstance(material.tokenizer, Bytes):
        return bytes(tokens.tolist()).decode("latin-1")
    # Byte-level BPE writes every byte as a printable character, most of them as themselves.
    words = [material.tokenizer._fast.id_to_token(int(token)) for token in tokens]
    return "".join(words).replace("Ġ", " ").replace("Ċ", "\n")


# --- examples


@both
@by_name
def test_examples_are_of_the_exact_length_and_differ_from_their_control_in_the_needle(
    kind, material
):
    for length in (128, 300):
        for example in make_examples(kind, material, length, 20, 0):
            assert example.tokens.shape == example.control.shape == (length + 1,)
            assert example.answer[-1] == length  # predicted from exactly `length` tokens
            assert (example.tokens[example.answer] == example.tokens[example.source]).all()
            changed = set(np.flatnonzero(example.tokens != example.control).tolist())
            sources = set(example.source.tolist())
            assert not changed & set(example.answer.tolist())
            if isinstance(kind, Passkey | Recall):
                assert changed == sources
            elif isinstance(kind, MQAR):
                assert sources < changed and len(changed) == kind.pairs
                before, after = sorted(example.tokens), sorted(example.control)
                assert before == after  # nothing but which value belongs to which key
            else:
                first = example.source[0] - kind.cue
                assert changed and changed <= set(range(first, first + kind.span))
            assert 0 <= example.depth < 1
            assert example.depth == min(sources) / length


@both
def test_the_pass_key_is_in_the_text_once_and_its_control_not_at_all(material):
    for example in make_examples(Passkey(), material, 200, 40, 0):
        text, control = read(material, example.tokens), read(material, example.control)
        numbers = re.findall(r"\nThe pass key is #(\d{5})\. Remember it\.\n", text)
        asked = re.search(r"\nWhat is the pass key\? The pass key is #(\d{5})$", text)
        assert numbers == [asked[1]] and text.count(asked[1]) == 2
        (wrong,) = re.findall(r"The pass key is #(\d{5})\. Remember it\.\n", control)
        assert wrong not in text and control == text.replace(asked[1], wrong, 1)
        others = [read(material, other) for other in example.others]
        assert len({asked[1], *others}) == 10
        assert all(re.fullmatch(r"\d{5}", other) and other not in text for other in others)


PAIR = r"^([b-z]{3}):(\d{4})$"


@both
def test_recalled_pairs_are_lines_of_their_own_and_one_of_them_is_asked(material):
    for example in make_examples(Recall(), material, 300, 40, 0):
        text, control = read(material, example.tokens), read(material, example.control)
        *pairs, (asked, value) = re.findall(PAIR, text, re.M)
        assert len(pairs) == len(dict(pairs)) == len({v for _, v in pairs}) == 10
        assert dict(pairs)[asked] == value
        for key, other in pairs:
            again = 2 if key == asked else 1
            assert text.count(f"\n{key}:") == again and text.count(other) == again
        *controls, last = re.findall(PAIR, control, re.M)
        (changed,) = set(controls) - set(pairs)
        assert changed[0] == asked and changed[1] not in text and last == (asked, value)
        given = {read(material, other) for other in example.others}
        assert given == {v for _, v in pairs} - {value}


@both
def test_mqar_asks_for_pairs_of_one_block_in_another_order(material):
    orders = set()
    for example in make_examples(MQAR(), material, 300, 40, 0):
        text, control = read(material, example.tokens), read(material, example.control)
        pairs = re.findall(r"^([b-z]{3}):([A-Z])$", text, re.M)
        block, asked = dict(pairs[:10]), pairs[10:]
        assert len(block) == len(set(block.values())) == 10 and len(dict(asked)) == 5
        assert all(block[key] == value for key, value in asked)
        assert all(text.count(f"\n{key}:") == 1 + (key in dict(asked)) for key in block)
        assert text.endswith("".join(f"\n{key}:{value}" for key, value in asked))
        moved = dict(re.findall(r"^([b-z]{3}):([A-Z])$", control, re.M)[:10])
        assert set(moved) == set(block) and all(moved[key] != block[key] for key in block)
        for n, (_, value) in enumerate(asked):
            given = {read(material, other[n : n + 1]) for other in example.others}
            assert given == set(block.values()) - {value}
        orders.add(tuple(list(block).index(key) for key, _ in asked))
    assert len(orders) > 35


@both
def test_copied_spans_are_real_text_at_both_ends(material):
    places = set()
    for example in make_examples(Copy(), material, 150, 40, 0):
        text, control = example.tokens, example.control
        place = example.source[0] - 8
        places.add(int(place))
        assert (text[place : place + 32] == text[-32:]).all() and (
            text[-32:] == control[-32:]
        ).all()
        assert example.answer.tolist() == list(range(151 - 24, 151))
        assert set((example.answer - example.source).tolist()) == {150 + 1 - 32 - place}
        cue = read(material, text[-32:-24])
        assert read(material, text).count(cue) == 2 and read(material, control).count(cue) == 1
    # Not at one distance only, where rotations may come round by accident.
    assert len(places) > 20 and min(places) >= 0 and max(places) <= 32


@by_name
def test_what_was_not_planted_is_text_of_a_document(kind):
    whole = [text.encode().decode("latin-1") for text in TEXTS]
    for example in make_examples(kind, BYTES, 260, 10, 0):
        text = read(BYTES, example.tokens)
        if isinstance(kind, Copy):
            span = text[-32:]
            assert any(span in one for one in whole)
            text = text[:-32].replace(span, "")
        elif isinstance(kind, Passkey):
            text = re.sub(r"\nThe pass key is #\d{5}\. Remember it\.\n", "", text)
            text = text[: text.index("\nWhat is the pass key?")]
        elif isinstance(kind, Recall):
            text = re.sub(r"\n[b-z]{3}:\d{4}$", "", re.sub(r"\n[b-z]{3}:\d{4}\n", "", text))
        else:
            text = re.sub(r"(\n[b-z]{3}:[A-Z]){5}$", "", text)
            text = re.sub(r"(\n[b-z]{3}:[A-Z]){10}\n", "", text)
        assert len(text) > 90 and any(text in one for one in whole)


@by_name
def test_examples_depend_on_nothing_but_their_arguments(kind):
    def same(a, b):
        return [x.tokens.tobytes() + x.control.tobytes() + x.others.tobytes() for x in a] == [
            x.tokens.tobytes() + x.control.tobytes() + x.others.tobytes() for x in b
        ]

    first = make_examples(kind, BYTES, 200, 8, 0)
    np.random.seed(1)
    torch.manual_seed(1)
    assert same(first, make_examples(kind, BYTES, 200, 8, 0))
    assert same(first[:3], make_examples(kind, BYTES, 200, 3, 0))  # more samples are added ones
    assert not same(first, make_examples(kind, BYTES, 200, 8, 1))
    assert len({example.tokens.tobytes() for example in first}) == 8
    twice = [
        x.tokens[-9:].tobytes() for n in (200, 201) for x in make_examples(kind, BYTES, n, 8, 0)
    ]
    assert len(set(twice)) == 16


def test_depth_and_digits_are_uniform():
    examples = make_examples(Passkey(), BYTES, 2000, 600, 0)
    places = np.sort([e.depth for e in examples]) / (1 - 83 / 2000)
    assert np.abs(places - (np.arange(600) + 0.5) / 600).max() < 1.36 * 2 / math.sqrt(600)
    digits = np.concatenate([e.tokens[e.answer] for e in examples]) - ord("0")
    assert np.bincount(digits, minlength=10).min() > 240  # of 300 expected
    # Other answers are no different from the right one: a guess is right one time in ten.
    firsts = [sorted([tuple(e.tokens[e.answer]), *map(tuple, e.others)]) for e in examples]
    place = [one.index(tuple(e.tokens[e.answer])) for one, e in zip(firsts, examples, strict=True)]
    assert np.bincount(place, minlength=10).min() > 35  # of 60 expected


def test_a_length_too_short_is_not_defined_with_what_it_takes():
    for kind, least in zip(KINDS, (82, 108, 90, 63), strict=True):
        assert len(make_examples(kind, BYTES, least, 2, 0)) == 2
        with pytest.raises(NotDefined, match=f"{kind.name} takes {least} tokens, the length is"):
            make_examples(kind, BYTES, least - 1, 2, 0)
    with pytest.raises(NotDefined, match="no test document has"):
        make_examples(Passkey(), BYTES, 10**6, 1, 0)


def test_values_in_the_text_are_never_drawn_and_a_text_full_of_them_is_said():
    documents = ["0123456789 " * 9] * 2
    ids = [one.ids for one in Bytes().encode(documents)]
    starts = np.cumsum([0, *(len(one) for one in ids)])
    full = Material(Tokens(("a", "b"), np.concatenate(ids), starts, None), Bytes())
    with pytest.raises(NotDefined, match="hold what passkey would plant"):
        make_examples(Passkey(digits=1), full, 97, 1, 0)


def crowded() -> Material:
    """Documents in which accidents happen: half of all numbers of two digits, keys, repetitions."""
    rng = np.random.default_rng(0)
    numbers = " ".join(str(n) for n in rng.permutation(1000)[:500])
    keys = "".join(f"\n{''.join(rng.choice(list('bcdfghjklmnpqrstvwxz'), 3))}:" for _ in range(900))
    texts = [numbers, keys, make_text(0, 30)[:150] * 6]
    ids = [one.ids for one in Bytes().encode(texts)]
    starts = np.cumsum([0, *map(len, ids)])
    return Material(Tokens(("a", "b", "c"), np.concatenate(ids), starts, None), Bytes())


@pytest.mark.parametrize("kind", [Passkey(2, 3), Recall(digits=3), MQAR(), Copy()], ids=repr)
def test_accidents_are_drawn_again(kind, monkeypatch):
    accidents = []
    original = type(kind).attempt

    def counted(*arguments):
        made = original(*arguments)
        accidents.append(made is None)
        return made

    monkeypatch.setattr(type(kind), "attempt", counted)
    for example in make_examples(kind, crowded(), 240, 150, 0):
        text = read(BYTES, example.tokens)
        if isinstance(kind, Passkey):
            assert text.count(read(BYTES, example.tokens[example.answer])) == 2
            assert not any(read(BYTES, other) in text for other in example.others)
        elif isinstance(kind, Recall):
            assert text.count(text[-8:]) == 2 and text.count(text[-3:]) == 2
            assert all(text.count(read(BYTES, other)) == 1 for other in example.others)
        elif isinstance(kind, MQAR):
            assert all(text.count(text[place - 5 : place]) == 2 for place in example.answer)
        else:
            assert text.count(text[-32:-24]) == 2
    assert sum(accidents) > 3 and len(accidents) == sum(accidents) + 150


def test_a_vocabulary_that_marks_new_words_plants_the_mark_and_does_not_score_it():
    class Marked(Bytes):
        def encode(self, texts):
            return super().encode([f"_{text}" for text in texts])

    marked = Material(BYTES.tokens, Marked())
    assert marked.lead(Form("0123", 3)).tolist() == [ord("_")]
    for kind in (Passkey(), Recall(), MQAR()):
        for example in make_examples(kind, marked, 250, 5, 0):
            values = read(BYTES, example.tokens[example.answer])
            assert re.fullmatch(r"\d+|[A-Z]{5}", values)
            assert (example.tokens[example.source - 1] == ord("_")).all() or len(values) < 6
            assert read(BYTES, example.tokens[example.source[:1] - 1]) == "_"


BAD = [
    (Passkey, {"digits": 0}), (Passkey, {"candidates": 0}),
    (Passkey, {"digits": 1, "candidates": 11}),
    (Recall, {"pairs": 1}), (Recall, {"digits": 2}), (MQAR, {"pairs": 27}), (MQAR, {"queries": 11}),
    (Copy, {"cue": 0}), (Copy, {"span": 8}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "values"), BAD)
def test_values_without_a_meaning_are_refused(kind, values):
    with pytest.raises(ValueError, match=kind.name):
        kind(**values)


# --- scores


def tiny_model(n_layers: int = 2, vocab_size: int = 256) -> Transformer:
    torch.manual_seed(0)
    position = RoPE(8)
    model = Transformer(Dims(n_layers, 16, 2, 8, 32), vocab_size, [LayerEntry(lambda: position)])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model.eval()


def scores_of(kind, model, pattern, length=128, samples=6, material=BYTES):
    examples = make_examples(kind, material, length, samples, 0)
    schemes = [model.position] if isinstance(model, Transformer) else []
    attend = make_attend(pattern, length, schemes, CPU)
    return examples, score_examples(kind, model, examples, attend, nullcontext())


@both
@by_name
@pytest.mark.parametrize("pattern", [Full(), Window(20)], ids=repr)
def test_scores_equal_brute_force(kind, pattern, material, monkeypatch):
    """A forward pass in float64 per answer token, over all logits, sorted."""
    monkeypatch.setattr("lexp.probes.score.BATCH_TOKENS", 400)  # several batches, the last smaller
    model = tiny_model(vocab_size=material.tokenizer.vocab_size)
    examples, scores = scores_of(kind, model, pattern, 130, 5, material)
    model = model.double()

    def look(tokens, place) -> np.ndarray:
        context = torch.tensor(tokens[:place][None])
        attend = Reference(pattern, place, model.position, CPU)
        with torch.no_grad():
            logits = model(context, attend)[0, -1].numpy()
        return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()

    flat, ranks = [], []
    for n, e in enumerate(examples):
        own = []
        for place, source in zip(e.answer, e.source, strict=True):
            token = int(e.tokens[place])
            row = [n, place - source]
            for tokens in (e.tokens, e.control):
                found = look(tokens, place)
                order = np.argsort(-found).tolist()
                row += [-found[token], order.index(token) + 1]
            own.append(row)
        flat += own
        assert scores.correct[n] == all(row[3] == 1 for row in own)
        if isinstance(kind, MQAR):
            for a, place in enumerate(e.answer):
                found = look(e.tokens, place)
                given = [found[int(o[a])] for o in e.others]
                ranks.append(1 + sum(x >= found[int(e.tokens[place])] for x in given))
        elif len(e.others):
            totals = []
            for other in e.others:
                tokens = e.tokens.copy()
                tokens[e.answer] = other
                totals.append(sum(look(tokens, p)[int(tokens[p])] for p in e.answer))
            ranks.append(1 + sum(t >= -sum(row[2] for row in own) for t in totals))
    wanted = np.array(flat)
    for column, name in enumerate(("example", "distance", "nll", "rank")):
        np.testing.assert_allclose(getattr(scores, name), wanted[:, column], rtol=0, atol=1e-4)
    np.testing.assert_allclose(scores.control_nll, wanted[:, 4], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(scores.control_rank, wanted[:, 5])
    np.testing.assert_allclose(scores.gain, wanted[:, 4] - wanted[:, 2], rtol=0, atol=2e-4)
    assert (
        scores.candidate_rank.tolist() == ranks
        and len(ranks)
        == {0: 5, 1: 25, 2: 0}[1 if isinstance(kind, MQAR) else 2 if isinstance(kind, Copy) else 0]
    )
    np.testing.assert_allclose(
        scores.example_gain,
        [np.mean([r[4] - r[2] for r in flat if r[0] == n]) for n in range(5)],
        atol=2e-4,
    )
    assert scores.depth.tolist() == [e.depth for e in examples]


@by_name
def test_a_model_that_ignores_its_context_gains_exactly_nothing(kind):
    model = tiny_model()
    with torch.no_grad():
        for block in model.blocks:
            block.attention.out.weight.zero_()
    _, scores = scores_of(kind, model, Full(), 200, 8)
    assert (scores.gain == 0).all() and (scores.rank == scores.control_rank).all()


def test_what_no_layer_can_see_gains_exactly_nothing_and_what_one_sees_does_not():
    model = tiny_model(n_layers=2)
    examples, scores = scores_of(Passkey(), model, Window(60), 600, 30)
    # Two layers of 60 keys reach 2 * 59 tokens before the query, and that one predicts the next.
    reach = 2 * 59 + 1
    blind = scores.distance - np.concatenate([e.answer - e.answer[0] for e in examples]) > reach
    assert 50 < blind.sum() < 150
    assert (scores.gain[blind] == 0).all() and (scores.gain[~blind] != 0).any()


def test_ties_count_against_the_answer():
    model = tiny_model()
    with torch.no_grad():
        model.head.weight.zero_()
    for kind in KINDS:
        _, scores = scores_of(kind, model, Full())
        assert (scores.rank == 256).all() and not scores.correct.any()
        assert (scores.candidate_rank == 10).all() and (scores.gain == 0).all()


class Induction(nn.Module):
    """Reads on from the longest earlier match of what it has just read: must know all answers."""

    def __init__(self, reach: int):
        super().__init__()
        self.head = nn.Linear(256, 256, bias=False)
        self.reach = reach
        with torch.no_grad():
            self.head.weight.copy_(20 * torch.eye(256))

    def hidden(self, tokens, attend):
        out = torch.zeros(*tokens.shape, 256)
        for b, row in enumerate(tokens.tolist()):
            for t in range(len(row)):
                best, found = 0, None
                for s in range(max(0, t - self.reach), t):
                    size = 0
                    while size <= s and row[s - size] == row[t - size]:
                        size += 1
                    if size > best:
                        best, found = size, row[s + 1]
                if found is not None:
                    out[b, t, found] = 1
        return out


@by_name
def test_a_model_that_copies_what_followed_before_gets_everything_right(kind):
    _, scores = scores_of(kind, Induction(10**6), Full(), 128, 4)
    assert scores.correct.all() and (scores.candidate_rank == 1).all()
    assert (scores.nll < 1e-3).all() and scores.example_gain.min() > 5
    if not isinstance(kind, Copy):
        assert not (scores.control_rank == 1).any()  # it believes what is planted
    else:
        assert (scores.control_rank == 1).mean() < 0.5


def test_the_same_model_with_a_short_reach_knows_no_pass_key():
    _, scores = scores_of(Passkey(), Induction(20), Full(), 160, 4)
    assert not scores.correct.any() and (scores.gain[scores.distance > 60] == 0).all()


def test_a_transformer_taught_to_repeat_is_found_to_copy_and_not_past_what_it_sees():
    torch.manual_seed(0)
    rng, length, position = np.random.default_rng(0), 63, RoPE(32)
    model = Transformer(Dims(2, 64, 2, 32, 128), 256, [LayerEntry(lambda: position)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    attend = make_attend(Full(), length, [position], CPU)
    letters = np.unique(BYTES.tokens.ids).astype(np.int64)
    for _ in range(400):  # breaks off after about 100
        half = rng.choice(letters, size=(32, 32))
        tokens = torch.from_numpy(np.concatenate([half, half], axis=1))
        loss = model.losses(tokens[:, :-1], tokens[:, 1:], attend)[:, 35:].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.02:
            break
    kind = Copy(cue=4)
    _, scores = scores_of(kind, model.eval(), Full(), length, 20)
    assert (scores.rank == 1).mean() > 0.95 and scores.correct.mean() > 0.5
    assert scores.example_gain.min() > 2 and (scores.control_rank == 1).mean() < 0.3
    # Two layers of two keys see 2 tokens back, the span ends 4 back.
    _, scores = scores_of(kind, model, Window(2), length, 20)
    assert (scores.gain == 0).all() and (scores.rank == 1).mean() < 0.3


# --- whole studies


@pytest.fixture
def study(tiny, tmp_path: Path):
    """Finished runs of two models, and a function that asks them and reads the CSV."""
    for model in ("rope", "learned"):
        train(tiny(f"model={model}"))

    def ask(*overrides: str) -> list[dict[str, str]]:
        given = {override.split("=")[0] for override in overrides}
        base = [
            f"outputs={tmp_path}/outputs", "lengths=[64,130]", "samples=3", "attention=[full]",
            "device=cpu", "precision=float32",
        ]  # fmt: skip
        probe(compose("probe", *(b for b in base if b.split("=")[0] not in given), *overrides))
        with (ask.folder / "probes.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    ask.folder = tmp_path / "outputs" / "default"
    return ask


def by_cell(rows) -> dict[tuple[str, str, str, int], dict[str, str]]:
    return {(r["model"], r["probe"], r["attention"], int(r["length"])): r for r in rows}


def test_every_cell_is_a_row_and_the_arrays_beside_it_give_its_numbers(study, capsys):
    rows = study("attention=[full,blockwise]")
    assert tuple(rows[0]) == COLUMNS
    cells = by_cell(rows)
    assert len(rows) == len(cells) == 2 * 4 * 2 * 2
    short = cells["rope", "passkey", "full", 64]
    assert (short["status"], short["gain"]) == ("not defined", "")
    assert cells["learned", "copy", "full", 64]["status"] == "not defined"
    for name in ("passkey", "recall", "mqar", "copy"):
        row = cells["rope", name, "full", 130]
        assert row["status"] == "ok" and (row["samples"], row["probe_seed"]) == ("3", "0")
        (path,) = study.folder.glob(f"rope*/probes/{name}-full-130-*.npz")
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        assert float(row["token_accuracy"]) == (arrays["rank"] == 1).mean()
        assert float(row["control_accuracy"]) == (arrays["control_rank"] == 1).mean()
        assert float(row["accuracy"]) == arrays["correct"].mean()
        assert float(row["nll"]) == pytest.approx(arrays["nll"].mean())
        means = [arrays["gain"][arrays["example"] == n].mean() for n in range(3)]
        assert float(row["gain"]) == pytest.approx(np.mean(means))
        assert float(row["gain_low"]) <= float(row["gain"]) <= float(row["gain_high"])
        assert len(arrays["depth"]) == len(arrays["correct"]) == 3
        if name == "copy":
            assert row["candidate_accuracy"] == row["chance"] == ""
        else:
            assert float(row["candidate_accuracy"]) == (arrays["candidate_rank"] == 1).mean()
            assert float(row["chance"]) == 0.1
    printed = capsys.readouterr().out
    assert "n/d (rope): passkey takes 82 tokens, the length is 64." in printed
    assert "n/d (learned): Learned ends at 16 tokens." in printed
    markdown = (study.folder / "probes.md").read_text()
    assert "**recall: gain**" in markdown and "| rope | blockwise | n/d |" in markdown
    report(compose("report", f"outputs={study.folder.parent}"))
    page = (study.folder / "report" / "report.md").read_text()
    for name in ("passkey", "recall", "mqar"):
        assert f"**{name} by depth and length: rope, blockwise (gain)**" in page
    assert "copy by depth" not in page  # it plants near the beginning alone
    assert "by depth" not in capsys.readouterr().out


def test_the_cell_is_that_of_the_library_called_by_hand(study, texts):
    (row,) = study("probes=[passkey]", "lengths=[100]", "model=rope")
    from lexp.commands.run_parts import make_model
    from lexp.config.validation import read_train
    from lexp.runs import checkpoint
    from lexp.runs.run import Run

    (folder,) = study.folder.glob("rope*")
    model = make_model(read_train(Run(folder).settings), 256).eval()
    checkpoint.load_model(checkpoint.latest(Run(folder).checkpoints), model)
    ids = [np.frombuffer(p.read_bytes(), np.uint8) for p in sorted((texts / "test").glob("*"))]
    starts = np.cumsum([0, *map(len, ids)])
    material = Material(Tokens(("0", "1", "2"), np.concatenate(ids), starts, None), Bytes())
    _, scores = scores_of(Passkey(), model, Full(), 100, 3, material)
    assert float(row["gain"]) == pytest.approx(scores.example_gain.mean(), abs=1e-6)
    assert float(row["nll"]) == pytest.approx(scores.nll.mean(), abs=1e-6)


def test_the_same_command_again_computes_only_what_is_missing(study, monkeypatch):
    computed = []

    def counted(kind, model, examples, *rest):
        computed.append((kind.name, examples[0].tokens.tobytes()))
        return score_examples(kind, model, examples, *rest)

    monkeypatch.setattr("lexp.probes.run.score_examples", counted)
    first = study("model=rope", "lengths=[130]")
    assert [name for name, _ in computed] == ["passkey", "recall", "mqar", "copy"]
    assert study("model=rope", "lengths=[130]") == first and len(computed) == 4
    study("model=rope", "lengths=[130]", "attention=[full,window]")
    assert len(computed) == 8 and computed[4:] == computed[:4]  # the same questions by any method
    study("model=rope", "lengths=[130]", "seed=1", "probes=[copy]")
    study("model=rope", "lengths=[130]", "samples=4", "probes=[copy]")
    study("model=rope", "lengths=[130]", "probes=[copy]", "probes.copy.cue=4")
    assert len(computed) == 11 and computed[8] != computed[3] and computed[9] == computed[3]
    (path,) = study.folder.glob("rope*/probes/mqar-full-130-*.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="mqar-full-130-.* is damaged"):
        assert len(study("model=rope", "lengths=[130]")) == 11
    assert len(computed) == 12


def test_what_is_stored_is_shown_under_the_runs_present_names(tmp_path):
    """Both of probes and of instruments."""
    run = RunInfo("r", "m", "s", "old", 0, 8, "bytes", "float32", "t", "v", "t")
    tested = ModelUnderTest(
        tmp_path, run, ModelIdentity({}, {}, "c", "f", "t", "float32", {}), tiny_model(),
        BYTES.tokens, nullcontext(), lambda n, length: torch.zeros(n, length), Full(),
    )  # fmt: skip
    method = Method(Full(), Extension(), 128)
    plan = ProbePlan((Copy(),), (method,), (128,), 2, 0)
    texts, stored, shown = torch.zeros(1, 16, dtype=torch.int64), [], []
    for dataset in ("old", "new"):
        tested = replace(tested, run=replace(run, dataset=dataset))
        notes = lambda case, is_stored: stored.append(is_stored)  # noqa: E731
        (asked,) = run_probes(tested, BYTES, plan, notes, lambda n: None)
        measured = measure(tested, Heads(), method, texts, CheckpointInfo("trained", 1, 1.0))
        shown.append((asked.run.dataset, measured.run.dataset, asked.measures, measured.rows))
    assert stored == [False, True]
    assert [one[:2] for one in shown] == [("old", "old"), ("new", "new")]
    assert repr(shown[0][2:]) == repr(shown[1][2:])


def test_extensions_and_models_on_the_command_line(study, capsys):
    rows = study("probes=[copy]", "lengths=[130]", "extension=[none,pi,vector_replacement]")
    status = {(r["model"], r["extension"]): r["status"] for r in rows}
    assert status["rope", "pi"] == "ok" == status["learned", "pi"]
    assert status["learned", "none"] == "not defined" == status["rope", "vector_replacement"]
    gains = {r["gain"] for r in rows if r["model"] == "rope" and r["status"] == "ok"}
    assert len(gains) == 2
    out = capsys.readouterr().out
    assert (
        "full vector_replacement" in out
        and "vector_replacement is for models without encodings" in out
    )
    with pytest.raises(ConfigError, match="model=xpos: .* has runs of learned, rope"):
        study("model=xpos")
    with pytest.raises(DataError, match="no document has"):
        study("lengths=[100000]")


def test_failures_are_rows_and_out_of_memory_is_tried_again(study, monkeypatch, capsys):
    def failing(kind, model, examples, *rest):
        if kind.name == "recall":
            raise torch.OutOfMemoryError("no room")
        scores = score_examples(kind, model, examples, *rest)
        if kind.name == "copy":
            scores.nll[30] = math.nan
        return scores

    only = ("model=rope", "lengths=[130]")
    with monkeypatch.context() as patch:
        patch.setattr("lexp.probes.run.score_examples", failing)
        with pytest.raises(Incomplete, match="1 of 4 cells ran out of memory"):
            study(*only)
        cells = by_cell(study(*only, "allow_partial=true"))
    status = {
        name: cells["rope", name, "full", 130]["status"] for name in ("recall", "copy", "mqar")
    }
    assert status == {"recall": "out of memory", "copy": "not finite", "mqar": "ok"}
    assert cells["rope", "copy", "full", 130]["gain"] == ""
    assert "not finite (rope): first in example 1." in capsys.readouterr().out
    again = by_cell(study(*only))
    assert again["rope", "recall", "full", 130]["status"] == "ok"

    def broken(*arguments):
        raise RuntimeError("a defect")

    monkeypatch.setattr("lexp.probes.run.score_examples", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        study(*only, "seed=5")


def test_seeds_are_averaged_in_the_table_and_a_failure_is_not_averaged_away(
    study, tiny, monkeypatch, capsys
):
    train(tiny("seed=1"))
    seen = []
    original = probe_task.probe_tables
    monkeypatch.setattr(
        probe_task, "probe_tables", lambda r, notes: (seen.append(r), original(r, notes))[1]
    )
    rows = study("model=rope", "probes=[copy]", "lengths=[130]")
    assert {row["seed"] for row in rows} == {"0", "1"}
    (results,) = seen

    def shown(given) -> list[TableCell]:
        """The one place of each of the two tables: shares, gain."""
        tables = probe_tables(given, {})
        assert [table.title for table in tables] == ["copy: answers right", "copy: gain"]
        return [table.rows[0][2] for table in tables]

    share, gain = (field.text for field in shown(results))
    tokens = [float(row["token_accuracy"]) for row in rows]
    assert share.split(" / ")[1] == f"{50 * sum(tokens):.0f}±{50 * abs(tokens[0] - tokens[1]):.0f}"
    mean = round(sum(float(row["gain"]) for row in rows) / 2, 3) + 0.0
    assert gain.startswith(f"{mean:+.3f} [")
    assert "mean of seeds 0, 1" in " ".join(probes_caption(results))
    failed = replace(results[1], status="not finite", reason="why")
    assert shown([results[0], failed]) == [TableCell("not finite 1/2", "failed")] * 2
    assert "not finite (rope): why." in probes_caption([results[0], failed])

    def gaining(result, gain: float):
        """The result, with this gain for every token of its answers."""
        arrays = result.arrays.load()
        path = result.arrays.path.with_name(f"{gain}.npz")
        changed = {**arrays, "gain": np.full_like(arrays["gain"], gain)}
        return replace(result, arrays=write_arrays(path, changed))

    sure = [gaining(result, 1.5) for result in results]
    assert shown(sure)[1] == TableCell("+1.500 [1.500, 1.500]", "best")
    tiny_gains = [gaining(result, 1e-6) for result in results]
    assert shown(tiny_gains)[1] == TableCell("+0.000 [0.000, 0.000]", "")


def test_a_cell_depends_on_everything_that_makes_its_number(study, monkeypatch):
    from lexp.probes import run as module

    study("model=rope", "probes=[copy]", "lengths=[130]")
    (path,) = study.folder.glob("rope*/probes/*.json")
    assert json.loads(path.read_text())["reason"] == ""
    before = path.stem
    monkeypatch.setattr(module, "PROBES", replace(PROBES, numerics=99))
    other_numerics = pytest.warns(UserWarning, match="of a version of lexp with other numbers")
    with other_numerics:
        study("model=rope", "probes=[copy]", "lengths=[130]")
    (config,) = study.folder.glob("rope*/config.json")
    stored = json.loads(config.read_text())
    stored["settings"]["model"]["position"]["base"] = 3.0
    config.write_text(json.dumps(stored))
    with other_numerics:
        study("model=rope", "probes=[copy]", "lengths=[130]")
    assert len(list(study.folder.glob("rope*/probes/*.json"))) == 3
    assert before in {p.stem for p in study.folder.glob("rope*/probes/*.json")}


def test_the_interval_covers_what_it_should():
    """Against theory: for many values the mean's normal interval."""
    values = np.random.default_rng(3).exponential(size=2000)
    low, high = interval(values)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert interval(values) == (low, high)
    assert interval(np.full(5, 2.0)) == (2.0, 2.0)
