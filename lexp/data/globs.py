"""Files that globs and folders stand for: each once, and those of other types."""

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path

from lexp.data.readers import SUFFIXES
from lexp.system.errors import DataError
from lexp.system.reading import kind_of


@dataclass(frozen=True)
class Matched:
    """What globs match: files that lexp reads, sorted, each once; and files of other types."""

    files: list[Path]
    others: list[Path]


def match(patterns: list[str], key: str) -> Matched:
    """Return the files of globs. key: whose value they are, for messages.

    A folder stands for the files in it and below that lexp reads; names that begin with a dot are
    left alone, as globs do. DataError if a glob matches nothing usable.
    """
    usable: set[Path] = set()
    others: set[Path] = set()
    for pattern in patterns:
        matches = {Path(m) for m in glob.glob(pattern, recursive=True)}
        if not any(map(_is_readable, matches)):
            matches |= {file for folder in matches if folder.is_dir() for file in _below(folder)}
        found = set(filter(_is_readable, matches))
        if not found:
            _refuse(pattern, matches, key)
        usable |= found
        others |= {path for path in matches - found if not path.is_dir()}
    once: dict[object, Path] = {}
    for path in sorted(usable):
        once.setdefault(_identity(path), path)
    return Matched(list(once.values()), sorted(others))


def left_out(patterns: list[str], key: str) -> list[str]:
    """Say how many files of the globs have another type than lexp reads."""
    matched = match(patterns, key)
    if not matched.others:
        return []
    kinds = ", ".join(sorted({_kind(path) for path in matched.others}))
    n_files = len(matched.files) + len(matched.others)
    return [
        f"{key}={','.join(patterns)}: {len(matched.others)} of {n_files} files left out ({kinds}); "
        f"lexp reads {', '.join(SUFFIXES)}"
    ]


def document_names(files: list[Path]) -> list[str]:
    """Return the path of each file from the folder on that all have in common.

    The names are distinct, and the same wherever the folder is and however it is spelt.
    """
    if not files:
        return []
    folders = {folder: folder.resolve() for folder in {path.parent for path in files}}
    common = os.path.commonpath(list(folders.values()))
    return [(folders[p.parent] / p.name).relative_to(common).as_posix() for p in files]


def _is_readable(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _below(folder: Path) -> list[Path]:
    names = glob.glob("**/*", root_dir=folder, recursive=True)
    return [folder / name for name in names]


def _refuse(pattern: str, matches: set[Path], key: str) -> None:
    if [path.exists() and not path.is_file() for path in matches] == [True]:
        (only,) = matches
        if not only.is_dir():
            raise DataError(f"{key}={pattern} is {kind_of(only.stat().st_mode)}, not a file")
    seen = f"{len(matches)} paths, none" if matches else "nothing"
    place = "" if os.path.isabs(pattern) else f", in {Path.cwd()}"
    raise DataError(
        f"{key}={pattern} matches {seen} that ends in {', '.join(SUFFIXES)}{place}{_hint(pattern)}"
    )


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
