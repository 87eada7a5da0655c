"""Errors of Hydra and OmegaConf as one line that a user can act on."""

import difflib
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lexp.system.files import config_folder


def one_line(error: BaseException) -> str:
    """Return an exception of a library as one line: the value, what is allowed, no search paths."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept: list[str] = []
    for line in lines:
        if line.startswith(("Config search path", "To append", "Set the environment", "See https")):
            break
        if not line.startswith(("object_type", "reference_type")):
            kept.append(line)
    # "Available options in 'model':" is followed by one option a line.
    text = ""
    for line in kept:
        text += line if not text else (" " if text.endswith(":") else ", ") + line
    cause = error.__cause__
    if cause is not None and text.startswith("Error merging override"):
        text += f": {one_line(cause)}"
    return text or type(error).__name__


def explained(error: BaseException) -> str:
    """Return `one_line` of an error; for a choice that does not exist, the choices there are."""
    choice = re.search(r"Could not load '(\w+)/([^']+)'", str(error))
    # Hydra does not name the choices in folders of a group, such as task=glue/rte.
    choice = choice or re.search(r"Could not find '(task)/([^']+)'", str(error))
    if choice:
        return f"no {choice[1]} {choice[2]!r}; there are {options(choice[1])}"
    if missing := re.search(r"You must specify '(\w+)'", str(error)):
        return f"no {missing[1]} given; there are {options(missing[1])}"
    return one_line(error)


def options(group: str) -> str:
    """Return every choice of a group that lexp has."""
    folder = config_folder() / group
    paths = [path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml")]
    return ", ".join(sorted(path.as_posix() for path in paths))


def suggest(unknown: str, config: DictConfig) -> str:
    """Return, for a key that does not exist, the nearest ones that do, or all of its level."""
    keys = list(_keys(config))
    near = difflib.get_close_matches(unknown, keys, n=3)
    if near:
        return f"no key {unknown!r}; did you mean {' or '.join(near)}?"
    level = sorted({key.split(".")[0] for key in keys})
    return f"no key {unknown!r}; there are {', '.join(level)}"


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    for key in config:
        name = f"{prefix}{key}"
        yield name
        if not OmegaConf.is_missing(config, key) and not OmegaConf.is_interpolation(config, key):
            inner = config[key]
            if OmegaConf.is_dict(inner):
                yield from _keys(inner, f"{name}.")
