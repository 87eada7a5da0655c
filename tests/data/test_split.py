"""One folder of texts split by a hash of each text: whole documents, each split at least one."""

import itertools
import random

import numpy as np
import pytest

from lexp.data.corpus import SPLITS
from lexp.data.split import assign
from lexp.data.text import SHARES, TextFiles
from lexp.system.errors import ConfigError, DataError


def write(folder, texts) -> None:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def split_of(corpus: TextFiles) -> dict[str, str]:
    return {d.text: split for split in SPLITS for d in corpus.documents(split)}


@pytest.mark.parametrize(
    ("n_texts", "counts"),
    [(3, (1, 1, 1)), (4, (2, 1, 1)), (5, (3, 1, 1)), (10, (8, 1, 1)), (20, (16, 2, 2)),
     (93, (74, 10, 9))],
)  # fmt: skip
def test_each_document_is_in_one_split_and_each_split_has_one(tmp_path, n_texts, counts):
    texts = {f"{n}.txt": f"text number {n}" for n in range(n_texts)}
    write(tmp_path, texts)
    corpus = TextFiles(path=str(tmp_path))
    of_split = [[d.text for d in corpus.documents(split)] for split in SPLITS]
    assert tuple(map(len, of_split)) == counts
    assert sorted(itertools.chain(*of_split)) == sorted(texts.values())
    (note,) = corpus.notes()
    words = ", ".join(f"{n} {split}" for n, split in zip(counts, SPLITS, strict=True))
    begins = f"dataset.path={tmp_path}: {n_texts} documents, {words}"
    assert note == f"{begins} (80 / 10 / 10 %, by a hash of each text)"


def test_the_text_decides_and_not_its_name_or_place(tmp_path):
    texts = [f"text {n}" for n in range(40)]
    write(tmp_path / "a", {f"{n}.txt": text for n, text in enumerate(texts)})
    random.Random(0).shuffle(texts)
    write(tmp_path / "b", {f"deep/er/{n}.TXT": text for n, text in enumerate(texts)})
    rows = "".join(f'{{"text": "{text}"}}\n' for text in reversed(texts))
    write(tmp_path, {"c.jsonl": rows})
    first, *others = (split_of(TextFiles(path=str(tmp_path / x))) for x in ("a", "b", "c.jsonl"))
    assert len(first) == 40 and others == [first, first]


def test_a_document_that_is_added_moves_few(tmp_path):
    write(tmp_path, {f"{n}.txt": f"text {n}" for n in range(100)})
    before = split_of(TextFiles(path=str(tmp_path)))
    write(tmp_path, {"new.txt": "a text that is new"})
    after = split_of(TextFiles(path=str(tmp_path)))
    assert sum(after[text] != split for text, split in before.items()) <= 2


@pytest.mark.parametrize("copies", [2, 7, 30])
def test_copies_of_a_text_stay_in_one_split(copies):
    rng = np.random.default_rng(copies)
    hashes = rng.permutation(np.repeat(rng.integers(0, 2**63, 12, dtype=np.uint64), copies))
    assigned = assign(hashes, SHARES)
    for text in np.unique(hashes):
        assert len(set(assigned[hashes == text])) == 1
    assert set(assigned) == {0, 1, 2}


@pytest.mark.parametrize("n_texts", [1, 2])
def test_too_few_documents_are_cut(tmp_path, n_texts):
    texts = [f"{n}" + "0123456789" * 10 for n in range(n_texts)]
    write(tmp_path, {f"{n}.txt": text for n, text in enumerate(texts)})
    corpus = TextFiles(path=f"{tmp_path}/*.txt")
    train, validation, test = ([d.text for d in corpus.documents(split)] for split in SPLITS)
    for text, *pieces in zip(texts, train, validation, test, strict=True):
        assert "".join(pieces) == text and [len(x) for x in pieces] == [80, 10, 11]
    assert "cut into 80 / 10 / 10 % of the text" in corpus.notes()[0]


def test_a_text_that_cannot_be_cut_is_named(tmp_path):
    write(tmp_path, {"a.txt": "xy"})
    with pytest.raises(DataError, match=r"a\.txt has 2 characters: too few to be cut in three"):
        list(TextFiles(path=str(tmp_path)).documents("train"))


def test_shares_can_be_given(tmp_path):
    write(tmp_path, {f"{n}.txt": f"text {n}" for n in range(20)})
    corpus = TextFiles(path=str(tmp_path), split=[0.5, 0.25, 0.25])
    assert [sum(1 for _ in corpus.documents(split)) for split in SPLITS] == [10, 5, 5]
    assert corpus.fingerprint() != TextFiles(path=str(tmp_path)).fingerprint()


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"path": "x", "split": [0.8, 0.2]}, "three shares above 0"),
        ({"path": "x", "split": [0.8, 0.2, 0.0]}, "three shares above 0"),
        ({"path": "x", "split": [8, 1, 1]}, "add up to 1"),
        ({"path": "x", "split": [float("nan")] * 3}, "add up to 1"),
        ({"path": "x", "split": ["a", "b", "c"]}, "three shares"),
        ({"path": "x", "split": [True, 0.0, 0.0]}, "three shares"),
        ({"path": "x", "train": "y"}, "dataset.path and dataset.train .give one or the other"),
        ({"train": "y", "split": [0.6, 0.2, 0.2]}, "goes with dataset.path"),
    ],
)
def test_values_that_do_not_go_together_are_refused(values, line):
    with pytest.raises(ConfigError, match=line):
        TextFiles(**values)


def test_a_folder_means_the_readable_files_in_it_and_below(tmp_path):
    write(tmp_path, {"a.txt": "1", "b/c.txt": "2", "b/d/e.jsonl": '{"text": "3"}', "b/f.pdf": "4",
                     ".hidden/g.txt": "5"})  # fmt: skip
    for given in (str(tmp_path), f"{tmp_path}/", [f"{tmp_path}/a.txt", f"{tmp_path}/b"]):
        corpus = TextFiles(train=given)
        assert [d.text for d in corpus.documents("train")] == ["1", "2", "3"]
        assert "1 of 4 files left out (.pdf)" in corpus.notes()[0]
    # A glob that matches files takes those alone.
    assert [d.text for d in TextFiles(train=f"{tmp_path}/*").documents("train")] == ["1"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"dataset.path=.*empty matches .* ends in \.txt"):
        TextFiles(path=f"{tmp_path}/empty").files("path")


def test_a_text_below_that_changes_is_seen(tmp_path):
    write(tmp_path, {f"{n}.txt": f"text {n}" for n in range(5)})
    before = TextFiles(path=str(tmp_path))
    assert not before.changed_since(4e9) and before.changed_since(0)
    digest = before.fingerprint()
    write(tmp_path, {"3.txt": "another"})
    assert TextFiles(path=str(tmp_path)).fingerprint() != digest
