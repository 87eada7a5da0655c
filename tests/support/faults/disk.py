"""A disk that loses power: which states of a folder POSIX allows after a crash.

Before every call a process makes, the folder is recorded: names, contents, and what was synced. Of
each record four states are made, by what POSIX promises and no more: a file's bytes last from its
fsync on, a folder's names from the folder's fsync on.

    lost      all names, unsynced bytes gone (files empty)
    half      all names, unsynced bytes cut in the middle
    zeroed    all names, unsynced bytes zero, as after delayed allocation
    names     only names and bytes that were synced
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

KINDS = ("lost", "half", "zeroed", "names")


@dataclass(frozen=True)
class Record:
    """A folder at one moment: by inode, contents of files and names in folders, now and synced."""

    call: str
    root: int
    files: dict[int, bytes]
    folders: dict[int, dict[str, int]]
    synced_files: dict[int, bytes]
    synced_folders: dict[int, dict[str, int]]

    def make(self, kind: str, target: Path) -> None:
        """Build one of the states that a crash at this moment may leave."""
        target.mkdir(parents=True)
        self._fill(kind, self.root, target)

    def _fill(self, kind: str, inode: int, target: Path) -> None:
        names = (self.synced_folders if kind == "names" else self.folders).get(inode, {})
        for name, inner in names.items():
            if inner in self.folders or inner in self.synced_folders:
                (target / name).mkdir()
                self._fill(kind, inner, target / name)
            else:
                (target / name).write_bytes(self._content(kind, inner))

    def _content(self, kind: str, inode: int) -> bytes:
        synced, now = self.synced_files.get(inode, b""), self.files.get(inode)
        if now is None or now == synced or kind == "names":
            return synced
        kept = len(synced) if now.startswith(synced) else 0  # what was appended to lasts
        rest = now[kept:]
        torn = {"lost": b"", "half": rest[: len(rest) // 2], "zeroed": bytes(len(rest))}[kind]
        return (synced if kind == "lost" else now[:kept]) + torn


class Recorder:
    """Records a folder before every call; what is there at the beginning counts as synced."""

    def __init__(self, root: Path):
        self.root = root
        self.records: list[Record] = []
        self._held: dict[int, int] = {}  # open files keep their inode numbers from being reused
        files, folders = self._look()
        self._files, self._folders = dict(files), dict(folders)

    def act(self, name: str, arguments: tuple) -> None:
        """Before a call."""
        files, folders = self._look()
        record = Record(
            f"{name} {arguments[:1]}", self.root.stat().st_ino, files, folders,
            dict(self._files), dict(self._folders),
        )  # fmt: skip
        if not self.records or self._changed(record):
            self.records.append(record)
        if name == "os.fsync":
            inode = os.fstat(arguments[0]).st_ino
            if inode in files:
                self._files[inode] = files[inode]
            elif inode in folders:
                self._folders[inode] = folders[inode]

    def _changed(self, record: Record) -> bool:
        last = self.records[-1]
        ours = (record.files, record.folders, record.synced_files, record.synced_folders)
        return ours != (last.files, last.folders, last.synced_files, last.synced_folders)

    def _look(self) -> tuple[dict[int, bytes], dict[int, dict[str, int]]]:
        files, folders = {}, {}
        waiting = [self.root]
        while waiting:
            folder = waiting.pop()
            names = {}
            for path in folder.iterdir():
                info = path.lstat()
                names[path.name] = info.st_ino
                if info.st_ino not in self._held:
                    self._held[info.st_ino] = os.open(path, os.O_RDONLY)
                if stat.S_ISDIR(info.st_mode):
                    waiting.append(path)
                else:
                    files[info.st_ino] = path.read_bytes()
            folders[folder.stat().st_ino] = names
        return files, folders
