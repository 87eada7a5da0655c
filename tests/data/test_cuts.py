"""Long texts in pieces: the tokens are those of the whole text, whatever is in it."""

import json
import random

import numpy as np
import pytest
from tokenizers import Tokenizer, pre_tokenizers, trainers

from lexp.data import cuts
from lexp.data.tokenizer import END_TOKENS, Subwords, train_bpe

# White space of every kind, letters and digits of many scripts, what is cased, composed or parted.
NASTY = [
    *" \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u180e\u2003\u2028\u200b\u200d\u202f\u3000\ufeff\0",
    *"aZé\u0301ß\u017fK\u212a\u0131中文ｶ가ת\u0600अ\u093f\u0966²٣Ⅻ9 0",
    *"\U0001f600\U0001f468\U0010ffff\ue000\u0378'\"_-.,!<|>/\\",
    "'s", "'LL", "'\u017f", " 're", "<|endoftext|>", "<|end", "  ", " \n", "\r\n",
    "the", "length", " of", "1234", " ", " ", " ", " ",
]  # fmt: skip
LLAMA3, QWEN = cuts.PATTERNS
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def split(pattern: str) -> list[dict]:
    parts = {"pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [{"type": "Split", **parts}, {**BYTE_LEVEL, "use_regex": False}]


def nasty(n: int, most: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(NASTY, k=draw.randint(0, most))) for _ in range(n)]


def vocabulary(**changed) -> str:
    """Trained on what it is tried on, so that it has merges of all that stands side by side."""
    plain = {**json.loads(train_bpe(["a"], 257)), **changed}
    fast = Tokenizer.from_str(json.dumps(plain))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=3000, initial_alphabet=alphabet, special_tokens=[END_TOKENS[0]],
        show_progress=False,
    )  # fmt: skip
    fast.train_from_iterator(nasty(60, 300, 7), trainer)
    return fast.to_str()


VOCABULARIES = {
    "own": {},
    "gpt2": {"post_processor": BYTE_LEVEL},
    "llama3": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": split(LLAMA3)}},
    "qwen": {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": split(QWEN)},
        "normalizer": {"type": "NFC"},
    },
    "smollm": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True}, {**BYTE_LEVEL, "use_regex": True},
            ],
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("name", VOCABULARIES)
def test_tokens_are_those_of_the_whole_text(name, monkeypatch):
    tokenizer = Subwords(vocabulary(**VOCABULARIES[name]), name)
    texts = nasty(200, 60, 0)
    whole = tokenizer.encode(texts)
    n_parts = 0
    for most in (1, 2, 7):
        monkeypatch.setattr(cuts, "PIECE_CHARACTERS", most)
        n_parts += sum(len(list(cuts.pieces(text))) for text in texts)
        for text, ours, theirs in zip(texts, tokenizer.encode(texts), whole, strict=True):
            assert ours.ids.tolist() == theirs.ids.tolist(), text
            assert ours.n_bytes.tolist() == theirs.n_bytes.tolist(), text
            assert ours.n_lost == theirs.n_lost
    assert n_parts > 5 * len(texts)


def test_a_trained_vocabulary_is_the_same(monkeypatch):
    texts = nasty(5, 2000, 1)
    whole = train_bpe(texts, 400)
    monkeypatch.setattr(cuts, "PIECE_CHARACTERS", 10)
    assert train_bpe(texts, 400) == whole


@pytest.mark.parametrize(
    "changed",
    [
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always"}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}},
        {"pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": split(r"\S+ ")}},
        {"normalizer": {"type": "Lowercase"}},
        {"added_tokens": [{"id": 0, "content": "a b", "single_word": False, "lstrip": False,
                           "rstrip": False, "normalized": False, "special": True}]},
    ],
)  # fmt: skip
def test_a_vocabulary_that_may_join_what_is_cut_gets_whole_texts(changed):
    plain = json.loads(train_bpe(["a"], 257))
    assert cuts.cuts_at_spaces(plain)
    assert not cuts.cuts_at_spaces({**plain, **changed})


def test_pieces_are_the_text_and_small(monkeypatch):
    monkeypatch.setattr(cuts, "PIECE_CHARACTERS", 10)
    text = "ab " * 50 + "x" * 40
    assert "".join(found := list(cuts.pieces(text))) == text
    assert max(map(len, found[:-1])) <= 12 and np.diff([len(one) for one in found[:-1]]).max() < 3
