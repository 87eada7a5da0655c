"""Task files of lm-evaluation-harness that are not its own: what in them could run code.

A task file is YAML; `!function module.name` in it is a function of a file beside it, or of any
module. Such a module runs only if LEXP_ALLOW names it.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lexp.system.errors import ConfigError, first_line
from lexp.system.reading import read_text
from lexp.system.user_code import allowed_modules

FUNCTION = "!function"
# Reads pickles.
REFUSED_DATA = ("pandas",)


def require_harness() -> None:
    """Raise ConfigError if the package is not installed."""
    if find_spec("lm_eval") is None:
        raise ConfigError("lexp harness needs the extra harness: pip install 'lexp[harness]'")


def check_task_files(folder: Path, package: Path, metrics: set[str]) -> None:
    """Raise ConfigError for a task file in a folder that would run code nobody has allowed.

    Files that one includes are checked too, but for those of the installed package. metrics: names
    that the package has; others it would look for on the hub, as code.
    """
    if not folder.is_dir():
        raise ConfigError(f"task_folder={folder}: there is no such folder")
    found = sorted(folder.rglob("*.yaml"))
    # A group within a group takes its include from the folder of the file where all began.
    beside = sorted({path.parent for path in found})
    seen: set[Path] = set()
    waiting = [path.resolve() for path in found]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        root = _root(path)
        if not path.is_relative_to(package):
            _check_functions(path, root)
            _check_parts(path, root, metrics)
        for name in _included(root):
            named = [place / name for place in (path.parent, *beside)]
            # A file that is not there is said to be missing where it is named.
            waiting += [one.resolve() for one in named if one.is_file()] or [named[0].resolve()]


def _root(path: Path) -> yaml.Node | None:
    """Return the nodes of a YAML file, of which nothing is built."""
    try:
        return yaml.compose(read_text(path), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"task_folder: {path} cannot be read: {first_line(error)}") from None


def _nodes(node: yaml.Node | None, seen: set[int]) -> Iterator[yaml.Node]:
    """Yield a node and all in it, each once: nodes may hold each other (anchors)."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, yaml.MappingNode):
            waiting += [inner for pair in one.value for inner in pair]
        elif isinstance(one, yaml.SequenceNode):
            waiting += one.value


def _check_functions(path: Path, root: yaml.Node | None) -> None:
    allowed = allowed_modules()
    for node in _nodes(root, set()):
        if not (node.tag.startswith("!") or ":python/" in node.tag):
            continue
        name = node.value if isinstance(node, yaml.ScalarNode) else "?"
        module = name.rpartition(".")[0]
        if node.tag != FUNCTION or not module:
            raise ConfigError(f"task_folder: {path} has {node.tag} {name}, which is not allowed")
        if not any(f"{module}.".startswith(f"{one}.") for one in allowed):
            raise ConfigError(
                f"task_folder: {path} runs {name}, code of the module {module} (if you trust it: "
                f"export LEXP_ALLOW={','.join([*allowed, module])})"
            )


def _pairs(root: yaml.Node | None) -> Iterator[tuple[str, yaml.Node]]:
    """Yield every key and value of all mappings in a file."""
    for node in _nodes(root, set()):
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                yield str(key.value), value


def _check_parts(path: Path, root: yaml.Node | None, metrics: set[str]) -> None:
    keys = dict[str, list[Any]]()
    for key, value in _pairs(root):
        keys.setdefault(key, []).append(value)
    for value in keys.get("dataset_path", []):
        if value.value in REFUSED_DATA:
            raise ConfigError(
                f"task_folder: {path}: dataset_path={value.value} reads pickles, which can hold "
                "code; use json, csv, parquet or text"
            )
    if "use_prompt" in keys:
        raise ConfigError(
            f"task_folder: {path}: use_prompt reads templates of elsewhere; write doc_to_text"
        )
    for value in keys.get("process_results", []):
        if value.tag != FUNCTION:
            shown = value.value if isinstance(value, yaml.ScalarNode) else "..."
            raise ConfigError(
                f"task_folder: {path}: process_results={shown} is no function; write "
                "!function module.name, or leave it out"
            )
    if isinstance(root, yaml.MappingNode) and any(
        key.value == "process_results" for key, _ in root.value
    ):
        return  # the names of metrics are its own then
    # A group names the metrics of its tasks again, and loads none.
    listed = [pair for one in keys.get("metric_list", []) for pair in _pairs(one)]
    for value in (value for key, value in listed if key == "metric"):
        if value.tag != FUNCTION and value.value not in metrics:
            raise ConfigError(
                f"task_folder: {path}: metric={value.value} is none of the harness; name one of "
                f"{', '.join(sorted(metrics))}, or a function of your own"
            )
    if any(value.value not in ("false", "no", "False") for value in keys.get("hf_evaluate", [])):
        raise ConfigError(f"task_folder: {path}: hf_evaluate loads code from the hub; leave it out")


def _included(root: yaml.Node | None) -> list[str]:
    """Return the files that a file includes, as they are named there."""
    found: list[str] = []
    for key, value in _pairs(root):
        if key == "include":
            nodes = value.value if isinstance(value, yaml.SequenceNode) else [value]
            found += [str(node.value) for node in nodes]
    return found
