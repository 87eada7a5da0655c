"""A report deletes what a report wrote, and nothing else."""

import json
from pathlib import Path

import pytest

from lexp.report.files import LIST, write_files
from lexp.system import files
from lexp.system.errors import StorageError


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_files_of_the_last_report_go_and_others_stay(tmp_path):
    folder = tmp_path / "report"
    write_files(folder, {"report.html": "1", "a.csv": "1", "b.csv": "1"})
    for name in ("mine.csv", "notes.md", ".a.csv.abcdefgh", ".mine.abcdefgh"):
        (folder / name).write_text("mine")
    write_files(folder, {"report.html": "2", "b.csv": "2", "c.csv": "2"})
    kept = {"mine.csv", "notes.md", ".mine.abcdefgh"}
    assert names(folder) == {"report.html", "b.csv", "c.csv", LIST} | kept
    assert (folder / "b.csv").read_text() == "2" and (folder / "mine.csv").read_text() == "mine"
    assert json.loads((folder / LIST).read_text()) == ["b.csv", "c.csv", "report.html"]


@pytest.mark.parametrize(
    "listed",
    ['["../a.csv", "/etc/passwd", "mine.md", "x/a.csv", ".csv"]', "[1]", "{}", "[", "", "[" * 9999],
)
def test_a_list_of_somebody_else_deletes_nothing_else(tmp_path, listed):
    folder = tmp_path / "report"
    folder.mkdir()
    for path in (tmp_path / "a.csv", folder / "mine.csv", folder / "mine.md", folder / ".csv"):
        path.write_text("mine")
    (folder / LIST).write_text(listed)
    write_files(folder, {"report.html": "1"})
    assert names(folder) == {"report.html", LIST, "mine.csv", "mine.md", ".csv"}
    assert (tmp_path / "a.csv").exists()


def test_a_report_that_is_killed_loses_no_name(tmp_path, monkeypatch):
    """After a failure at any write, the next report still deletes what the broken one left."""
    folder = tmp_path / "report"
    write_files(folder, {"a.csv": "1"})
    real, n_calls = files.write_bytes, 0

    def failing(path, data):
        nonlocal n_calls
        n_calls += 1
        if n_calls == fatal:
            raise StorageError("full")
        real(path, data)

    for fatal in range(1, 5):
        n_calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(files, "write_bytes", failing)
            with pytest.raises(StorageError):
                write_files(folder, {f"{fatal}.csv": "1", f"{fatal}-more.csv": "1"})
        write_files(folder, {"a.csv": "2"})
        assert names(folder) == {"a.csv", LIST}
