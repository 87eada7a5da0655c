"""The files of a report, and which of them the next report deletes: those that it wrote itself."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from lexp.system.files import clean, make_folder, remove_file, write_json, write_text
from lexp.system.reading import read_own

# The names of the files that the last report wrote.
LIST = "files.json"


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write a report's files by name; delete those of the last report that are not among them.

    Other files in the folder stay. The caller must hold the study's lock.
    """
    make_folder(folder)
    clean(folder, "*.csv", "report.*", LIST)
    before = _listed(folder)
    # Also if this process is killed in between, the next report knows what is a report's.
    write_json(folder / LIST, sorted(before | set(texts)))
    for name, text in texts.items():
        write_text(folder / name, text)
    for name in sorted(before - set(texts)):
        remove_file(folder / name)
    write_json(folder / LIST, sorted(texts))


def _listed(folder: Path) -> set[str]:
    """Return the names in the list; none of a list that is missing or not a report's."""
    try:
        names = json.loads(read_own(folder / LIST))
    except (OSError, ValueError, RecursionError):
        return set()
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return {n for n in names if re.fullmatch(r"[\w-]+\.csv|report\.\w+", n)} if is_list else set()
