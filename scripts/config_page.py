"""Write docs/config.md, every key with its default, from the YAML of conf/ and its comments.

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

Every command with its keys and their defaults. `lexp COMMAND key=value` changes a value, and
`lexp COMMAND --cfg job` prints the composed config. A group, such as `model=`, chooses a file of
`conf/`. The values in that file are keys too (`model.position.base=500`). A group with several
choices takes a list: `'attention=[full,window]'`.

This page is written by `python scripts/config_page.py` from the comments in `conf/`.
[The guide](guide.md) shows how to use it.
"""


class Key(NamedTuple):
    """A key by its dotted name, its default as written, and the comment beside it."""

    name: str
    default: str
    about: str


def keys(path: Path) -> Iterator[Key]:
    """Yield the leaves of a config in order, without `defaults`, `hydra` and items of lists."""
    above: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
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
            yield Key(".".join([*inside, name]), value, about or "")


def choices(path: Path) -> Iterator[Key]:
    """Yield the groups of a command's `defaults`, each with its default choice."""
    for line in path.read_text(encoding="utf-8").splitlines():
        match = re.match(r"  - (\w+): (.*?)(?: +# (.*))?$", line)
        if match:
            yield Key(match[1], match[2], match[3] or "")


def command_section(command: str) -> str:
    """Return the section of a command: its groups and keys."""
    path = CONF / f"{command}.yaml"
    lines = [f"## lexp {command}", "", "| key | default | |", "| --- | --- | --- |"]
    for group in choices(path):
        lines.append(
            f"| [`{group.name}=`](#{group.name}) | `{group.default}` | {comment(group, path)} |"
        )
    for key in keys(path):
        lines.append(f"| `{key.name}=` | `{key.default}` | {comment(key, path)} |")
    return "\n".join([*lines, ""])


def comment(key: Key, path: Path) -> str:
    """Return a key's comment; exit with an error if it has none."""
    if not key.about:
        raise SystemExit(f"{path}: {key.name} has no comment")
    return escaped(key.about)


def built_in(group: str) -> str:
    """Return a sentence that names the packages of the classes that a group's files build."""
    found: set[str] = set()
    for path in (CONF / group).glob("*.yaml"):
        for target in re.findall(r"_target_: ([\w.]+)", path.read_text(encoding="utf-8")):
            package, name, *_ = target.split(".")
            found.add(f"`{package}/{name}/`" if package == "lexp" else f"`{package}/`")
    if not found:
        return "Values only; they build no object of their own."
    return f"Builds objects of {' and '.join(sorted(found))}."


def group_section(group: str, typed: str) -> str:
    """Return the choices of a group: where its code is, what each choice is, and its keys."""
    lines = [f"## {group}", "", built_in(group), ""]
    lines += ["| choice | | its keys |", "| --- | --- | --- |"]
    for path in sorted((CONF / group).glob("*.yaml")):
        lines.append(
            f"| `{typed.format(path.stem)}` | {escaped(head(path))} | {own_keys(group, path)} |"
        )
    return "\n".join([*lines, ""])


def head(path: Path) -> str:
    """Return the comment at the head of a file; of a study file its first line."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# ") or line.startswith("#   "):
            break
        if not line.startswith("# @package"):  # where Hydra puts the file's keys
            lines.append(line.removeprefix("# "))
    return " ".join(lines)


def own_keys(group: str, path: Path) -> str:
    """Return a choice's keys with defaults and comments, except those set by the model's size."""
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
    """Return text that is safe in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def page() -> str:
    """Return the whole page."""
    parts = [HEAD, *map(command_section, COMMANDS)]
    return "\n".join([*parts, *(group_section(*item) for item in GROUPS.items())])


if __name__ == "__main__":
    (ROOT / "docs" / "config.md").write_text(page(), encoding="utf-8")
