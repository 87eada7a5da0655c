"""Your own files: globs of .txt, .jsonl and .parquet, one document per file, line or row."""

import glob
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from lexp.data.corpus import SPLITS, Corpus, Document, Split, content_fingerprint
from lexp.data.readers import SUFFIXES, read_texts
from lexp.system.errors import DataError
from lexp.system.reading import kind_of


class TextFiles(Corpus):
    """Documents from files.

    train, validation, test: a glob or a list of globs each (`**` crosses folders), or None.
    column: the field of a .jsonl line or .parquet row that holds the text.
    """

    def __init__(
        self,
        train: str | list[str] | None = None,
        validation: str | list[str] | None = None,
        test: str | list[str] | None = None,
        column: str = "text",
    ):
        self.globs: dict[Split, list[str]] = {}
        for split, value in zip(SPLITS, (train, validation, test), strict=True):
            self.globs[split] = [value] if isinstance(value, str) else list(value or [])
        self.column = column

    def files(self, split: Split) -> list[Path]:
        """Return the files of a split, sorted, each once however many names it has.

        DataError if a glob matches nothing usable.
        """
        return self._match(split)[0]

    def left_out(self) -> list[str]:
        """Say of each split how many of its files have another type than lexp reads."""
        lines = []
        for split in SPLITS:
            files, others = self._match(split)
            if others:
                kinds = ", ".join(sorted({_kind(path) for path in others}))
                lines.append(
                    f"dataset.{split}={','.join(self.globs[split])}: {len(others)} of "
                    f"{len(files) + len(others)} files left out ({kinds}); lexp reads "
                    f"{', '.join(SUFFIXES)}"
                )
        return lines

    def _match(self, split: Split) -> tuple[list[Path], list[Path]]:
        """Return the files of a split, and what else its globs match, folders aside."""
        usable: set[Path] = set()
        others: set[Path] = set()
        for pattern in self.globs[split]:
            matches = {Path(m) for m in glob.glob(pattern, recursive=True)}
            found = {p for p in matches if p.is_file() and p.suffix.lower() in SUFFIXES}
            if not found:
                if [path.exists() and not path.is_file() for path in matches] == [True]:
                    kind = kind_of(next(iter(matches)).stat().st_mode)
                    raise DataError(f"dataset.{split}={pattern} is {kind}, not a file")
                seen = f"{len(matches)} paths, none" if matches else "nothing"
                place = "" if os.path.isabs(pattern) else f", in {Path.cwd()}"
                raise DataError(
                    f"dataset.{split}={pattern} matches {seen} that ends in "
                    f"{', '.join(SUFFIXES)}{place}{_hint(pattern)}"
                )
            usable |= found
            others |= {path for path in matches - found if not path.is_dir()}
        once: dict[object, Path] = {}
        for path in sorted(usable):
            once.setdefault(_identity(path), path)
        return list(once.values()), sorted(others)

    def documents(self, split: Split) -> Iterator[Document]:
        """Yield the documents of a split; DataError names file and place of unreadable text."""
        files = self.files(split)
        for path, name in zip(files, document_names(files), strict=True):
            for number, text in read_texts(path, self.column):
                yield Document(name if number is None else f"{name}:{number}", text)

    def changed_since(self, moment: float) -> bool:
        """Return True if a file was written, renamed or replaced after a time."""
        states = (path.stat() for split in SPLITS for path in self.files(split))
        return any(max(state.st_mtime, state.st_ctime) > moment for state in states)

    def fingerprint(self) -> str:
        """Return a digest of all names and texts; DataError if a file is used in two splits."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        split_of: dict[Path, Split] = {}
        for split in SPLITS:
            for path in self.files(split):
                first = split_of.setdefault(path.resolve(), split)
                if first != split:
                    raise DataError(f"{path} is in both dataset.{first} and dataset.{split}")
        return content_fingerprint((split, self.documents(split)) for split in SPLITS)


def document_names(files: list[Path]) -> list[str]:
    """Return the path of each file from the folder on that all have in common.

    The names are distinct, and the same wherever the folder is and however it is spelt.
    """
    if not files:
        return []
    folders = {folder: folder.resolve() for folder in {path.parent for path in files}}
    common = os.path.commonpath(list(folders.values()))
    return [(folders[p.parent] / p.name).relative_to(common).as_posix() for p in files]


def _hint(pattern: str) -> str:
    """Return what is often meant by a glob that matches nothing; "" if nothing is known."""
    if braces := re.search(r"\{([^{}]*,[^{}]*)\}", pattern):
        before, after = pattern[: braces.start()], pattern[braces.end() :]
        each = ",".join(f"{before}{word.strip()}{after}" for word in braces[1].split(","))
        return f"; braces are not expanded: write [{each}]"
    if os.path.exists(pattern) and (found := re.search(r"\[[^]]+\]", pattern)):
        return (
            f"; {found[0]} stands for one of these characters: write "
            f"{pattern.replace('[', '[[]')} for a file of that name"
        )
    return ""


def _identity(path: Path) -> object:
    """Return what is the same for all names of a file: of links, hard links and other spellings."""
    status = path.stat()
    # Inode numbers are not unique on every network file system; they are needed for hard links.
    return (status.st_dev, status.st_ino) if status.st_nlink > 1 else path.resolve()


def _kind(path: Path) -> str:
    if not path.exists():
        return "broken link"
    return (path.suffix or "no suffix") if path.is_file() else "no regular file"
