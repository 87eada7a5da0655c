"""Corpora, tokenizers, the store and batches: exact bytes, named errors, a fixed order."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from lexp.data import Corpus, open_store
from lexp.data.corpus import SPLITS, Document
from lexp.data.hub import Hub, parse_split
from lexp.data.reading import DocumentBatches
from lexp.data.stdlib import Stdlib, split_of
from lexp.data.text import TextFiles
from lexp.data.tokenizer import (
    BPESpec,
    Bytes,
    BytesSpec,
    FileSpec,
    Subwords,
    bytes_per_token,
    load_tokenizer,
    train_bpe,
)
from lexp.system.errors import ConfigError, DataError


class Lists(Corpus):
    """A corpus from lists of texts."""

    def __init__(self, **splits: list[str]):
        self.splits = splits

    def documents(self, split):
        for number, text in enumerate(self.splits.get(split, [])):
            yield Document(f"{split}-{number}", text)

    def fingerprint(self) -> str:
        return str(abs(hash(json.dumps(self.splits))))


def texts_of(corpus, split):
    return [document.text for document in corpus.documents(split)]


# --- corpora


def test_stdlib_is_long_disjoint_and_the_same_twice():
    corpus = Stdlib()
    names = {split: [d.name for d in corpus.documents(split)] for split in SPLITS}
    assert sum(map(len, names.values())) == len(set().union(*names.values())) > 300
    assert sum(len(text) > 4096 for text in texts_of(corpus, "test")) >= 10
    assert corpus.fingerprint() == Stdlib().fingerprint()
    assert not any("site-packages" in name for split in SPLITS for name in names[split])


def test_stdlib_split_depends_on_the_name_alone():
    assert split_of("argparse.py") == "train" and split_of("zipfile.py") == "validation"
    shares = [split_of(f"file{n}.py") for n in range(4000)]
    assert 0.83 < shares.count("train") / 4000 < 0.89
    assert 0.07 < shares.count("test") / 4000 < 0.11


def test_text_reads_txt_jsonl_and_parquet(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    (tmp_path / "a.txt").write_bytes("erste\r\nZeile é".encode())
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}', encoding="utf-8")
    parquet.write_table(pa.table({"text": ["three", "four"]}), tmp_path / "c.parquet")
    (tmp_path / "notes.md").write_text("not mine")
    corpus = TextFiles(train=str(tmp_path / "*"), validation=[str(tmp_path / "a.*")][0:0])
    assert texts_of(corpus, "train") == ["erste\r\nZeile é", "one", "two", "three", "four"]
    assert [d.name for d in corpus.documents("train")][1:3] == ["b.jsonl:1", "b.jsonl:3"]
    assert texts_of(corpus, "test") == []


def test_text_fingerprint_follows_content_and_not_place(tmp_path: Path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("same")
    one, two = (TextFiles(train=str(tmp_path / f / "*.txt")) for f in ("one", "two"))
    assert one.fingerprint() == two.fingerprint()
    (tmp_path / "two" / "a.txt").write_text("other")
    edited = TextFiles(train=str(tmp_path / "two" / "*.txt"))
    assert one.fingerprint() != edited.fingerprint()
    assert TextFiles(test=str(tmp_path / "one" / "*.txt")).fingerprint() != one.fingerprint()


BAD_FILES = {
    "empty.txt": (b"", ["empty.txt", "is empty"]),
    "latin.txt": (b"one\ntwo\ncaf\xe9", ["latin.txt", "line 3", "byte 11", "UTF-8"]),
    "latin.jsonl": (b'{"text": "ok"}\n{"text": "caf\xe9"}\n', ["latin.jsonl", "line 2", "UTF-8"]),
    "cut.jsonl": (b'{"text": "ok"}\n{"text": "o', ["cut.jsonl", "line 2", "not JSON"]),
    "other.jsonl": (b'{"body": "x"}\n', ["other.jsonl", "line 1", "'text'", "body"]),
    "number.jsonl": (b'{"text": 7}\n', ["number.jsonl", "line 1", "int"]),
    "list.jsonl": (b"[1]\n", ["list.jsonl", "line 1", "list"]),
    "not.parquet": (b"PAR0", ["not.parquet", "parquet"]),
    "half.jsonl": (b'{"text": "ok \\ud800"}\n', ["half.jsonl", "line 1", "surrogates"]),
    "deep.jsonl": (b"[" * 100_000, ["deep.jsonl", "line 1"]),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_named_with_their_place(tmp_path: Path, name):
    content, expected = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        TextFiles(train=str(tmp_path / "*")).fingerprint()
    assert all(part in str(error.value) for part in expected), str(error.value)


def test_a_byte_order_mark_and_odd_file_names_are_no_obstacle(tmp_path: Path):
    (tmp_path / "bom.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\n{"text": "two"}')
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("three")
    corpus = TextFiles(train=str(tmp_path / "*"))
    assert texts_of(corpus, "train") == ["one", "two", "three"]
    assert corpus.fingerprint() == corpus.fingerprint()


def test_a_hub_row_that_is_not_text_is_named(local_hub: Path):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    table = pa.table({"page": [["a", "list"]]})
    for path in (local_hub / "data").iterdir():
        parquet.write_table(table, path)
    with pytest.raises(DataError, match=r"test:0: column 'page' is list, not text"):
        list(Hub(str(local_hub), column="page").documents("test"))


def test_parquet_without_the_column(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    parquet.write_table(pa.table({"body": ["x"]}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"no column 'text'; it has body"):
        TextFiles(train=str(tmp_path / "*")).fingerprint()


def test_a_glob_without_files_and_a_file_in_two_splits_are_errors(tmp_path: Path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"dataset.test=.*\*.jsonl matches nothing"):
        TextFiles(test=str(tmp_path / "*.jsonl")).files("test")
    both = TextFiles(train=str(tmp_path / "*.txt"), test=str(tmp_path / "a.*"))
    with pytest.raises(DataError, match=r"a.txt is in both dataset.train and dataset.test"):
        both.fingerprint()


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch) -> Path:
    """A folder laid out like a hub dataset, and the hub itself out of reach."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    for split, n_rows in (("train", 5), ("validation", 2), ("test", 3)):
        table = pa.table({"page": [f"{split} {n}" for n in range(n_rows)]})
        parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return tmp_path / "set"


