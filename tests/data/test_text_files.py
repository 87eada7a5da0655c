"""Files named by globs: what is read, once and under which name, and what is said of the rest."""

import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from lexp.data import open_store
from lexp.data.corpus import Document
from lexp.data.hub import Hub
from lexp.data.labelled import LabelledExample, LabelledFiles, common_texts
from lexp.data.text import TextFiles
from lexp.data.tokenizer import Bytes
from lexp.system.errors import DataError

ROW = '{"text": "a row"}\n{"text": "another"}\n'


def names(corpus, split="test") -> list[str]:
    return [document.name for document in corpus.documents(split)]


def write(folder: Path, *paths: str) -> None:
    """Write a file of each path by its suffix."""
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix.lower() == ".parquet":
            parquet.write_table(pa.table({"text": ["a row", path]}), file)
        else:
            text = ROW if file.suffix.lower() == ".jsonl" else path
            file.write_bytes(text.encode(errors="replace"))


# --- names


@pytest.mark.parametrize(
    ("files", "globs", "expected"),
    [
        (["a/x.txt", "b/x.txt"], "*/x.txt", ["a/x.txt", "b/x.txt"]),
        (["a/p.jsonl", "b/p.jsonl"], "*/p.jsonl",
         ["a/p.jsonl:1", "a/p.jsonl:2", "b/p.jsonl:1", "b/p.jsonl:2"]),
        (["a/p.parquet", "b/p.parquet"], "**/*.parquet",
         ["a/p.parquet:1", "a/p.parquet:2", "b/p.parquet:1", "b/p.parquet:2"]),
        (["a/1/x.txt", "a/2/x.txt", "b/1/x.txt"], ["a/*/x.txt", "b/1/x.txt"],
         ["a/1/x.txt", "a/2/x.txt", "b/1/x.txt"]),
        (["a/deep/er/x.txt", "x.txt"], ["a/deep/*/x.txt", "x.txt"], ["a/deep/er/x.txt", "x.txt"]),
        (["a/x.txt", "a/y.txt"], "a/*.txt", ["x.txt", "y.txt"]),
        (["a/x.txt", "a/x.jsonl"], ["a/x.*"], ["x.jsonl:1", "x.jsonl:2", "x.txt"]),
    ],
)  # fmt: skip
def test_documents_have_distinct_names(tmp_path: Path, monkeypatch, files, globs, expected):
    write(tmp_path, *files)
    monkeypatch.chdir(tmp_path)
    assert names(TextFiles(test=globs)) == expected
    spelt = [globs] if isinstance(globs, str) else globs
    absolute = TextFiles(test=[f"{tmp_path}/./{pattern}" for pattern in spelt])
    assert names(absolute) == expected
    assert absolute.fingerprint() == TextFiles(test=globs).fingerprint()


def test_a_corpus_that_gives_two_documents_one_name_is_refused(tmp_path: Path):
    class Twice(TextFiles):
        def documents(self, split):
            yield from 2 * [Document("same", "text")]

    with pytest.raises(DataError, match="two documents of dataset.train are named 'same'"):
        open_store(Twice(), Bytes(), tmp_path)


def test_rows_of_a_hub_data_set_have_names_without_its_place(tmp_path: Path):
    found = []
    for place in ("here", "there"):
        write(tmp_path / place, "data/test-0.parquet", "data/test-1.parquet")
        found.append(names(Hub(str(tmp_path / place))))
    assert found == 2 * [["test:0", "test:1", "test:2", "test:3"]]


def test_a_row_of_a_hub_data_set_that_is_no_text_is_named(tmp_path: Path):
    (tmp_path / "data").mkdir()
    table = pa.table({"text": strings(b"fine", b"a\xffb")})
    parquet.write_table(table, tmp_path / "data" / "test-0.parquet")
    with pytest.raises(DataError, match="cannot be loaded after row 0: 'utf-8' codec"):
        names(Hub(str(tmp_path)))


# --- once


