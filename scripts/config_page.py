"""Write docs/config.md, every key with its default, from the YAML of conf/ and its comments.

Usage: python scripts/config_page.py. tests/docs/test_config_page.py fails if it differs.
"""

import re
from pathlib import Path

from lexp.config.comments import CommentedKey, choice_keys, default_choices, keys

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
COMMANDS = (
    "train", "eval", "probe", "harness", "analyze", "report", "status", "study", "finetune",
    "export", "generate", "data",
)  # fmt: skip
# The order of the sections, and how a choice of the group is typed.
GROUPS = {
    "model": "model={}", "trunk": "trunk={}", "size": "size={}", "dataset": "dataset={}",
    "tokenizer": "tokenizer={}", "reading": "reading={}", "objective": "objective={}",
    "task": "task={}", "task/glue": "task=glue/{}",
    "attention": "'attention=[{}]'", "extension": "'extension=[{}]'", "protocol": "'protocol=[{}]'",
    "probes": "'probes=[{}]'", "instruments": "'instruments=[{}]'", "study": "study={}",
    "hydra/launcher": "hydra/launcher={}", "debug": "+debug={}",
}  # fmt: skip
HEAD = """# Every key

Every command with its keys and their defaults. `lexp COMMAND key=value` changes a value, and
`lexp COMMAND --cfg job` prints the composed config. A group, such as `model=`, chooses a file of
`conf/`. The values in that file are keys too (`model.position.base=500`). A group with several
choices takes a list: `'attention=[full,window]'`.

This page is written by `python scripts/config_page.py` from the comments in `conf/`.
[The guide](guide.md) shows how to use it.
"""


def command_section(command: str) -> str:
    """Return the section of a command: its groups and keys."""
    path = CONF / f"{command}.yaml"
    lines = [f"## lexp {command}", "", "| key | default | |", "| --- | --- | --- |"]
    for group in default_choices(path):
        lines.append(
            f"| [`{group.name}=`](#{group.name}) | `{group.default}` | {comment(group, path)} |"
        )
    for key in keys(path):
        lines.append(f"| `{key.name}=` | `{key.default}` | {comment(key, path)} |")
    return "\n".join([*lines, ""])


def comment(key: CommentedKey, path: Path) -> str:
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
    shown = [
        f"`{key.name}={key.default}`" + (f" {escaped(key.about)}" if key.about else "")
        for key in choice_keys(group, path)
    ]
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
