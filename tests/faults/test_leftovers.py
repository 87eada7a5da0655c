"""Temporary files of killed commands: the next command deletes them, and only those."""

import os
import shutil
import time

from lexp.data.store import FORMAT
from lexp.data.work_folder import LEFT_AFTER_S, remove_leftovers
from support.forked import lexp


def test_commands_clean_up_after_killed_ones(foreign_study, tmp_path):
    desk = tmp_path / "desk"
    shutil.copytree(foreign_study, desk)
    study = desk / "outputs" / "default"
    (run,) = study.glob("rope-*")
    (cell, *_) = run.glob("eval/*.npz")
    (study / "report").mkdir()
    left = [
        study / ".results.png.abcdefgh", study / ".results.csv.0123abcd",
        study / ".results-a.png.abcdefgh", study / ".results.md.abcdefgh",
        study / "report" / ".report.html.abcdefgh", study / "report" / ".a-table.csv.abcdefgh",
        *(cell.with_name(f".{cell.stem}{end}.abcdefgh") for end in (".json", ".npz", ".part")),
    ]  # fmt: skip
    mine = [study / ".mine.png.abcdefgh", study / ".results.png", study / "report" / "mine.csv",
            cell.with_name(".mine.abcdefgh")]  # fmt: skip
    for path in (*left, *mine):
        path.touch()
    for command in (("eval", "lengths=[8]", "attention=[full]"), ("report",)):
        ended = lexp(*command, cwd=desk)
        assert ended.code == 0, ended.said
    assert not [path for path in left if path.exists()]
    assert all(path.exists() for path in mine)


def test_old_leftovers_in_the_cache_go_whatever_they_are(tmp_path):
    names = (f".abcd-ef01-{FORMAT}.abcdefgh", ".bpe-300-0123-3.json.abcdefgh",
             ".texts-0123abcd.json.abcdefgh", f".abcd-ef01-{FORMAT}.lock")  # fmt: skip
    folder, file, findings, lock = (tmp_path / name for name in names)
    link, fresh = tmp_path / f".link-{FORMAT}.abcdefgh", tmp_path / f".new-{FORMAT}.json.abcdefgh"
    folder.mkdir()
    (tmp_path / "kept").mkdir()
    for path in (folder / "train.names", file, findings, lock, fresh, tmp_path / "kept" / "file"):
        path.touch()
    link.symlink_to(tmp_path / "kept")
    old = time.time() - LEFT_AFTER_S - 60
    for path in (folder / "train.names", folder, file, findings, lock, tmp_path / "kept"):
        os.utime(path, (old, old))
    os.utime(link, (old, old), follow_symlinks=False)
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {fresh.name, "kept"}
    assert (tmp_path / "kept" / "file").exists()
