"""One spelling of settings: what is written in several ways is one run.

10000 and 10000.0 are one number, a null is like a key that is not there, a glob is like a list of
one, and the order of a list of globs makes no difference. Paths are compared without `./`, `//`, a
slash at the end or `x/..`; a path inside the current folder is the same given whole or from there
on. The run of `init_from` is told by the name of its folder, in which its own settings stand.
"""

import os
import re
from pathlib import Path
from typing import Any

from lexp.system.files import one_number

SOURCE = "init_from"
TEXTS = ("dataset.train", "dataset.validation", "dataset.test")
PATHS = (*TEXTS, "dataset.path", "tokenizer.path", SOURCE)


def one_spelling(value: Any, key: str = "") -> Any:
    """Return settings as they are compared and hashed. key: dotted name of the value."""
    if isinstance(value, dict):
        inner = {
            name: one_spelling(part, f"{key}.{name}".lstrip(".")) for name, part in value.items()
        }
        return {name: part for name, part in inner.items() if part is not None and part != {}}
    if key in PATHS:
        return _path(value, key)
    if isinstance(value, list | tuple):
        return [one_spelling(part) for part in value]
    return one_number(value)


def _path(value: Any, key: str) -> Any:
    if isinstance(value, list | tuple):
        paths = {str(_path(part, key)) for part in value}
        return sorted(paths) if len(paths) > 1 else next(iter(paths), None)
    if not isinstance(value, str) or not value:
        return value
    if key == SOURCE:
        return Path(value).resolve().name
    path = re.sub("^//+", "/", os.path.normpath(value))
    # Where the current folder was reached through a link, the shell spells it otherwise.
    for here in (os.getcwd(), os.environ.get("PWD", "")):
        if len(here) > 1 and path.startswith(f"{here}/"):
            return path.removeprefix(f"{here}/")
    return path
