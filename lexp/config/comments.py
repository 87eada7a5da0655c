"""Keys of config files with the comments beside them, read as text: YAML readers drop comments."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lexp.system.reading import read_text


class CommentedKey(NamedTuple):
    """A key by its dotted name, its default as written, and the comment beside it."""

    name: str
    default: str
    about: str


def keys(path: Path) -> Iterator[CommentedKey]:
    """Yield the leaves of a config in order, without `defaults`, `hydra` and items of lists."""
    above: list[tuple[int, str]] = []
    for line in read_text(path).splitlines():
        # An item whose keys begin on the next line, such as `- &local`, has no key of its own.
        line = re.sub(r"^( *- )&\w+$", r"\1item:", line)
        match = re.match(r"( *)(- )?(\w+):(?: +(.*?))?(?: +# (.*))?$", line)
        if not match:
            continue
        indent, item, name, value, about = match.groups()
        while above and above[-1][0] >= len(indent):
            above.pop()
        inside = [part for _, part in above]
        if item or not value:
            above.append((len(indent), "" if item else name))
        elif "" not in inside and inside[:1] not in (["defaults"], ["hydra"]):
            yield CommentedKey(".".join([*inside, name]), value, about or "")


def default_choices(path: Path) -> Iterator[CommentedKey]:
    """Yield the groups of a command's `defaults`, each with its default choice."""
    for line in read_text(path).splitlines():
        match = re.match(r"  - (\w+): (.*?)(?: +# (.*))?$", line)
        if match:
            yield CommentedKey(match[1], match[2], match[3] or "")


def commands_with(key: str, folder: Path) -> list[str]:
    """Return the commands that have a key, or the group that it is in. folder: conf/."""
    first = key.partition(".")[0]
    return [
        path.stem
        for path in sorted(folder.glob("*.yaml"))
        if first in {one.name.partition(".")[0] for one in (*keys(path), *default_choices(path))}
    ]


def takes_list(key: str, word: str, folder: Path) -> bool:
    """Return True if a key of the command `word` takes a list of values. folder: conf/.

    Its default in conf/ is a list, or the comment beside it speaks of one.
    """
    first, _, inside = key.partition(".")
    paths = [folder / f"{word}.yaml"]
    found = [one for path in paths for one in (*keys(path), *default_choices(path))]
    same = [one for one in found if one.name == key]
    if inside and not same:
        if word == "study":  # values for all stages of a command: +train.seed=[0,1]
            return True
        choices = (one for path in (folder / first).rglob("*.yaml") for one in keys(path))
        same = [one for one in choices if one.name in (inside, key)]
    return any(
        one.default.startswith("[") or re.search(rf"\blists?\b|\b{key}=\[", one.about)
        for one in same
    )


def choice_keys(group: str, path: Path) -> Iterator[CommentedKey]:
    """Yield a choice's keys as they are typed, except those set by the model's size.

    group: the folder of the file. A study's keys are no keys of a command.
    """
    if group == "study":
        return
    # A preset sets keys of the command itself, the name of the study among them.
    unsaid = () if group in ("hydra/launcher", "debug") else ("name",)
    # The choices of task/glue/ are choices of task.
    place = "task" if group == "task/glue" else group.replace("/", ".")
    for key in keys(path):
        follows = re.match(r"\$\{(size\.|train_len)", key.default)
        if not follows and key.name.split(".")[-1] != "_target_" and key.name not in unsaid:
            yield key if group == "debug" else key._replace(name=f"{place}.{key.name}")
