"""Work on large texts is announced, and says how long the rest takes."""

import pytest

from lexp.data import open_store, progress
from lexp.data.corpus import Document
from lexp.data.progress import TextProgress
from lexp.data.text import TextFiles
from lexp.data.tokenizer import BPESpec


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Seconds, which only a test moves on."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def said(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


def work(follower: TextProgress, clock: list[float], seconds: float) -> None:
    """Four documents of 5 MB, so many seconds each. Each letter takes two bytes."""
    for _ in follower.follow([Document("a", "\u00e9" * 2_500_000)] * 4):
        clock[0] += seconds


def test_the_time_left_follows_from_the_bytes_that_are_done(clock, capsys):
    work(TextProgress("tokenising", 20_000_000), clock, 3)
    assert said(capsys) == [
        "lexp: tokenising: 20 MB of text",
        "lexp: tokenising: 5 of 20 MB, 9 s left",
        "lexp: tokenising: 15 of 20 MB, 3 s left",  # at 9 s: 5 s after the line before
    ]
    work(TextProgress("tokenising", None), clock, 3)
    assert said(capsys) == ["lexp: tokenising: 5 MB done", "lexp: tokenising: 15 MB done"]


def test_quick_work_and_other_ranks_print_nothing(clock, capsys, monkeypatch):
    work(TextProgress("tokenising", 1_000_000), clock, 0.1)
    monkeypatch.setenv("RANK", "1")
    for name in ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.setenv(name, "2")
    work(TextProgress("tokenising", 20_000_000), clock, 9)
    assert said(capsys) == []


@pytest.mark.parametrize("keys", [{"path": ""}, {"train": "train", "validation": "validation"}])
def test_each_step_from_files_to_tokens_is_announced(texts, tmp_path, capsys, monkeypatch, keys):
    monkeypatch.setattr(progress, "QUICK_BYTES", 1000)
    corpus = TextFiles(**{key: str(texts / folder) for key, folder in keys.items()})
    size = sum(path.stat().st_size for path in corpus.files("path") + corpus.files("train")
               + corpus.files("validation"))  # fmt: skip
    assert corpus.n_bytes() == size
    open_store(corpus, BPESpec(300).load(corpus, tmp_path), tmp_path)
    works = ("reading", "training a BPE vocabulary", "tokenising")
    assert said(capsys) == [f"lexp: {what}: {size / 1e6:.0f} MB of text" for what in works]


def test_tokens_a_second_count_from_this_start(clock, capsys):
    progress_ = TextProgress("tokenising", 20_000_000)
    progress_.begin_at(10_000_000, 2_000_000)
    clock[0] += 10
    progress_.advance(2_500_000, 500_000)
    assert said(capsys)[1:] == ["lexp: tokenising: 12 of 20 MB, 50k tokens/s, 30 s left"]
    clock[0] += 10_000
    progress_.advance(100, 0)
    assert said(capsys) == ["lexp: tokenising: 13 of 20 MB, 0k tokens/s, 8.3 h left"]


def test_a_budget_of_tokens_is_the_total_of_each_split_where_no_size_is_known(
    clock, capsys, monkeypatch
):
    progress_ = TextProgress("tokenising", None, max_tokens=8_000_000)
    progress_.begin_at(9_000_000, 2_000_000)
    progress_.begin_split("train", 2_000_000)
    clock[0] += 10
    progress_.advance(4_000_000, 1_000_000)
    progress_.begin_split("validation", 0)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    clock[0] += 10
    progress_.advance(4_000_000, 2_000_000)
    first, bar = capsys.readouterr().err.split("\r\x1b[K")
    assert first == "lexp: tokenising: train: 3 of 8M tokens, 100k tokens/s, 50 s left\n"
    assert bar == (
        "lexp: tokenising: [======                  ] "
        "validation: 2 of 8M tokens, 150k tokens/s, 40 s left"
    )


def test_a_terminal_has_a_bar(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    progress_ = TextProgress("tokenising", 1_600_000)
    for _ in range(4):
        clock[0] += 2
        progress_.advance(400_000, 400_000)
    progress_.end()
    line, *others = capsys.readouterr().err.split("\r\x1b[K")[1:]
    assert line == (
        "lexp: tokenising: [======                  ] 0 of 2 MB, 200k tokens/s, 6 s left"
    )
    assert (
        others[-1] == ("lexp: tokenising: [========================] 2 MB done, 200k tokens/s\n")
        and len(others) == 4
    )
