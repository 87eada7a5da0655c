"""Files of lexp's own folders: no links, regular files only, and nothing left of killed writers."""

import os
import socket
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lexp.system import files, reading
from lexp.system.errors import CheckpointError, StorageError
from lexp.system.links import first_link, real_folder, refuse_links

WRITERS = {
    "write_bytes": lambda p: files.write_bytes(p, b"x"),
    "write_text": lambda p: files.write_text(p, "x"),
    "write_json": lambda p: files.write_json(p, {}),
    "write_sealed": lambda p: files.write_sealed(p, {}),
    "make_folder": files.make_folder,
    "open_new": files.open_new,
    "open_to_append": files.open_to_append,
    "remove_folder": files.remove_folder,
    "remove_empty_folder": files.remove_empty_folder,
    "new_folder": lambda p: files.new_folder(p).__enter__(),
    "publish": lambda p: files.publish(p.with_name("none"), p),
}
READERS = {
    "open_own": reading.open_own,
    "read_own": reading.read_own,
    "own_file_exists": reading.own_file_exists,
    "read_sealed": files.read_sealed,
    "sha256_own": files.sha256_own,
}
INSIDE = {  # writers that take a folder's file, deeper than the link alone
    "remove_file": files.remove_file,
    "clean": lambda p: files.clean(p.parent, "*"),
    **WRITERS,
    **READERS,
}


@pytest.fixture
def victim(tmp_path) -> Path:
    """A folder with a file and a leftover, and links to it in the folder beside it."""
    folder = tmp_path / "victim"
    (folder / "inner").mkdir(parents=True)
    (folder / "file").write_text("precious")
    (folder / ".file.abcdefgh").write_text("precious too")
    own = tmp_path / "own"
    own.mkdir()
    (own / "file").symlink_to(folder / "file")
    (own / "folder").symlink_to(folder)
    (own / "new").symlink_to(folder / "new")
    return folder


def listed(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


def refused(action, path: Path, link: Path) -> None:
    with pytest.raises((StorageError, CheckpointError)) as raised:
        action(path)
    assert str(raised.value).startswith(f"{link} is a symbolic link; ")
    assert raised.value.exit_code == (4 if action in READERS.values() else 5)


@pytest.mark.parametrize("name", INSIDE)
def test_nothing_is_done_through_a_link(victim, tmp_path, monkeypatch, name):
    """To a file, to a folder, to nothing yet, and further down; by absolute and relative paths."""
    before, action = listed(victim), INSIDE[name]
    monkeypatch.chdir(tmp_path)
    for own in (tmp_path / "own", Path("own")):
        for inner in ("folder/file", "folder/inner/deeper", "folder/new"):
            refused(action, own / inner, own / "folder")
        for link in ("file", "folder", "new") if name in {**WRITERS, **READERS} else ():
            refused(action, own / link, own / link)
    assert listed(victim) == before


def test_folders_that_the_user_names_may_be_links(victim, tmp_path, monkeypatch):
    """As `outputs` on clusters: what is written arrives behind the link."""
    monkeypatch.chdir(tmp_path)
    assert real_folder("plain/outputs") == Path("plain/outputs")
    for name in ("own/folder", "own/folder/inner/..", tmp_path / "own" / "folder"):
        assert real_folder(name) == victim
    files.write_text(real_folder("own/folder/inner") / "new", "x")
    assert (victim / "inner" / "new").read_text() == "x"
    for name in ("own/new", "own/new/below"):
        with pytest.raises(
            StorageError, match="own/new is a symbolic link to .*/new, where nothing"
        ):
            real_folder(name)
    assert first_link(tmp_path / "missing" / "file") is None
    refuse_links(victim / "file")


def make(path: Path, kind: str) -> None:
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a socket":
        socket.socket(socket.AF_UNIX).bind(str(path.relative_to(Path.cwd())))  # a path may be long
    elif kind == "a folder":
        path.mkdir()


@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a folder", "a device"])
def test_only_regular_files_are_read_and_appended_to(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = Path("/dev/zero") if kind == "a device" else tmp_path / "thing"
    make(path, kind)

    def tried() -> None:
        for action in (reading.open_file, reading.read_text, reading.open_own, files.sha256):
            with pytest.raises(OSError, match=f"is {kind}, not a file"):
                action(path)
        with pytest.raises(CheckpointError, match=f"{path} is {kind}, not a file"):
            reading.own_file_exists(path)
        if kind != "a device":
            with pytest.raises(StorageError, match=f"cannot write {path}: "):
                files.open_to_append(path)
        done.append(True)

    done: list[bool] = []
    thread = threading.Thread(target=tried, daemon=True)  # a reader of a FIFO would wait for ever
    thread.start()
    thread.join(10)
    assert done == [True]


def test_leftovers_are_those_of_the_names_that_are_written(tmp_path):
    theirs = (".results.png.abcdefgh", ".results.csv.0123abcd", ".results-a=1.png._bcdefgh")
    others = ("results.png", ".results.png", ".results.png.abcdefghi", ".results.png.ABCDEFGH",
              ".notes.png.abcdefgh", "results.png.abcdefgh", ".results.pngx.abcdefgh")  # fmt: skip
    for name in (*theirs, *others):
        (tmp_path / name).touch()
    files.clean(tmp_path, "results.*", "results-*.png")
    # `results.*` is any file called so: `results.pngx` too.
    assert {p.name for p in tmp_path.iterdir()} == {*others} - {".results.pngx.abcdefgh"}


def test_new_files_and_folders_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        files.write_text(tmp_path / "text", "x")
        with files.new_folder(tmp_path / "folder") as folder:
            files.publish(folder, tmp_path / "folder")
        files.open_to_append(tmp_path / "log").close()
        save_file({"w": torch.zeros(1)}, tmp_path / "weights")  # for its owner alone
        files.sync_file(tmp_path / "weights", like=tmp_path / "text")
    finally:
        os.umask(old)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"text": 0o640, "folder": 0o750, "log": 0o640, "weights": 0o640}
