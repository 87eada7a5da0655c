"""Writes docs/config.md, every key with its default, from the YAML of conf/ and its comments.

Usage: python scripts/config_page.py. tests/docs/test_config_page.py fails if it differs.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
COMMANDS = ("train", "eval", "probe", "analyze", "report", "status", "study", "finetune")
# The order of the sections, and how a choice of the group is typed.
GROUPS = {
    "model": "model={}", "size": "size={}", "dataset": "dataset={}", "tokenizer": "tokenizer={}",
    "objective": "objective={}", "task": "task={}",
    "task/glue": "task=glue/{}",
    "attention": "'attention=[{}]'", "extension": "'extension=[{}]'", "protocol": "'protocol=[{}]'",
    "probes": "'probes=[{}]'", "instruments": "'instruments=[{}]'", "study": "study={}",
    "hydra/launcher": "hydra/launcher={}",
}  # fmt: skip
HEAD = """# Every key

What each command takes, with defaults. `lexp COMMAND key=value` changes one, and
`lexp COMMAND --cfg job` shows what comes of it. Groups, such as `model=`, choose a file of `conf/`;
what is in it are keys too (`model.position.base=500`). A group that takes several choices takes a
list: `'attention=[full,window]'`.

This page is written by `python scripts/config_page.py` from the comments in `conf/`.
[The guide](guide.md) says what to do with it.
"""


class Key(NamedTuple):
    """A key by its dotted name, its default as written, and the comment beside it."""

    name: str
    default: str
    about: str


def keys(path: Path) -> Iterator[Key]:
    """The leaves of a config in order, but for `defaults`, `hydra` and what is inside lists."""
    above: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        found = re.match(r"( *)(- )?(\w+):(?: +(.*?))?(?: +# (.*))?$", line)
        if not found:
            continue
        indent, item, name, value, about = found.groups()
        while above and above[-1][0] >= len(indent):
            above.pop()
        inside = [part for _, part in above]
        if item or not value:
            above.append((len(indent), "" if item else name))
        elif "" not in inside and inside[:1] not in (["defaults"], ["hydra"]):
            yield Key(".".join([*inside, name]), value, about or "")


def choices(path: Path) -> Iterator[Key]:
    """The groups of a command's `defaults`, with what is chosen where nothing is said."""
    for line in path.read_text(encoding="utf-8").splitlines():
        found = re.match(r"  - (\w+): (.*?)(?: +# (.*))?$", line)
        if found:
            yield Key(found[1], found[2], found[3] or "")


def command_section(command: str) -> str:
    """A command's groups and keys."""
    path = CONF / f"{command}.yaml"
    lines = [f"## lexp {command}", "", "| key | default | |", "| --- | --- | --- |"]
    for group in choices(path):
        lines.append(
            f"| [`{group.name}=`](#{group.name}) | `{group.default}` | {told(group, path)} |"
        )
    for key in keys(path):
        lines.append(f"| `{key.name}=` | `{key.default}` | {told(key, path)} |")
    return "\n".join([*lines, ""])


def told(key: Key, path: Path) -> str:
    """A key's comment; an error where it has none."""
    if not key.about:
        raise SystemExit(f"{path}: {key.name} has no comment")
    return escaped(key.about)


def group_section(group: str, typed: str) -> str:
    """The choices of a group: what each is, and its keys."""
    lines = [f"## {group}", "", "| choice | | its keys |", "| --- | --- | --- |"]
    for path in sorted((CONF / group).glob("*.yaml")):
        lines.append(
            f"| `{typed.format(path.stem)}` | {escaped(head(path))} | {own_keys(group, path)} |"
        )
    return "\n".join([*lines, ""])


def head(path: Path) -> str:
    """The comment that a file begins with; of a study file its first line."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# ") or line.startswith("#   "):
            break
        if not line.startswith("# @package"):  # where Hydra puts the file's keys
            lines.append(line.removeprefix("# "))
    return " ".join(lines)


def own_keys(group: str, path: Path) -> str:
    """A choice's keys with defaults and comments, but for those that follow the model's size."""
    if group == "study":
        return ""
    unsaid = () if group == "hydra/launcher" else ("name",)
    shown = []
    for key in keys(path):
        follows = re.match(r"\$\{(size\.|train_len)", key.default)
        if follows or key.name.split(".")[-1] == "_target_" or key.name in unsaid:
            continue
        # The choices of task/glue/ are choices of task.
        place = "task" if group == "task/glue" else group.replace("/", ".")
        name = f"{place}.{key.name}"
        shown.append(f"`{name}={key.default}`" + (f" {escaped(key.about)}" if key.about else ""))
    return "<br>".join(shown)


def escaped(text: str) -> str:
    """Text that ends no cell of a table and is no HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def page() -> str:
    """The whole page."""
    parts = [HEAD, *map(command_section, COMMANDS)]
    return "\n".join([*parts, *(group_section(*item) for item in GROUPS.items())])


if __name__ == "__main__":
    (ROOT / "docs" / "config.md").write_text(page(), encoding="utf-8")
