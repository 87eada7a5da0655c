"""Tasks of RULER: examples read back as text, and gains of models that must and cannot."""

import math
import re
from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from lexp.attention import make_attend
from lexp.data import Tokens
from lexp.data.tokenizer import Bytes
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Window
from lexp.position import RoPE
from lexp.probes import (
    CommonWords,
    FrequentWords,
    Material,
    MultiKey,
    MultiQuery,
    MultiValue,
    VariableTracking,
    make_examples,
)
from lexp.probes.score import score_examples
from lexp.system.errors import NotDefined
from support.texts import make_text

KINDS = [
    MultiKey(), MultiValue(), MultiQuery(), VariableTracking(), CommonWords(), FrequentWords(),
]  # fmt: skip
by_name = pytest.mark.parametrize("kind", KINDS, ids=lambda p: p.name)
TEXTS = [make_text(seed, 600).encode() for seed in range(3)]
STARTS = np.cumsum([0, *map(len, TEXTS)])
IDS = np.frombuffer(b"".join(TEXTS), np.uint8)
BYTES = Material(Tokens(("a", "b", "c"), IDS, STARTS, None), Bytes())


def read(tokens: np.ndarray) -> str:
    return bytes(tokens.tolist()).decode()


LINE = r"^Code ([b-z]{3}): (\d{4})"


@pytest.mark.parametrize(
    ("kind", "keys", "values", "asked"),
    [(MultiKey(), 4, 1, 1), (MultiValue(), 1, 4, 4), (MultiQuery(), 4, 1, 4),
     (MultiQuery(queries=2), 4, 1, 2)],
    ids=repr,
)  # fmt: skip
def test_needles_stand_in_the_text_and_those_asked_for_again_at_the_end(kind, keys, values, asked):
    orders = set()
    for example in make_examples(kind, BYTES, 200, 20, 0):
        text, control = read(example.tokens), read(example.control)
        assert len(text) == len(control) == 201
        found = re.findall(LINE, text, re.M)
        needles, end = found[: keys * values], found[keys * values :]
        assert len(end) == asked and set(end) <= set(needles) and len(set(end)) == asked
        assert len({key for key, _ in needles}) == keys
        assert len({value for _, value in needles}) == keys * values
        assert text.endswith(".".join(f"\nCode {key}: {value}" for key, value in end))
        # What is scored is every digit of the answers, and where the text has the same ones.
        assert read(example.tokens[example.answer]) == "".join(value for _, value in end)
        assert (example.tokens[example.source] == example.tokens[example.answer]).all()
        assert (example.source < example.answer.min()).all()
        # The control has no number that is asked for, in a needle; all else is alike.
        changed = np.flatnonzero(example.tokens != example.control)
        assert changed.tolist() == sorted(example.source)
        answers = {value for _, value in end}
        told = re.findall(LINE, control, re.M)[: keys * values]
        assert [key for key, _ in told] == [key for key, _ in needles]
        assert not answers & {value for _, value in told} and len(set(told)) == keys * values
        # What is left is a stretch of a document.
        rest = re.sub(r"\nCode [b-z]{3}: \d{4}\.", "", text)
        rest = rest[: rest.rindex("\nCode")] if "\nCode" in rest else rest
        assert any(rest in document.decode() for document in TEXTS) and len(rest) > 40
        others = {read(other) for other in example.others}
        distracting = {v for _, v in needles} - answers if isinstance(kind, MultiKey) else set()
        assert others == distracting and kind.n_candidates == 1 + len(distracting)
        orders.add(tuple(needles.index(line) for line in end))
    if isinstance(kind, MultiValue):
        assert orders == {(0, 1, 2, 3)}  # the order of the text
    else:
        assert len(orders) > 3


def test_variables_are_those_of_the_chain_that_begins_with_the_number():
    mixed = set()
    for example in make_examples(VariableTracking(), BYTES, 220, 20, 0):
        text, control = read(example.tokens), read(example.control)
        number, listed = re.fullmatch(r".*\n(\d{3})=([A-Z,]{19})", text, re.S).groups()

        def variables(text: str, value: str) -> tuple[list[str], list[str]]:
            """Follow assignments from a number: its variables, and all lines."""
            lines = re.findall(r"^([A-Z]{3})=(\w{3})\.", text, re.M)
            found = [name for name, given in lines if given == value]
            for name, given in lines:  # a name is given only after it was defined
                found += [name] * (given in found)
            return found, [name for name, _ in lines]

        found, lines = variables(text, number)
        assert found == listed.split(",") and len(found) == 5 and len(lines) == 10
        assert len(set(lines)) == 10
        # In the control all of these names belong to the other number, and all else is alike.
        others, same = variables(control, number)
        assert same == lines and set(others) == set(lines) - set(found)
        changed = np.flatnonzero(example.tokens != example.control)
        assert 1 <= len(changed) <= 6 and sorted(text[:-24]) == sorted(control[:-24])
        assert read(example.tokens[example.answer]) == "".join(found)
        assert (example.tokens[example.source] == example.tokens[example.answer]).all()
        assert all(text[place + 3] == "=" for place in example.source[::3])
        (other,) = example.others
        assert read(other) == "".join(others)
        mixed.add(tuple(name in found for name in lines))
    assert len(mixed) > 10