@pytest.mark.parametrize(
    "globs",
    [
        ["test/*.txt", "again/*.txt"],
        ["test/*.txt", "./test/*.txt", "other/../test/0.txt"],
        ["test/*.txt", "test/*", "**/0.txt"],
        ["test/*.txt", "hard/*.txt"],
        ["test/*.txt", "linked/*.txt"],
    ],
    ids=["linked folder", "spellings", "overlapping globs", "hard links", "linked files"],
)
def test_a_file_is_one_document_however_it_is_named(tmp_path: Path, monkeypatch, globs):
    write(tmp_path, "test/0.txt", "test/1.txt", "other/3.txt")
    (tmp_path / "again").symlink_to("test")
    for folder in ("hard", "linked"):
        (tmp_path / folder).mkdir()
    for name in ("0.txt", "1.txt"):
        os.link(tmp_path / "test" / name, tmp_path / "hard" / name)
        (tmp_path / "linked" / name).symlink_to(f"../test/{name}")
    monkeypatch.chdir(tmp_path)
    assert sorted(text for _, text in TextFiles(test=globs).documents("test")) == [
        "test/0.txt", "test/1.txt",
    ]  # fmt: skip


# --- left out


def test_files_of_other_types_are_counted(tmp_path: Path):
    write(tmp_path, *(f"t/{n}.txt" for n in range(3)), *(f"t/{n}.txt.gz" for n in range(2)))
    write(tmp_path, "t/a.md", "t/README", "t/more/b.md")
    (tmp_path / "t" / "gone.txt").symlink_to("nothing")
    os.mkfifo(tmp_path / "t" / "pipe.txt")
    (line,) = TextFiles(train=f"{tmp_path}/t/*", test=f"{tmp_path}/t/0.txt").notes()
    assert line == (
        f"dataset.train={tmp_path}/t/*: 6 of 9 files left out (.gz, .md, broken link, no regular "
        "file, no suffix); lexp reads .txt, .jsonl, .parquet"
    )
    assert TextFiles(train=f"{tmp_path}/t/[0-9].txt").notes() == []


def test_suffixes_are_read_in_any_case(tmp_path: Path):
    write(tmp_path, "A.TXT", "B.JSONL", "C.Parquet")
    corpus = TextFiles(test=f"{tmp_path}/*")
    assert names(corpus) == ["A.TXT", "B.JSONL:1", "B.JSONL:2", "C.Parquet:1", "C.Parquet:2"]
    assert corpus.notes() == []
    (tmp_path / "L.JSONL").write_text('{"text": "t", "y": 1}\n')
    task = LabelledFiles(f"{tmp_path}/L.*", f"{tmp_path}/L.*", ["text"], "y", 2, ["accuracy"])
    assert [example.label for example in task.examples("train")] == [1]


# --- content


@pytest.mark.parametrize("text", ["plain", "\ufeff", "\ufeffonly the first goes"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, text):
    (tmp_path / "a.txt").write_text("\ufeff" + text, encoding="utf-8")
    corpus = TextFiles(test=f"{tmp_path}/a.txt")
    assert [document.text for document in corpus.documents("test")] == [text]
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(DataError, match="a.txt is empty"):
        corpus.fingerprint()


def strings(*values: bytes, large: bool = False) -> pa.Array:
    """A column of strings whose bytes nobody has checked."""
    offsets = np.cumsum([0, *map(len, values)]).astype("<i8" if large else "<i4")
    buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.large_string() if large else pa.string(), len(values), buffers)


PARQUET = {
    "bytes": (strings(b"fine", b"a\xffb"), "row 2: column 'text', byte 1: not UTF-8"),
    "large": (strings(b"\xff", large=True), "row 1: column 'text', byte 0: not UTF-8"),
    "dictionary": (strings(b"ok", b"\xc3").dictionary_encode(), "row 2: .*not UTF-8"),
    "null": (pa.array(["x", None]), "row 2: column 'text' is NoneType, not text"),
    "numbers": (pa.array([1, 2]), "column 'text' is int64, not text"),
    "binary": (pa.array([b"x"]), "column 'text' is binary, not text"),
    "lists": (pa.array([["x"]]), "column 'text' is list<.*>, not text"),
    "records": (pa.array([{"a": "x"}]), "column 'text' is struct<.*>, not text"),
    "dates": (pa.array([2**62], pa.timestamp("ns")), "column 'text' is timestamp"),
}


@pytest.mark.parametrize("name", PARQUET)
def test_rows_of_parquet_that_are_no_text_are_named(tmp_path: Path, name):
    column, expected = PARQUET[name]
    parquet.write_table(pa.table({"text": column}), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=rf"bad.parquet: {expected}"):
        list(TextFiles(test=f"{tmp_path}/bad.parquet").documents("test"))