def test_hub_reads_a_dataset_with_slices_and_limits(local_hub: Path):
    corpus = Hub(
        str(local_hub), column="page", train="train[1:4]", test="train[4:]", max_documents=2
    )
    assert texts_of(corpus, "train") == ["train 1", "train 2"]
    assert texts_of(corpus, "validation") == ["validation 0", "validation 1"]
    assert texts_of(corpus, "test") == ["train 4"]
    other = Hub(str(local_hub), column="page", train="train[1:4]", test="train[4:]")
    assert corpus.fingerprint() != other.fingerprint()
    assert (
        other.fingerprint()
        == Hub(str(local_hub), column="page", train="train[1:4]", test="train[4:]").fingerprint()
    )


def test_hub_streams_to_a_budget_of_tokens(local_hub: Path, tmp_path: Path):
    def hub(**choices):
        return Hub(str(local_hub), column="page", **choices)

    store = open_store(hub(max_tokens=15.0), Bytes(), tmp_path / "cache")
    assert list(store.splits["train"].lengths) == [7, 7, 7]  # "train 0" and on
    assert list(store.splits["validation"].lengths) == [12, 12]
    assert len({hub(max_tokens=n).fingerprint() for n in (None, 15, 16)}) == 3
    with pytest.raises(ConfigError, match="dataset.max_tokens=0 "):
        hub(max_tokens=0)


def test_hub_names_a_missing_column_split_or_dataset(local_hub: Path):
    with pytest.raises(DataError, match=r"no column 'text'; it has page"):
        list(Hub(str(local_hub)).documents("train"))
    with pytest.raises(DataError, match="cannot be loaded"):
        list(Hub(str(local_hub), train="training", column="page").documents("train"))
    with pytest.raises(DataError, match=r"nobody/nothing .*revision v9.* cannot be loaded"):
        Hub("nobody/nothing", revision="v9").fingerprint()


def test_hub_split_syntax():
    assert parse_split("train") == ("train", 0, None)
    assert parse_split("train[10:]") == ("train", 10, None)
    assert parse_split("train[:5]") == ("train", 0, 5)
    with pytest.raises(DataError, match="10%"):
        parse_split("train[:10%]")


# --- tokenizers

HARD = "plain\r\n\t  spaces\n\nünïcode ✓ 中文 👩‍👩‍👧 e\u0301 \x00 end"