@pytest.mark.parametrize("kind", [CommonWords(), FrequentWords()], ids=lambda p: p.name)
def test_the_words_asked_for_are_the_most_frequent_of_the_list_and_rare_in_the_control(kind):
    for length in (128, 203, 1000):
        for example in make_examples(kind, BYTES, length, 6, 0):
            text, control = read(example.tokens), read(example.control)
            body, listed = text.split("\nMost frequent:")
            answers = listed.split()
            counts = Counter(words := re.findall(r"\n([b-z]{4})(?=\n|$)", body))
            told = Counter(re.findall(r"\n([b-z]{4})(?=\n|$)", control.split("\nMost")[0]))
            assert len(words) == (length + 1 - 15 - 10) // 5  # as many as there is room for
            if isinstance(kind, CommonWords):
                assert sorted(counts.values())[-3:] == [1, 8, 8]
                assert answers == sorted(answers, key=words.index)
            else:
                # Shares of ranks 1 and 2: 6 / pi^2 and a quarter of it.
                wanted = [int(len(words) * 6 / math.pi**2 / n**2) for n in (1, 2)]
                assert [counts[word] for word in answers] == wanted
                assert sorted(counts.values())[-3] < wanted[1]
            assert {word for word, _ in counts.most_common(2)} == set(answers)
            assert set(told) == set(counts) and [told[word] for word in answers] == [1, 1]
            assert sorted(told.values()) == sorted(counts.values())
            assert control.endswith(listed)
            assert read(example.tokens[example.answer]) == "".join(answers)
            places = [body.index(f"\n{word}") + 1 for word in answers]
            assert example.source.tolist() == [p + k for p in places for k in range(4)]


def test_they_fit_128_bytes_and_a_shorter_length_says_what_it_takes():
    # By hand: a line has 16 bytes, the last one no full stop, and the last token is not read;
    # of variables 10 lines of 9 bytes, and 24 that ask for them;
    # of words 18 or 14 lines of 5 bytes, 15 bytes of the question and 10 of the answer.
    for kind, least in zip(KINDS, (78, 126, 126, 113, 114, 94), strict=True):
        assert len(make_examples(kind, BYTES, least, 1, 0)) == 1
        with pytest.raises(NotDefined, match=f"{kind.name} takes {least} tokens, the length is"):
            make_examples(kind, BYTES, least - 1, 1, 0)


@by_name
def test_what_no_layer_can_see_gains_exactly_nothing_and_what_one_sees_does_not(kind):
    """In float64, two layers of 90 keys: what is further back than 179 tokens is out of sight.

    Lists reach to the question, so they take two layers of 12 keys.
    """
    window = 12 if isinstance(kind, CommonWords | FrequentWords) else 90
    torch.manual_seed(0)
    position = RoPE(8)
    model = Transformer(Dims(2, 16, 2, 8, 32), 256, [LayerEntry(lambda: position)]).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    examples = make_examples(kind, BYTES, 420, 40, 0)
    attend = make_attend(Window(window), 420, [position], torch.device("cpu"))
    scores = score_examples(kind, model, examples, attend, nullcontext())
    gains = np.split(scores.gain, np.cumsum([len(e.answer) for e in examples])[:-1])
    blind = [
        (
            example.answer - np.flatnonzero(example.tokens != example.control).max()
            > 2 * (window - 1) + 1
        )
        for example in examples
    ]
    n_blind = sum(int(one.sum()) for one in blind)
    assert 10 < n_blind < sum(map(len, blind))
    for gain, out_of_sight in zip(gains, blind, strict=True):
        assert (gain[out_of_sight] == 0).all()
    assert any((g[~b] != 0).any() for g, b in zip(gains, blind, strict=True))


@pytest.mark.parametrize(
    ("kind", "values"),
    [(MultiKey, {"keys": 0}), (MultiKey, {"keys": 101}), (MultiValue, {"values": 0}),
     (MultiQuery, {"queries": 5}), (MultiQuery, {"queries": 0}), (MultiKey, {"digits": 2})],
)  # fmt: skip
def test_values_without_a_meaning_are_refused(kind, values):
    with pytest.raises(ValueError, match=kind.name):
        kind(**values)
