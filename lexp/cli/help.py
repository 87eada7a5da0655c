"""The page of `lexp COMMAND --help`, made from the files of conf/ and their comments."""

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from lexp.config.comments import CommentedKey, choice_keys, default_choices, keys
from lexp.config.sweep import OF_ONE_STUDY
from lexp.config.yaml_file import read_yaml
from lexp.system.errors import ConfigError

LAUNCHERS = "hydra/launcher"
PRESETS = "debug"
# Commands that start no runs: they take no launcher.
READING = ("report", "status", "export", "generate", "data")
WIDTH = 100
# The column of explanations; keys that are too long for it have a line of their own.
COLUMN = 28
CHANGE, SWEEP = "Change a value: key=value.", "Start a sweep: -m key=value,value."
FOOTER = "Quote brackets: 'lengths=[512,2048]'. Add your own configs: --config-dir DIR"


def help_page(
    config_folder: Path, command: str, words: list[str], folders: list[str], width: int
) -> str:
    """Return the help of a command: its groups with their choices, its values with their comments.

    words: the overrides typed; choices among them have their keys explained. folders: the config
    folders of --config-dir. width: columns.
    """
    missing = [folder for folder in folders if not Path(folder).is_dir()]
    if missing:
        raise ConfigError(f"--config-dir {missing[0]}: there is no such folder")
    path = config_folder / f"{command}.yaml"
    places = [config_folder, *map(Path, folders)]
    groups = list(default_choices(path))
    if command not in READING:
        groups.append(CommentedKey(LAUNCHERS, "here", _launched(command)))
    typed = dict(re.findall(r"^([\w/]+)=(.*)$", "\n".join(words), re.MULTILINE))
    lines = [*_headline(path).splitlines(), ""]
    lines += ["Groups (choose with group=option)"] * bool(groups)
    for group in groups:
        lines += _entry(group, width)
        listed = ", ".join(options(group.name, places))
        lines += textwrap.wrap(listed, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    if command == "train":
        lines += presets(places[0] / PRESETS, width)
    lines += ["", "Values"] if groups else ["Values"]
    lines += _entries(keys(path), width)
    for group in groups:
        chosen = typed.get(group.name, group.default)
        for name in re.findall(r"[\w/]+", chosen):
            lines += _values_of(group.name, name, places, width)
    changes = CHANGE if command in OF_ONE_STUDY else f"{CHANGE} {SWEEP}"
    return "\n".join([*lines, "", changes, FOOTER])


def _launched(command: str) -> str:
    if command in OF_ONE_STUDY:
        return "where the training runs go"
    return "with -m: where the runs of a sweep go"


def presets(folder: Path, width: int) -> list[str]:
    """Return a line for each preset, with the comment at the head of its file."""
    lines = ["", "Presets for trying things (values that are typed override theirs)"]
    for path in sorted(folder.glob("*.yaml")):
        about = path.read_text(encoding="utf-8").splitlines()[1].removeprefix("# ")
        entry = f"  {f'+{folder.name}={path.stem}':<{COLUMN - 2}}{about}"
        lines += textwrap.wrap(entry, width, subsequent_indent=" " * COLUMN)
    return lines


def page_width() -> int:
    """Return the width of a help page: the terminal's, but at most WIDTH."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH
    return max(40, min(columns, WIDTH))


def options(group: str, places: list[Path]) -> list[str]:
    """Return the choices of a group in all config folders."""
    files = [
        path.relative_to(place / group)
        for place in places
        for path in (place / group).rglob("*.yaml")
    ]
    return sorted({path.with_suffix("").as_posix() for path in files})


def _headline(path: Path) -> str:
    return read_yaml(path)["hydra"]["help"]["header"]


def _values_of(group: str, choice: str, places: list[Path], width: int) -> list[str]:
    """Return the lines that explain the keys of a choice; none if it has no keys."""
    files = [place / group / f"{choice}.yaml" for place in places]
    for path in (path for path in files if path.is_file()):
        found = list(choice_keys(group, path))
        return ["", f"Values of {group}={choice}", *_entries(found, width)] if found else []
    return []


def _entries(found: Iterable[CommentedKey], width: int) -> Iterator[str]:
    for key in found:
        yield from _entry(key, width)


def _entry(key: CommentedKey, width: int) -> list[str]:
    """Return a key with its default, and its comment in a column of its own."""
    left = f"  {key.name}={key.default}"
    if not key.about:
        return [left]
    indent = " " * COLUMN
    about = textwrap.wrap(key.about, width, initial_indent=indent, subsequent_indent=indent)
    if len(left) > COLUMN - 2:
        return [left, *about]
    return [f"{left:<{COLUMN}}{about[0].lstrip()}", *about[1:]]