def test_bytes_are_the_utf8_bytes():
    (found,) = Bytes().encode([HARD])
    assert found.ids.tobytes() == HARD.encode()
    assert found.n_bytes.sum() == len(HARD.encode())


@pytest.mark.parametrize("text", [HARD, "", "a", "👩‍👩‍👧" * 5, " " * 40])
def test_bpe_loses_nothing_and_counts_every_byte_once(text):
    tokenizer = Subwords(train_bpe([HARD * 3, "the cat sat on the mat"], 300), "test")
    (found,) = tokenizer.encode([text])
    assert tokenizer._fast.decode(found.ids.tolist(), skip_special_tokens=False) == text
    assert found.n_bytes.sum() == len(text.encode())
    assert len(found.n_bytes) == len(found.ids)
    assert tokenizer.vocab_size <= 300 and (found.ids < tokenizer.vocab_size).all()


def test_bytes_per_token_shares_out_gaps_and_split_characters():
    # "é" (2 bytes) in two tokens, a dropped space before "b", and a tail after the last token.
    assert bytes_per_token("aé b!", [(0, 1), (1, 2), (1, 2), (3, 4)]).tolist() == [1, 2, 0, 3]
    assert bytes_per_token("", []).tolist() == []


def test_bpe_is_cached_by_content_and_saved_with_a_run(tmp_path: Path):
    corpus = Lists(train=["the cat " * 50])
    spec = BPESpec(260)
    first = spec.load(corpus, tmp_path)
    (path,) = tmp_path.glob("bpe-260-*.json")
    stamp = path.stat().st_mtime_ns
    assert spec.load(corpus, tmp_path).digest == first.digest
    assert path.stat().st_mtime_ns == stamp
    run = tmp_path / "run"
    run.mkdir()
    first.save(run)
    assert load_tokenizer(run).digest == first.digest
    assert FileSpec(str(run / "tokenizer.json")).load(corpus, tmp_path).digest == first.digest
    assert isinstance(load_tokenizer(tmp_path), Bytes)


def test_tokenizer_mistakes_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="vocab_size=256"):
        BPESpec(256)
    with pytest.raises(DataError, match="is not a file"):
        FileSpec(str(tmp_path / "none.json")).load(Lists(), tmp_path)
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match="bad.json: cannot be read"):
        FileSpec(str(tmp_path / "bad.json")).load(Lists(), tmp_path)
    with pytest.raises(DataError, match="train split"):
        BPESpec(300).load(Lists(test=["x"]), tmp_path)


# --- the store


@pytest.mark.parametrize("spec", [BytesSpec(), BPESpec(300)], ids=["bytes", "bpe"])
def test_store_gives_back_every_document(tmp_path: Path, spec):
    corpus = Lists(train=["hello world " * 9, "", HARD], validation=["ä" * 7], test=[])
    tokenizer = spec.load(corpus, tmp_path)
    store = open_store(corpus, tokenizer, tmp_path / "cache")
    again = open_store(corpus, tokenizer, tmp_path / "cache")
    for tokens in (store.splits["train"], again.splits["train"]):
        assert tuple(tokens.names) == ("train-0", "train-1", "train-2")
        for number, text in enumerate(texts_of(corpus, "train")):
            (encoded,) = tokenizer.encode([text])
            n = len(encoded.ids)
            assert tokens.lengths[number] == n
            assert tokens.window(number, 0, n).tolist() == encoded.ids.tolist()
            assert tokens.n_bytes(number, 0, n) == len(text.encode())
            assert tokens.n_bytes(number, 1, max(0, n - 1)) == int(encoded.n_bytes[1:].sum())
    assert list(store.splits["test"].names) == []