@pytest.mark.parametrize("column", ["text", "a.b", "text.more", ""])
def test_a_column_of_parquet_is_read_by_its_whole_name(tmp_path: Path, column):
    names = ["a.b", "text", "text.more", ""]
    parquet.write_table(pa.table({name: [f"of {name}"] for name in names}), tmp_path / "a.parquet")
    corpus = TextFiles(test=f"{tmp_path}/a.parquet", column=column)
    assert [document.text for document in corpus.documents("test")] == [f"of {column}"]


def test_a_small_parquet_file_of_much_text_is_read_in_parts(tmp_path: Path):
    text = pa.array(["x" * 65536]).dictionary_encode().take(pa.array([0] * 8000))
    parquet.write_table(pa.table({"text": text}), tmp_path / "a.parquet", store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    before = pa.default_memory_pool().max_memory()
    n = sum(len(d.text) for d in TextFiles(test=f"{tmp_path}/a.parquet").documents("test"))
    assert n == 8000 * 65536
    assert pa.default_memory_pool().max_memory() - before < n / 4


def test_a_parquet_file_is_read_or_named_wherever_it_is_damaged(tmp_path: Path):
    path, texts = tmp_path / "a.parquet", [f"row {n} " * 20 for n in range(40)]
    parquet.write_table(pa.table({"text": texts}), path, row_group_size=10)
    whole = path.read_bytes()
    corpus = TextFiles(test=str(path))
    n_named = 0
    damaged = [whole[:n] for n in range(1, len(whole), 199)]
    for n in range(4, len(whole), 97):
        damaged.append(whole[:n] + bytes([whole[n] ^ 0xFF]) + whole[n + 1 :])
    for data in damaged:
        path.write_bytes(data)
        try:
            assert len(list(corpus.documents("test"))) <= 40
        except DataError as error:
            n_named += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert n_named > 10


LINES = {
    "digits": ('{"text": "x", "n": ' + "1" * 5000 + "}", "digits"),
    "deep object": ('{"a":' * 100_000, "deeply"),
    "string": ('"x"', "no column 'text'; it has str"),
    "null": ("null", "no column 'text'; it has NoneType"),
    "number": ("1.5", "no column 'text'; it has float"),
    "null text": ('{"text": null}', "column 'text' is NoneType, not text"),
    "list of text": ('{"text": ["x"]}', "column 'text' is list, not text"),
}


@pytest.mark.parametrize("name", LINES)
def test_lines_of_jsonl_that_are_no_text_are_named(tmp_path: Path, name):
    line, expected = LINES[name]
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"a.jsonl: line 2: .*{expected}"):
        list(TextFiles(test=f"{tmp_path}/a.jsonl").documents("test"))


def test_held_out_examples_that_are_learned_from_are_counted():
    train = [LabelledExample(("a", "b"), 0), LabelledExample(("c",), 1)]
    held_out = [LabelledExample(("a", "b"), 1), LabelledExample(("a",), 0), *train[1:]]
    expected = ["2 of 3 examples of task.validation are in task.train too"]
    assert common_texts(train, held_out) == expected
    assert common_texts(train, held_out[1:2]) == []


def test_a_label_beyond_what_a_float_holds_is_named(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "t", "y": 1' + "0" * 400 + "}\n")
    task = LabelledFiles(f"{tmp_path}/a.jsonl", f"{tmp_path}/a.jsonl", ["text"], "y", 1, ["mse"])
    with pytest.raises(DataError, match="line 1: y=.* expected a number"):
        task.examples("train")


def test_odd_names_survive_the_store(tmp_path: Path):
    write(tmp_path, os.fsdecode(b"a/caf\xe9.txt"), "b/a:1.txt", "b/[x] y.txt")
    tokens = open_store(TextFiles(test=f"{tmp_path}/*/*"), Bytes(), tmp_path).splits["test"]
    assert tuple(tokens.names) == (os.fsdecode(b"a/caf\xe9.txt"), "b/[x] y.txt", "b/a:1.txt")


# --- changed


def test_files_written_or_replaced_since_a_time_are_found(tmp_path: Path):
    write(tmp_path, "a.txt", "b.txt")
    corpus = TextFiles(train=f"{tmp_path}/*.txt")
    later = time.time() + 100
    assert corpus.changed_since(0.0) and not corpus.changed_since(later)
    os.utime(tmp_path / "b.txt", (later + 1, later + 1))
    assert corpus.changed_since(later)
    # A copy that keeps the time of the original is told by the time of its inode.
    moment = time.time() - 100
    os.utime(tmp_path / "a.txt", (1, 1)), os.utime(tmp_path / "b.txt", (1, 1))
    assert corpus.changed_since(moment)
