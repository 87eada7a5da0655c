"""`~` in values that are paths: the user's folder, expanded once, as soon as a config is composed.

No setting but a path begins with `~`, so no list of keys has to be kept.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from lexp.system.errors import ConfigError

HOME = re.compile(r"~[A-Za-z_]?[\w.-]*(/|$)")
# Not settings of the command: what was typed, and a study file, whose stages are composed later.
AS_TYPED = ("hydra", "study")
# Of Hydra's own keys those of a launcher may be paths.
LAUNCHER = "hydra.launcher"


def expand_home(config: DictConfig) -> None:
    """Expand `~` and `~user` in every value of a composed config; ConfigError for no such user."""
    settings: Any = OmegaConf.to_container(config, resolve=False)
    parts = {key: value for key, value in settings.items() if key not in AS_TYPED}
    launcher = settings.get("hydra", {}).get("launcher") or {}
    found = [*_paths(parts), *_paths(launcher, LAUNCHER)]
    if not found:
        return
    flag = OmegaConf.is_readonly(config)
    OmegaConf.set_readonly(config, False)
    with open_dict(config):
        for key, value in found:
            OmegaConf.update(config, key, value)
    OmegaConf.set_readonly(config, flag)


def expand_path(path: str, key: str) -> str:
    """Return a path with `~` or `~user` expanded; ConfigError if that is unknown. key: its name."""
    if not HOME.match(path):
        return path
    expanded, user = os.path.expanduser(path), path.partition("/")[0]
    # An empty HOME would make ~/x the folder /x.
    if not os.path.isabs(expanded) or (user == "~" and os.environ.get("HOME") == ""):
        raise ConfigError(
            f"{key}={path}: there is no folder of {user} on this machine; write the whole path, "
            f"or ./{path} for a folder of that name"
        )
    return expanded


def _paths(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the key and the new value of every value that begins with `~`; lists are yielded whole.

    value: plain containers.
    """
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _paths(inner, f"{key}.{name}".lstrip("."))
    else:
        expanded = _expanded(value, key)
        if expanded != value:
            yield key, expanded


def _expanded(value: Any, key: str) -> Any:
    """Return plain containers with every `~` in them expanded."""
    if isinstance(value, dict):
        return {name: _expanded(inner, f"{key}.{name}") for name, inner in value.items()}
    if isinstance(value, list):
        return [_expanded(inner, key) for inner in value]
    return expand_path(value, key) if isinstance(value, str) else value
