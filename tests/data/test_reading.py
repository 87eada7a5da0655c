"""Readings: which tokens the windows of training hold, and which of them are targets."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lexp.data import Tokens
from lexp.data.reading import Documents, Packed, Padded
from lexp.data.reading.base import drawn_order
from lexp.data.text import TextFiles
from lexp.data.tokenizer import END_TOKENS, BPESpec, Bytes, FileSpec
from lexp.system.errors import DataError
from support.texts import make_text

END = 0


def tokens_of(*documents: list[int]) -> Tokens:
    starts = np.cumsum([0, *map(len, documents)])
    ids = np.array([token for document in documents for token in document], dtype=np.uint8)
    return Tokens(tuple(f"{n}" for n in range(len(documents))), ids, starts, None)


# Each token stands at one place only.
DOCUMENTS = (list(range(1, 31)), list(range(31, 41)), [], list(range(41, 43)), [43])


def epoch(batches, number: int):
    steps = range(number * batches.n_windows, (number + 1) * batches.n_windows)
    return [batches.batch(step) for step in steps]


def test_packed_windows_are_all_documents_end_to_end_with_a_token_after_each():
    tokens = tokens_of(*DOCUMENTS)
    after = {document[-1]: END for document in DOCUMENTS if document}
    after |= {a: b for document in DOCUMENTS for a, b in pairwise(document)}
    heads = {document[0] for document in DOCUMENTS if document}
    batches = Packed().batches(tokens, END, 6, 1, seed=1)
    assert batches.n_windows == (43 + 4 - 1) // 6 == 7
    orders = []
    for number in range(3):
        rows = [windows.tokens[0].tolist() for windows in epoch(batches, number)]
        assert all(windows.is_target is None for windows in epoch(batches, number))
        for row in rows:
            assert len(row) == 7
            for a, b in pairwise(row):
                assert b in heads if a == END else b == after[a]
        predicted = Counter(token for row in rows for token in row[1:])
        assert predicted.pop(END) in (2, 3, 4) and set(predicted.values()) == {1}
        assert len(predicted) >= 7 * 6 - 4
        orders.append([row[0] for row in rows])
    assert orders[0] != orders[1] != orders[2]


def test_packed_windows_overlap_by_one_token_and_leave_less_than_a_window_out():
    tokens = tokens_of(*DOCUMENTS)
    batches = Packed().batches(tokens, END, 10, 1, seed=0)
    rows = [windows.tokens[0].tolist() for windows in epoch(batches, 0)]
    firsts, lasts = Counter(row[0] for row in rows), Counter(row[-1] for row in rows)
    assert sum((firsts - lasts).values()) == 1  # but the first of the epoch
    assert len(rows) * 10 > 43 + 4 - 1 - 10


def test_a_mask_starts_anew_at_each_document_whose_first_token_is_no_target():
    tokens = tokens_of(*DOCUMENTS)
    plain, masked = (
        Packed(mask).batches(tokens, END, 12, 3, seed=5) for mask in (None, "document")
    )
    heads = [document[0] for document in DOCUMENTS if document]
    n_starts = 0
    for step in range(4):
        windows = masked.batch(step)
        assert np.array_equal(windows.tokens, plain.batch(step).tokens)
        is_head = np.isin(windows.tokens, heads)
        assert np.array_equal(windows.starts, is_head[:, :-1])
        assert np.array_equal(windows.is_target, ~is_head[:, 1:])
        n_starts += int(windows.starts.sum())
    assert n_starts >= 4


def test_padded_windows_predict_every_token_once_and_never_the_padding():
    tokens = tokens_of(*DOCUMENTS)
    batches = Padded().batches(tokens, None, 8, 1, seed=0)
    assert batches.n_windows == 4 + 2 + 1
    for number in range(2):
        predicted = []
        for windows in epoch(batches, number):
            row, is_target = windows.tokens[0], windows.is_target[0]
            n = int(is_target.sum())
            assert is_target[:n].all() and not is_target[n:].any()
            assert np.diff(row[: n + 1]).tolist() == [1] * n  # within one document
            assert not row[n + 1 :].any()
            predicted += row[1 : n + 1].tolist()
        assert sorted(predicted) == sorted(t for d in DOCUMENTS for t in d[1:])
    assert batches.remarks() == ["padding: 30 % of the tokens read; reading=packed has none"]


@pytest.mark.parametrize("reading", [Documents(), Packed(), Packed("document"), Padded()], ids=str)
def test_a_reading_is_a_pure_function_of_seed_and_step(reading):
    tokens = tokens_of(*DOCUMENTS)
    one, fresh = (reading.batches(tokens, END, 5, 2, seed=3) for _ in range(2))
    forward = [one.batch(step).tokens for step in range(12)]
    for step in (11, 2, 7, 0):
        assert np.array_equal(fresh.batch(step).tokens, forward[step])
    other = reading.batches(tokens, END, 5, 2, seed=4).batch(0).tokens
    assert not np.array_equal(other, forward[0])


@pytest.mark.parametrize("number", [0, 1])
def test_windows_are_in_the_order_of_numpys_permutations(number):
    """Runs resume in the order they began with, however little memory it takes."""
    tokens, rng = tokens_of(*DOCUMENTS), np.random.default_rng([7, number])
    texts = [DOCUMENTS[n] for n in rng.permutation([0, 1, 3, 4])]
    stream = np.array([token for text in texts for token in [*text, END]])
    order, start = rng.permutation(7), rng.integers(47 - 1 - 7 * 6 + 1)
    wanted = [stream[start + 6 * place :][:7].tolist() for place in order]
    batches = Packed().batches(tokens, END, 6, 1, seed=7)
    assert [windows.tokens[0].tolist() for windows in epoch(batches, number)] == wanted
    rng = np.random.default_rng([7, number])
    order, starts = rng.permutation(4 + 1), rng.integers([29 - 4 * 6 + 1, 9 - 6 + 1, 1, 2, 1])
    cut = [DOCUMENTS[n][starts[n] + 6 * at :][:7] for n in (0, 1) for at in range((4, 1)[n])]
    batches = Documents().batches(tokens, END, 6, 1, seed=7)
    found = [windows.tokens[0].tolist() for windows in epoch(batches, number)]
    assert found == [cut[place] for place in order]
    assert drawn_order(1000, rng).dtype == np.uint32


def test_documents_says_what_it_leaves_out_and_what_uses_all():
    batches = Documents().batches(tokens_of(*DOCUMENTS), None, 8, 1, seed=0)
    # Of 43 tokens 3 are in documents without a window; of 29 and 9 predictions 5 and 1 are over.
    assert batches.remarks() == [
        "left out: 7.0 % of the tokens (documents shorter than 9), and in each epoch 14.0 % (ends "
        "of others); reading=packed uses all"
    ]
    assert Documents().batches(tokens_of(list(range(1, 34))), None, 8, 1, seed=0).remarks() == []


def test_packed_says_which_documents_hold_the_token_that_ends_a_text():
    tokens = tokens_of([1, END, 2, END], [3, 4], [END, 5])
    (line,) = Packed().batches(tokens, END, 3, 1, seed=0).remarks()
    assert line.startswith("2 documents of dataset.train hold token 0, which reading=packed puts")
    assert Packed().batches(tokens_of([1, 2, 3, 4]), END, 3, 1, seed=0).remarks() == []


def test_the_token_that_ends_a_text(tmp_path: Path):
    """Byte 0; one more token for bpe; the vocabulary's own for a file, or a refusal."""
    (tmp_path / "a.txt").write_text(make_text(1, 300), encoding="utf-8")
    corpus = TextFiles(train=str(tmp_path / "*.txt"))
    assert (Bytes().end, Bytes().vocab_size) == (0, 256)
    plain = BPESpec(300).load(corpus, tmp_path)
    ended = BPESpec(300).load_with_end(corpus, tmp_path)
    assert plain.end is None and ended.end == plain.vocab_size == 300 and ended.vocab_size == 301
    assert plain.digest != ended.digest
    text = ["the of and to"]
    assert ended.encode(text)[0].ids.tolist() == plain.encode(text)[0].ids.tolist()
    path = tmp_path / "tokenizer.json"
    plain.save(tmp_path)
    with pytest.raises(DataError, match=r"reading=packed .* this tokenizer has none"):
        FileSpec(str(path)).load_with_end(corpus, tmp_path)
    ended.save(tmp_path)
    assert FileSpec(str(path)).load_with_end(corpus, tmp_path).end == 300
    assert END_TOKENS[0] == "<|endoftext|>"  # GPT-2's, so that tokenizer=gpt2 has one
