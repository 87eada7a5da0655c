"""Text that a vocabulary cannot give back, and what is said of texts when they are opened."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from lexp.data import open_store
from lexp.data.lost_text import lost_bytes
from lexp.data.remarks import remarks
from lexp.data.text import TextFiles
from lexp.data.tokenizer import Bytes, Subwords, train_bpe

WORDS = "the of and to in that is was for it with as his on be at by"


def trained(model, pre_tokenizer=None, normalizer=None, decoder=None, text=WORDS, whole=False):
    """A vocabulary trained on a text; whole: with every byte."""
    fast = Tokenizer(model)
    for name, part in (
        ("pre_tokenizer", pre_tokenizer), ("normalizer", normalizer), ("decoder", decoder),
    ):  # fmt: skip
        if part is not None:
            setattr(fast, name, part)
    alphabet = pre_tokenizers.ByteLevel.alphabet() if whole else []
    kinds = {models.WordLevel: trainers.WordLevelTrainer, models.BPE: trainers.BpeTrainer,
             models.WordPiece: trainers.WordPieceTrainer}  # fmt: skip
    more = {} if isinstance(model, models.WordLevel) else {"initial_alphabet": alphabet}
    trainer = kinds[type(model)](
        vocab_size=400, special_tokens=["[UNK]"], show_progress=False, **more
    )
    fast.train_from_iterator([text] * 5, trainer)
    return Subwords(fast.to_str(), "test")


def byte_level(**parts):
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return trained(models.BPE(), splitter, decoder=decoders.ByteLevel(), whole=True, **parts)


def unknown():
    return models.WordLevel(unk_token="[UNK]")


CASES = {
    "bytes": (Bytes, "naïve 😀  ∞\r\n", 0),
    "bpe": (lambda: Subwords(train_bpe([WORDS], 300), "test"), "naïve 😀  ∞\r\n", 0),
    "byte level without a decoder": (
        lambda: trained(models.BPE(), pre_tokenizers.ByteLevel(), whole=True), "naïve 😀", 0),
    "no splitter": (lambda: trained(models.BPE()), "the of theof", 0),
    "metaspace": (
        lambda: trained(models.BPE(), pre_tokenizers.Metaspace(), None, decoders.Metaspace()),
        "the of theof", 0),
    "metaspace without a decoder": (
        lambda: trained(models.BPE(), pre_tokenizers.Metaspace()), "the of theof", 0),
    "word pieces": (
        lambda: trained(models.WordPiece(unk_token="[UNK]"), pre_tokenizers.Whitespace()),
        "the of theof", 0),
    "words": (lambda: trained(unknown(), pre_tokenizers.Whitespace()), "the of", 0),
    "unknown words": (lambda: trained(unknown(), pre_tokenizers.Whitespace()), "the cat of", 4),
    "unknown, none": (lambda: trained(unknown(), pre_tokenizers.Whitespace()), "ЖЖ", 4),
    "dropped characters": (
        lambda: trained(models.BPE(), pre_tokenizers.Whitespace()), "the ЖЖ of", 5),
    "nothing is left": (lambda: trained(models.BPE(), pre_tokenizers.Whitespace()), "Ж日", 5),
    "spaces between words cut": (
        lambda: trained(models.BPE(), pre_tokenizers.Whitespace()), "bat the thfo", 2),
    "white space": (
        lambda: trained(models.BPE(), pre_tokenizers.Whitespace()), "the   of\n\nto", 3),
    "lower case": (lambda: byte_level(normalizer=normalizers.Lowercase()), "The OF to", 3),
    "accents": (
        lambda: byte_level(normalizer=normalizers.Sequence(
            [normalizers.NFD(), normalizers.StripAccents()])), "café naïve", 4),
    "composed": (lambda: byte_level(normalizer=normalizers.NFC()), "cafe\u0301", 3),
    "spaces replaced": (
        lambda: byte_level(normalizer=normalizers.Replace("  ", " ")), "the  of", 1),
    "stripped": (lambda: byte_level(normalizer=normalizers.Strip()), "  the of\n", 3),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bytes_that_tokens_cannot_give_back_are_counted(name):
    make, text, expected = CASES[name]
    tokenizer = make()
    (found,) = tokenizer.encode([text])
    assert found.n_lost == expected
    (nothing,) = tokenizer.encode([""])
    assert nothing.n_lost == 0


def test_at_least_a_byte_is_lost_where_a_text_differs_and_at_most_all():
    assert lost_bytes("a b", "ab ") == 1
    assert lost_bytes("ab", "abcdefgh") == 2
    assert lost_bytes("ab", " ab") == 0
    assert lost_bytes("", "") == 0


def opened(folder: Path, tokenizer=None, **texts: list[str]):
    """A store of texts by split."""
    for split, all_texts in texts.items():
        (folder / split).mkdir(parents=True)
        for number, text in enumerate(all_texts):
            (folder / split / f"{number}.txt").write_text(text, encoding="utf-8")
    corpus = TextFiles(**{split: f"{folder}/{split}/*.txt" for split in texts})
    return open_store(corpus, tokenizer or Bytes(), folder / "cache")


def test_the_share_of_a_split_is_said_and_kept(tmp_path: Path):
    tokenizer = trained(models.BPE(), pre_tokenizers.Whitespace())
    for _ in range(2):  # the second time from the cache
        store = opened(tmp_path / str(_), tokenizer, train=["the of"], test=["the ЖЖЖ", "ЖЖ", "of"])
        again = open_store(
            TextFiles(train=f"{tmp_path}/{_}/train/*", test=f"{tmp_path}/{_}/test/*"),
            tokenizer, tmp_path / str(_) / "cache",
        )  # fmt: skip
        for one in (store, again):
            assert one.facts["test"].n_bytes == 16 and one.facts["test"].n_lost == 11
            assert one.facts["train"].lost_share == 0 and one.facts["validation"].lost_share == 0
            assert remarks(one, "mine") == [
                "tokenizer=mine cannot give back 68.8 % of the bytes of dataset.test (unknown, "
                "dropped or changed characters); bits per byte is not compared",
                "1 of 3 documents of dataset.test has no token",
            ]


def test_a_share_that_bits_per_byte_does_not_show_is_said_and_compared(tmp_path: Path):
    tokenizer = byte_level(normalizer=normalizers.Lowercase())
    store = opened(tmp_path, tokenizer, test=["A" + "a" * 19_999])
    assert remarks(store, "mine") == [
        "tokenizer=mine cannot give back 0.005 % of the bytes of dataset.test (unknown, dropped or "
        "changed characters)"
    ]


COPIES = {
    "train": ({"train": ["a", "b", "c"], "test": ["a", "c", "x"]},
              ["2 of 3 documents of dataset.test are in dataset.train too"]),
    "all": ({"train": ["a"], "validation": ["a", "y"], "test": ["a"]},
            ["1 of 2 documents of dataset.validation is in dataset.train too",
             "1 of 1 document of dataset.test is in dataset.train too",
             "1 of 1 document of dataset.test is in dataset.validation too"]),
    "validation": ({"train": ["t"], "validation": ["a"], "test": ["a", "b"]},
                   ["1 of 2 documents of dataset.test is in dataset.validation too"]),
    "within": ({"train": ["t", "t"], "test": ["a", "b", "a", "a"]},
               ["2 of 4 documents of dataset.test are copies of others in it; intervals take "
                "documents as independent"]),
    "byte order mark": ({"train": ["a"], "test": ["\ufeffa"]},
                        ["1 of 1 document of dataset.test is in dataset.train too"]),
    "a trifle": ({"train": ["#"], "validation": ["#", "x" * 1000], "test": ["#", "x" * 998]},
                 ["1 of 2 documents of dataset.test is in dataset.train too",
                  "1 of 2 documents of dataset.test is in dataset.validation too"]),
    "none": ({"train": ["a"], "validation": ["b"], "test": ["c"]}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_documents_are_counted(tmp_path: Path, name):
    texts, expected = COPIES[name]
    assert remarks(opened(tmp_path, **texts), "mine") == expected


def test_rows_without_a_text_are_no_copies(tmp_path: Path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text('{"text": ""}\n{"text": ""}\n')
    corpus = TextFiles(train=f"{tmp_path}/train.jsonl", test=f"{tmp_path}/test.jsonl")
    assert remarks(open_store(corpus, Bytes(), tmp_path / "cache"), "mine") == []


@pytest.mark.parametrize(
    ("text", "is_said"),
    [("h\0e\0", True), ("\0" + "x" * 9, True), ("\0" + "x" * 10, False), ("plain", False)],
)
def test_documents_of_nul_characters_are_said(tmp_path: Path, text, is_said):
    lines = remarks(opened(tmp_path, train=["fine", text]), "mine")
    expected = (
        "1 of 2 documents of dataset.train is NUL characters to a tenth or more (1.txt first): is "
        "that UTF-16?"
    )
    assert lines == [expected] * is_said


# --- vocabularies as they come


def bpe_json(**changes) -> dict:
    value = json.loads(train_bpe([WORDS], 300))
    value["model"].update(changes)
    return value


def test_ids_may_have_gaps(tmp_path: Path):
    value = bpe_json()
    vocab = value["model"]["vocab"]
    vocab["t"] = 999
    tokenizer = Subwords(json.dumps(value), "test")
    assert tokenizer.vocab_size == 1000
    store = opened(tmp_path, tokenizer, train=["tt x"])
    assert np.asarray(store.splits["train"].ids).tolist() == [999, 999, vocab["Ġ"], vocab["x"]]


def test_a_document_with_a_token_of_many_bytes_is_named(tmp_path: Path):
    tokenizer = byte_level(normalizer=normalizers.Replace(" ", ""))
    with pytest.raises(Exception, match=r"^1.txt: one token covers 70001 bytes"):
        opened(tmp_path, tokenizer, train=["fine", "a" + " " * 70_000 + "b"])


def test_token_ids_and_bytes_of_text_are_as_ever():
    """Counting what is lost changes no token."""
    tokenizer = byte_level(normalizer=normalizers.Lowercase())
    (found,) = tokenizer.encode(["The THE the"])
    assert found.n_bytes.sum() == 11 and found.ids.dtype == np.uint32
