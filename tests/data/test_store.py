"""Stores of long texts: shards, going on after a kill, digests that need not be computed again."""

import errno
import fcntl
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from lexp.data import (
    Corpus,
    open_store,
    remarks,
    shard_files,
    store,
    tokenise,
    unchanged,
    work_folder,
)
from lexp.data.corpus import Document
from lexp.data.text import TextFiles
from lexp.data.tokenizer import BPESpec, Bytes, Encoded
from lexp.data.work_folder import LOCK
from lexp.system.errors import DataError

TEXTS = ["hello world ", "", "ä" * 7, *(f"number {n} " * (n % 5) for n in range(40))]


class Lists(Corpus):
    """Texts in memory. die_at: the number of the document of train that ends the process."""

    def __init__(self, train: list[str], die_at: int | None = None):
        self._train, self._die_at = train, die_at

    def documents(self, split):
        for number, text in enumerate(self._train if split == "train" else ["held out"]):
            if number == self._die_at and split == "train":
                os.kill(os.getpid(), signal.SIGKILL)
            yield Document(f"{split}/{number}", text)

    def fingerprint(self):
        return "f" * 64


class Counting(Bytes):
    """Bytes that count the documents they have cut."""

    def __init__(self):
        self.n_cut = 0

    def encode(self, texts):
        self.n_cut += len(texts)
        return super().encode(texts)


class Pairs(Bytes):
    """Tokens of one byte, or of two if the document begins with `number`."""

    digest = "pairs"

    def encode(self, texts):
        return [self._cut(text.encode()) for text in texts]

    def _cut(self, data):
        size = 2 if data.startswith(b"number") else 1
        ids = np.frombuffer(data, dtype=np.uint8)[::size]
        return Encoded(ids, np.full(len(ids), size, dtype=np.uint16))


@pytest.fixture
def small(monkeypatch) -> None:
    """Batches of 20 characters, shards of 64 tokens."""
    monkeypatch.setattr(tokenise, "BATCH_CHARACTERS", 20)
    monkeypatch.setattr(shard_files, "SHARD_TOKENS", 64)


@pytest.fixture
def settled(monkeypatch) -> None:
    """Files count as old as soon as they are written."""
    monkeypatch.setattr(unchanged, "SETTLED_NS", -(10**18))


def killed(action) -> None:
    """Run an action in a child that is killed in it."""
    if not (child := os.fork()):
        action()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def left_in(cache: Path) -> Path:
    """The folder of a process that was killed."""
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    return folder


def digests_in(folder: Path) -> dict[str, str]:
    return json.loads((folder / "manifest.json").read_text())["files"]


@pytest.mark.parametrize("tokenizer", [Bytes(), Pairs()], ids=["bytes", "pairs"])
def test_shards_hold_the_same_tokens_as_one_file(tmp_path, small, tokenizer, monkeypatch):
    many = open_store(Lists(TEXTS), tokenizer, tmp_path / "many")
    monkeypatch.setattr(shard_files, "SHARD_TOKENS", 1 << 27)
    one = open_store(Lists(TEXTS), tokenizer, tmp_path / "one")
    assert len(list(many.folder.glob("train-*.tokens"))) > 4
    assert [p.name for p in one.folder.glob("train-*.tokens")] == ["train-00000.tokens"]
    found, expected = many.splits["train"], one.splits["train"]
    ids = np.concatenate([cut.ids for cut in tokenizer.encode(TEXTS)])
    np.testing.assert_array_equal(np.asarray(found.ids), ids)
    np.testing.assert_array_equal(np.asarray(expected.ids), ids)
    assert list(found.names) == [f"train/{n}" for n in range(len(TEXTS))]
    assert [found.names[n] for n in (0, 2, -1)] == ["train/0", "train/2", f"train/{len(TEXTS) - 1}"]
    np.testing.assert_array_equal(found.ids[60:200], ids[60:200])
    places = np.array([[0, 199], [64, 63]])
    np.testing.assert_array_equal(found.ids[places], ids[places])
    np.testing.assert_array_equal(found.places(lambda x: x == 32), np.flatnonzero(ids == 32))
    assert found.places(lambda x: x == 32, 70).tolist() == np.flatnonzero(ids[:70] == 32).tolist()
    for number, cut in enumerate(tokenizer.encode(TEXTS)):
        n = len(cut.ids)
        assert found.window(number, 0, n).tolist() == cut.ids.tolist()
        assert found.n_bytes(number, 0, n) == int(cut.n_bytes.sum())
    assert (found.bytes_per_token is None) == (tokenizer.digest == "bytes")
    if found.bytes_per_token is not None:
        counts = np.concatenate([cut.n_bytes for cut in tokenizer.encode(TEXTS)])
        np.testing.assert_array_equal(np.asarray(found.bytes_per_token), counts)
        assert not (many.folder / "train-00000.bytes").exists() or counts[:64].max() > 1
    assert many.facts["train"].n_bytes == len("".join(TEXTS).encode())


