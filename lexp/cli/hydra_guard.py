"""The allowlist of Hydra's own config, which can run code before lexp sees a single value.

Callbacks, loggers, launchers and sweepers are built by Hydra while it composes or before the task
is called, from whatever an override or a config folder says. So every config is checked as soon as
it is composed, whichever way it was asked for, and before Hydra acts on it.
"""

import re
from collections.abc import Iterator
from typing import Any

import hydra._internal.hydra as hydra_main
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lexp.system.errors import ConfigError

# Flags that read other configs than lexp's; the last one unpickles.
FLAGS = ("config_path", "config_name", "experimental_rerun")
# Classes that Hydra finds as its plugins: those of installed packages.
PLUGINS = ("hydra._internal.core_plugins.", "hydra_plugins.")
BUILT = ("launcher", "sweeper")
FIXED: dict[str, Any] = {
    "callbacks": {},
    "job.env_set": {},
    "run.dir": ".",
    "output_subdir": None,
    "sweep.subdir": ".",
    "job_logging.root": None,
    "hydra_logging.root": None,
}
SWEEP_DIR = "${outputs}/${name}/sweep"
KEYS_THAT_CALL = ("_target_", "()")
# Commands whose `model` names runs of a study; that of `lexp train` is a choice from conf/model.
SELECTING = ("eval", "probe", "analyze", "report")


def check_flags(arguments: list[str]) -> None:
    """Raise ConfigError for a flag of Hydra, also abbreviated, that reads a config of elsewhere."""
    flags = vars(get_args_parser().parse_known_args(arguments)[0])
    for flag in FLAGS:
        if flags[flag] is not None:
            name = flag.replace("_", "-")
            raise ConfigError(f"--{name} is not allowed; configs of your own: --config-dir DIR")


def ordered(arguments: list[str]) -> list[str]:
    """Return overrides before flags, as argparse reads them; ConfigError for unknown flags."""
    parsed, rest = get_args_parser().parse_known_args(arguments)
    unknown = [word for word in rest if word.startswith("-")]
    if unknown:
        raise ConfigError(f"no flag {unknown[0]!r}; --help shows what there is")
    overrides, flags = [*parsed.overrides, *rest], list(arguments)
    for word in overrides:
        flags.remove(word)
    return [*overrides, *flags]


def install() -> None:
    """Have Hydra compose every config of this process with `CheckedLoader`."""
    hydra_main.ConfigLoaderImpl = CheckedLoader  # type: ignore[misc]


class CheckedLoader(ConfigLoaderImpl):
    """Hydra's loader; ConfigError for a config that would run what lexp does not allow."""

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose and check."""
        for word in overrides:
            # Finding a package's folder imports the package.
            if re.match(r"[+~]*hydra\.searchpath\b", word) and "pkg:" in word:
                raise ConfigError(f"{word}: only folders (file://) are searched for configs")
        try:
            config = super().load_configuration(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
        except ValueError as error:  # of a group without a choice
            raise ConfigError(f"{' '.join(overrides)}: {error}") from None
        check_composed(config)
        return config

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        """Parse the overrides; where a command selects runs, `model` is a key and no group."""
        parsed, repository = super()._parse_overrides_and_create_caching_repo(
            config_name, overrides
        )
        return parsed, ModelIsAKey(repository) if config_name in SELECTING else repository


class ModelIsAKey(CachingConfigRepository):
    """Hydra's view of the config folders without the group `model`.

    Hydra takes every override that is called like a group for a choice from it.
    """

    def group_exists(self, config_path: str) -> bool:
        """Return whether there is a group of this path."""
        return config_path != "model" and super().group_exists(config_path)


def check_composed(config: DictConfig) -> None:
    """Raise ConfigError for the first value below `hydra` that is not allowed."""
    hydra = config.get("hydra")
    if hydra is None:
        return
    for key, only in FIXED.items():
        value = OmegaConf.select(hydra, key)
        value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        if (value or None) != (only or None):
            raise ConfigError(f"hydra.{key}={value}: only {only} is allowed")
    node: Any = OmegaConf.to_container(hydra, resolve=False)
    if node["sweep"]["dir"] != SWEEP_DIR:
        raise ConfigError(f"hydra.sweep.dir={node['sweep']['dir']}: only {SWEEP_DIR} is allowed")
    for key, value in _calls(node, "hydra"):
        allowed = key in {f"hydra.{part}._target_" for part in BUILT}
        if not (allowed and str(value).startswith(PLUGINS)):
            raise ConfigError(f"{key}={value}: only launchers and sweepers of plugins are built")


def _calls(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield every key that names something to call, at any depth."""
    pairs: Any = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in pairs:
        if key in KEYS_THAT_CALL:
            yield f"{where}.{key}", value
        if isinstance(value, dict | list):
            yield from _calls(value, f"{where}.{key}")
