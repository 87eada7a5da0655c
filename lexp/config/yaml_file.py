"""Config files of other folders, which may be somebody else's: bounded before they are read.

A few lines of aliases unfold to more nodes than fit in memory, and a recursive anchor never ends.
So the events of a file are counted first, each alias at its full size.
"""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lexp.system.errors import ConfigError, first_line

MAX_BYTES, MAX_NODES, MAX_DEPTH = 1 << 20, 50_000, 50


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; ConfigError if it is none, or is too large."""
    check_yaml(path)
    with said_of(path):
        value = yaml.safe_load(path.read_bytes().decode())
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds {type(value).__name__}; write lines of KEY: VALUE")
    return value


def check_yaml(path: Path) -> None:
    """Raise ConfigError for a file that is not YAML, contains itself, or unfolds to too much."""
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{path}: not a file of at most {MAX_BYTES >> 20} MB, as configs are")
    with said_of(path):
        problem = _beyond(yaml.parse(path.read_bytes().decode(), Loader=yaml.SafeLoader))
    if problem:
        raise ConfigError(f"{path}: {problem}")


@contextlib.contextmanager
def said_of(path: Path) -> Iterator[None]:
    """Raise what a parser of YAML raises as a ConfigError that names the file and the line."""
    try:
        yield
    except ConfigError:
        raise
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: {error.problem or error.context}") from None
    except Exception as error:  # OmegaConf and constructors of YAML's types raise any kind
        raise ConfigError(f"{path}: not a config ({first_line(error)})") from None


def _beyond(events: Iterable[Any]) -> str:
    """Return what is too large or endless in a stream of YAML events, or ""."""
    sizes: dict[str, int] = {}
    # Of the collections that are open: anchor, and nodes in them so far.
    opened: list[tuple[str | None, int]] = [(None, 0)]
    for event in events:
        size = 0
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = opened.pop()
            sizes |= {anchor: size} if anchor else {}
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            sizes |= {event.anchor: 1} if event.anchor else {}
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in [anchor for anchor, _ in opened]:
                return f"line {event.start_mark.line + 1}: *{event.anchor} contains itself"
            size = sizes.get(event.anchor, 0)
        opened[-1] = (opened[-1][0], opened[-1][1] + size)
        if len(opened) > MAX_DEPTH:
            return f"line {event.start_mark.line + 1}: nested deeper than {MAX_DEPTH} levels"
        if opened[-1][1] > MAX_NODES:
            return f"line {event.start_mark.line + 1}: more than {MAX_NODES} values, with aliases"
    return ""