def test_a_killed_tokenising_goes_on_from_its_last_whole_shard(tmp_path, small, capsys):
    whole = open_store(Lists(TEXTS), Bytes(), tmp_path / "whole")
    killed(lambda: open_store(Lists(TEXTS, die_at=30), Bytes(), tmp_path / "cut"))
    left = left_in(tmp_path / "cut")
    (left / "train.names").open("ab").write(b"more")  # of the shard that was not whole
    n_done = json.loads((left / "progress.json").read_text())["splits"]["train"]["n_documents"]
    assert 10 < n_done < 30
    tokenizer = Counting()
    again = open_store(Lists(TEXTS), tokenizer, tmp_path / "cut")
    assert tokenizer.n_cut == len(TEXTS) - n_done + 2  # and a document of each other split
    assert f"{n_done} documents were done by an earlier start" in capsys.readouterr().err
    assert digests_in(again.folder) == digests_in(whole.folder)
    names, wanted = ({p.name for p in one.folder.iterdir()} for one in (again, whole))
    assert names ^ wanted <= {store.CHECKED}, "it remembers digests of files two seconds old"
    assert list((tmp_path / "cut").iterdir()) == [again.folder]


@pytest.mark.parametrize("name", ["progress.json", "train.starts", "train-00001.tokens"])
def test_what_a_killed_process_left_and_is_damaged_is_not_gone_on_with(tmp_path, small, name):
    killed(lambda: open_store(Lists(TEXTS, die_at=30), Bytes(), tmp_path))
    left = left_in(tmp_path)
    data = (left / name).read_bytes()
    (left / name).write_bytes(data[:-60] if name.endswith("tokens") else b"?" + data[1:])
    tokenizer = Counting()
    open_store(Lists(TEXTS), tokenizer, tmp_path)
    assert tokenizer.n_cut == len(TEXTS) + 2 and left.exists()