def test_store_is_complete_or_absent(tmp_path: Path):
    class Breaking(Lists):
        def documents(self, split):
            yield Document("good", "fine")
            raise DataError("broken file")

    with pytest.raises(DataError, match="broken file"):
        open_store(Breaking(train=["x"]), Bytes(), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_a_killed_process_left_is_dropped_after_a_day(tmp_path: Path):
    class Deadly(Lists):
        def documents(self, split):
            yield Document("good", "fine")
            os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(2):
        if not (child := os.fork()):
            open_store(Deadly(train=["x"]), Bytes(), tmp_path)
        os.waitpid(child, 0)
    (lock,) = tmp_path.glob("*.lock")
    old, fresh = (path for path in tmp_path.iterdir() if path != lock)
    yesterday = time.time() - 86500
    for path in (*old.iterdir(), old, fresh, lock):  # fresh has a file just written to
        os.utime(path, (yesterday, yesterday))
    (tmp_path / ".other").mkdir()  # of somebody else
    os.utime(tmp_path / ".other", (yesterday, yesterday))
    open_store(Lists(train=["hello world"]), Bytes(), tmp_path)
    (written,) = (path for path in tmp_path.iterdir() if path.name[0] != ".")
    assert set(tmp_path.iterdir()) == {fresh, written, tmp_path / ".other"}


def test_a_damaged_index_is_named(tmp_path: Path):
    corpus = Lists(train=["hello world"])
    open_store(corpus, Bytes(), tmp_path)
    (path,) = tmp_path.glob("*/manifest.json")
    path.write_text("{")
    with pytest.raises(DataError, match=r"manifest.json is damaged .*delete"):
        open_store(corpus, Bytes(), tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"manifest.json is damaged .*delete"):
        open_store(corpus, Bytes(), tmp_path)


def test_a_truncated_store_is_named(tmp_path: Path):
    corpus = Lists(train=["hello world"])
    open_store(corpus, Bytes(), tmp_path)
    (path,) = tmp_path.glob("*/train-00000.tokens")
    path.write_bytes(b"hel")
    with pytest.raises(DataError, match=r"train-00000.tokens is damaged .*delete"):
        open_store(corpus, Bytes(), tmp_path)


# --- batches


def store_of(tmp_path: Path, texts: list[str]):
    return open_store(Lists(train=texts), Bytes(), tmp_path).splits["train"]


def test_batches_are_a_pure_function_of_seed_and_step(tmp_path: Path):
    tokens = store_of(tmp_path, ["".join(map(chr, range(32, 120))) * 5, "abc" * 100])
    one = DocumentBatches(tokens, 16, 4, seed=3)
    forward = [one.batch(step).tokens for step in range(30)]
    fresh = DocumentBatches(tokens, 16, 4, seed=3)
    for step in (29, 3, 17, 0):
        assert np.array_equal(fresh.batch(step).tokens, forward[step])
    other = DocumentBatches(tokens, 16, 4, seed=4).batch(0).tokens
    assert not np.array_equal(other, forward[0])


def test_an_epoch_predicts_each_token_at_most_once_within_documents(tmp_path: Path):
    # Every byte is unique to its place: document number and offset can be read off the ids.
    first = "".join(map(chr, range(100)))
    second = "".join(map(chr, range(100, 128)))
    tokens = store_of(tmp_path, [first, second, "short"])
    batches = DocumentBatches(tokens, 9, 1, seed=0)
    assert batches.n_windows == 99 // 9 + 27 // 9
    # Of 133 tokens 5 are in a document of less than 10.
    assert batches.remarks() == ["left out: 3.8 % of the tokens (documents shorter than 10)"]
    for epoch in range(3):
        rows = [
            batches.batch(step).tokens[0].tolist()
            for step in range(epoch * batches.n_windows, (epoch + 1) * batches.n_windows)
        ]
        for row in rows:
            assert np.diff(row).tolist() == [1] * 9  # no window crosses a document
        targets = [id_ for row in rows for id_ in row[1:]]
        assert len(targets) == len(set(targets)) == 9 * batches.n_windows
    orders = [[batches.batch(e * 14 + s).tokens[0, 0].item() for s in range(14)] for e in range(2)]
    assert orders[0] != orders[1]


def test_fewer_windows_than_a_batch_is_an_error(tmp_path: Path):
    tokens = store_of(tmp_path, ["x" * 33])
    assert DocumentBatches(tokens, 16, 2, seed=0).batch(5).tokens.shape == (2, 17)
    with pytest.raises(DataError, match=r"2 windows .* one batch needs 3 .*33 tokens"):
        DocumentBatches(tokens, 16, 3, seed=0)


def test_books_where_they_are(books: Path):
    corpus = TextFiles(train=str(books / "train" / "*.txt"), test=str(books / "test" / "*.txt"))
    assert sum(1 for _ in corpus.documents("train")) > 50
    assert all(len(text) > 100_000 for text in texts_of(corpus, "test"))
