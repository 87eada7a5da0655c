"""Vocabularies from files: what is refused in a line, and how long training one may take."""

import base64
import json
import struct
import time

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lexp.data import open_store
from lexp.data.charsmap import check_charsmap
from lexp.data.corpus import Corpus, Document
from lexp.data.tokenizer import Subwords, train_bpe
from lexp.system.errors import DataError
from support.texts import make_text

TEXT = "plain é ｶﾞ"


def word_level(**changes) -> dict:
    value = json.loads(
        Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).to_str()
    )
    return {**value, **changes}


def precompiled(table: bytes) -> dict:
    text = base64.b64encode(table).decode()
    return word_level(normalizer={"type": "Precompiled", "precompiled_charsmap": text})


def in_sequence(part: dict) -> dict:
    return word_level(normalizer={"type": "Sequence", "normalizers": [part["normalizer"]]})


def trie(*units: int, size: int | None = None, texts: bytes = b"x\0") -> bytes:
    """A table of a trie whose first units are given, the rest 0, and of replacements."""
    array = np.zeros(256, dtype="<u4")
    array[: len(units)] = units
    return struct.pack("<I", 1024 if size is None else size) + array.tobytes() + texts


def walk(to_leaf: int, value: int) -> bytes:
    """A table that replaces `p`: its node, with a leaf at a distance, that holds a place."""
    units = [0] * 256
    units[ord("p")] = ord("p") | 1 << 8 | to_leaf << 10
    if (leaf := ord("p") ^ to_leaf) < 256:
        units[leaf] = value | 1 << 31
    return trie(*units)


REFUSED = {
    "no JSON": "{",
    "deep JSON": "[" * 100_000,
    "a list": "[]",
    "no model": "{}",
    "large integer": '{"model": ' + "1" * 5000 + "}",
    "unknown kind": word_level(model={"type": "Magic"}),
    "no tokens, words": word_level(model={"type": "WordLevel", "vocab": {}, "unk_token": "?"}),
    "no tokens, BPE": word_level(model={"type": "BPE", "vocab": {}, "merges": []}),
    "no tokens, Unigram": word_level(model={"type": "Unigram", "vocab": []}),
    "huge id": word_level(model={"type": "WordLevel", "vocab": {"a": 2**32 - 1}, "unk_token": "a"}),
    "dropout": word_level(
        model={"type": "BPE", "dropout": 0.5, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
    ),
    "regex": word_level(pre_tokenizer={
        "type": "Split", "pattern": {"Regex": "("}, "behavior": "Removed", "invert": False}),
    "table: none": precompiled(b""),
    "table: cut": precompiled(trie()[:500]),
    "table: no trie": precompiled(trie(size=0)),
    "table: not UTF-8": precompiled(trie(texts=b"\xff")),
    "table: larger than itself": precompiled(trie(size=2**32 - 4)),
    "table: root outside": precompiled(trie(1 << 20)),
    "table: leaf outside": precompiled(walk(1 << 10, 0)),
    "table: text outside": precompiled(walk(1, 100)),
    "table: all ones": precompiled(trie(*[2**32 - 1] * 256)),
    "table: in a sequence": in_sequence(precompiled(trie(1 << 20))),
    "table: a number": word_level(normalizer={"type": "Precompiled", "precompiled_charsmap": 3}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_vocabularies_that_cannot_be_used_are_refused_in_a_line(name):
    value = REFUSED[name]
    with pytest.raises(DataError, match=r"^tokenizer my.json: ") as error:
        Subwords(value if isinstance(value, str) else json.dumps(value), "my.json")
    assert "\n" not in str(error.value)


def test_a_table_that_stays_inside_is_used():
    check_charsmap(base64.b64encode(trie()).decode())
    tokenizer = Subwords(json.dumps(precompiled(walk(1, 0))), "my.json")
    normalizer = Tokenizer.from_str(json.dumps(precompiled(walk(1, 0)))).normalizer
    assert normalizer.normalize_str("pop") == "xox"
    assert tokenizer.encode(["a"])[0].ids.tolist() == [0]


CANNOT_CUT = {
    "words": Tokenizer(models.WordLevel({"a": 0}, unk_token="[UNK]")),
    "word pieces": Tokenizer(models.WordPiece({"a": 0}, unk_token="[UNK]")),
    "BPE": Tokenizer(models.BPE({"a": 0}, [], unk_token="[UNK]")),
    "Unigram": Tokenizer(models.Unigram([("a", -1.0)])),
}


class Two(Corpus):
    """Two documents; no vocabulary of CANNOT_CUT can cut the second."""

    def documents(self, split):
        if split == "train":
            yield from (Document("good", "a"), Document("bad", "b"))

    def fingerprint(self):
        return "two"


@pytest.mark.parametrize("name", CANNOT_CUT)
def test_a_document_that_a_vocabulary_cannot_cut_is_named(tmp_path, name):
    tokenizer = Subwords(CANNOT_CUT[name].to_str(), "my.json")
    with pytest.raises(DataError, match=r"^bad: tokenizer my.json: cannot cut this text: "):
        open_store(Two(), tokenizer, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_panic_of_the_library_is_a_line(capfd):
    value = word_level(pre_tokenizer={"type": "FixedLength", "length": 0})
    with pytest.raises(DataError, match="my.json: cannot cut this text"):
        Subwords(json.dumps(value), "my.json").encode(["a"])


def plain_bpe(texts: list[str], size: int) -> str:
    """Byte-level BPE as the library trains it on whole words."""
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    fast.train_from_iterator(texts, trainer)
    return fast.to_str()


@pytest.mark.parametrize(
    "text",
    [
        make_text(0, 2000),
        "x" * 1000 + " y",
        " " * 900 + "é" * 400,
        "日本語。" * 50,
        "a\n\n\tb" * 99,
    ],
)
def test_text_with_spaces_gives_the_vocabulary_of_whole_words(text):
    assert train_bpe([text, "more"], 400) == plain_bpe([text, "more"], 400)


@pytest.mark.parametrize("kind", ["letters", "bytes of several", "spaces"])
def test_text_without_spaces_takes_time_in_proportion(kind):
    """Four times the text takes about four times as long; in whole words, sixteen times."""
    draw = np.random.default_rng(0)
    letters = {"letters": "ACGT", "bytes of several": "天地玄黄", "spaces": " \t\u2003\u2002"}[kind]
    text = "".join(draw.choice(list(letters), 200_000))
    seconds = []
    for part in (text[:50_000], text):
        began = time.process_time()
        train_bpe([part], 1500)
        seconds.append(time.process_time() - began)
    assert seconds[1] < 9 * seconds[0]