def test_the_folder_of_a_living_process_is_left_alone(tmp_path, small):
    killed(lambda: open_store(Lists(TEXTS, die_at=30), Bytes(), tmp_path))
    left = left_in(tmp_path)
    with (left / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tokenizer = Counting()
        open_store(Lists(TEXTS), tokenizer, tmp_path / ".." / tmp_path.name)
    assert tokenizer.n_cut == len(TEXTS) + 2 and left.exists()


def test_the_folder_of_another_machine_is_left_alone_while_it_is_written_to(tmp_path, small):
    killed(lambda: open_store(Lists(TEXTS, die_at=30), Bytes(), tmp_path))
    left = left_in(tmp_path)
    (left / LOCK).write_text("another machine")
    tokenizer = Counting()
    first = open_store(Lists(TEXTS), tokenizer, tmp_path)
    assert tokenizer.n_cut == len(TEXTS) + 2 and left.exists()
    for path in first.folder.iterdir():
        path.unlink()
    first.folder.rmdir()
    for path in (*left.iterdir(), left):
        os.utime(path, (path.stat().st_mtime - 300,) * 2)
    tokenizer = Counting()
    open_store(Lists(TEXTS), tokenizer, tmp_path)
    assert tokenizer.n_cut < len(TEXTS) and not left.exists()


def test_a_process_waits_for_the_one_that_writes_the_same_store(tmp_path, monkeypatch, capsys):
    """Two threads stand for two processes: locks are of open files. The first stops in the middle.

    The lock of a killed process, which is nobody's, holds nobody up.
    """
    killed(lambda: open_store(Lists(TEXTS, die_at=30), Bytes(), tmp_path))
    (lock,) = tmp_path.glob(".*.lock")
    assert lock.read_text().startswith("process ")
    monkeypatch.setattr(work_folder, "LOOK_EVERY_S", 0.01)
    begun, go_on, tokenizer = threading.Event(), threading.Event(), Counting()

    class Stopping(Lists):
        def documents(self, split):
            begun.set()
            assert go_on.wait(60)
            yield from super().documents(split)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(open_store, Stopping(TEXTS), tokenizer, tmp_path)
        assert begun.wait(60)
        second = pool.submit(open_store, Lists(TEXTS), tokenizer, tmp_path)
        while "tokenises the same texts" not in (said := capsys.readouterr().err):
            assert not second.done()
            time.sleep(0.01)
        assert f"waiting for process {os.getpid()} on " in said and tokenizer.n_cut == 0
        go_on.set()
        assert digests_in(first.result().folder) == digests_in(second.result().folder)
    assert tokenizer.n_cut == len(TEXTS) + 2 and not list(tmp_path.glob(".*.lock"))


@pytest.mark.parametrize("case", ["silent on another machine", "no locks"])
def test_a_process_does_not_wait_for_a_lock_that_says_nothing(case, tmp_path, monkeypatch):
    folder = open_store(Lists(TEXTS), Bytes(), tmp_path / "elsewhere").folder
    lock = tmp_path / f".{folder.name}.lock"
    with lock.open("w") as file:
        file.write("process 1 on another machine")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        if case == "no locks":
            error = OSError(errno.ENOLCK, "No locks available")
            monkeypatch.setattr(fcntl, "flock", Mock(side_effect=error))
        else:
            os.utime(lock, (lock.stat().st_mtime - 300,) * 2)
        assert digests_in(open_store(Lists(TEXTS), Bytes(), tmp_path).folder) == digests_in(folder)


def test_two_documents_of_one_name_are_refused(tmp_path):
    class Twice(Lists):
        def documents(self, split):
            yield from [Document("same", "x"), Document("other", "x"), Document("same", "y")]

    with pytest.raises(DataError, match=r"two documents of dataset.train are named 'same'"):
        open_store(Twice([]), Bytes(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_processes_make_the_same_store(tmp_path, small, monkeypatch):
    corpus = Lists(TEXTS)
    tokenizer = BPESpec(300).load(corpus, tmp_path)
    here = open_store(corpus, tokenizer, tmp_path / "here")
    monkeypatch.setattr(tokenise, "FEW_CHARACTERS", 40)
    monkeypatch.setattr(tokenise.os, "sched_getaffinity", lambda _: {0, 1})
    pools = []
    original = tokenise.ProcessPoolExecutor
    monkeypatch.setattr(
        tokenise, "ProcessPoolExecutor", lambda n, *a, **k: pools.append(n) or original(n, *a, **k)
    )
    there = open_store(corpus, tokenizer, tmp_path / "there")
    assert pools == [2]
    assert digests_in(there.folder) == digests_in(here.folder)


# --- digests that are remembered


def count_digests(monkeypatch) -> list[str]:
    read = []
    original = store.sha256_own
    monkeypatch.setattr(store, "sha256_own", lambda path: read.append(path.name) or original(path))
    return read


def test_digests_of_unchanged_files_are_computed_once(tmp_path, settled, monkeypatch):
    read = count_digests(monkeypatch)
    for _ in range(2):
        folder = open_store(Lists(TEXTS), Bytes(), tmp_path).folder
    assert read == []  # they were written under digests
    (folder / "checked.json").write_text("damaged")
    for _ in range(2):
        open_store(Lists(TEXTS), Bytes(), tmp_path)
    assert sorted(read) == sorted(digests_in(folder))
    read.clear()
    open_store(Lists(TEXTS), Bytes(), tmp_path, anew=True)
    assert sorted(read) == sorted(digests_in(folder))


def test_a_change_that_keeps_size_and_times_is_found(tmp_path, settled):
    folder = open_store(Lists(TEXTS), Bytes(), tmp_path).folder
    path = folder / "train-00000.tokens"
    before, data = path.stat(), bytearray(path.read_bytes())
    data[5] ^= 1
    with path.open("r+b") as file:  # the same inode
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(DataError, match="train-00000.tokens is damaged"):
        open_store(Lists(TEXTS), Bytes(), tmp_path)


def test_files_that_were_just_changed_are_not_remembered(tmp_path, monkeypatch):
    read = count_digests(monkeypatch)
    folder = open_store(Lists(TEXTS), Bytes(), tmp_path).folder
    read.clear()
    open_store(Lists(TEXTS), Bytes(), tmp_path)
    assert sorted(read) == sorted(digests_in(folder)) and not (folder / "checked.json").exists()


@pytest.mark.parametrize("key", ["path", "train"])
def test_texts_that_have_not_changed_are_not_read_again(own_texts, tmp_path, settled, key):
    def corpus():
        made = TextFiles(**{key: str(own_texts / "train")})
        made.findings = unchanged.FileFindings(tmp_path / "cache")
        return made

    first = corpus()
    fingerprint, notes = first.fingerprint(), first.notes()
    assert TextFiles(**{key: str(own_texts / "train")}).fingerprint() == fingerprint
    again = corpus()
    again._read = None  # would fail
    assert (again.fingerprint(), again.notes()) == (fingerprint, notes)
    path = own_texts / "train" / "0.txt"
    before = path.stat()
    path.write_bytes(path.read_bytes().swapcase())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert corpus().fingerprint() != fingerprint


# --- budgets


class Pulled(Lists):
    """Texts that count how many documents of train were asked for."""

    def __init__(self, train: list[str], max_tokens: int):
        super().__init__(train)
        self.max_tokens, self.n_pulled = max_tokens, 0

    def documents(self, split):
        for document in super().documents(split):
            self.n_pulled += split == "train"
            yield document


@pytest.mark.parametrize("budget, n_documents", [(1, 1), (10, 1), (11, 2), (35, 4), (1000, 8)])
def test_a_split_ends_with_the_document_that_fills_the_budget(tmp_path, small, budget, n_documents):
    corpus = Pulled(["0123456789"] * 8, budget)
    tokens = open_store(corpus, Bytes(), tmp_path).splits["train"]
    assert len(tokens.lengths) == n_documents and len(tokens.ids) == 10 * n_documents
    assert corpus.n_pulled <= n_documents + 1  # batches have two


def test_a_vocabulary_is_trained_on_about_the_budget(tmp_path):
    corpus = Pulled(["0123456789"] * 90, 10)
    BPESpec(257).load(corpus, tmp_path)
    assert corpus.n_pulled == 4  # 4 bytes a token


def test_copies_are_found_among_many(monkeypatch):
    monkeypatch.setattr(remarks, "AT_ONCE", 1000)
    rng = np.random.default_rng(0)
    others = rng.integers(1, 1 << 63, 5000).astype(np.uint64)
    hashes = np.concatenate([others[[7, 1500, 4999]], others[:300] + np.uint64(1 << 40)])
    np.testing.assert_array_equal(remarks.among(hashes, others), np.isin(hashes, others))
    assert remarks.among(hashes, others).sum() == 3
    assert remarks.among(hashes, others[:0]).sum() == 0 == remarks.among(hashes[:0], others).sum()
