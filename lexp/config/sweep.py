"""The jobs of a sweep (-m), composed and checked before the first one runs."""

import importlib.util
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from lexp.config.comments import default_choices
from lexp.config.job_configs import JobConfigs
from lexp.system.errors import ConfigError
from lexp.system.output import say

# So many jobs take longer to check than a user waits without a word.
MANY = 20


# Commands that work on one study as a whole, write one folder or print one text; they take no -m.
OF_ONE_STUDY = ("report", "status", "study", "export", "generate", "data")


def check_launcher(arguments: list[str]) -> None:
    """Raise ConfigError for a launcher whose package or scheduler is not installed."""
    for word in arguments:
        if not re.match(r"hydra/launcher=['\"]?(slurm|submitit_\w+)", word):
            continue
        if importlib.util.find_spec("submitit") is None or not _has_plugin():
            raise ConfigError(f"{word} needs submitit: pip install 'lexp[slurm]'")
        if "submitit_local" not in word and shutil.which("srun") is None:
            raise ConfigError(f"{word}: no SLURM on this machine (srun is not on PATH)")


def _has_plugin() -> bool:
    try:
        return importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is not None
    except ModuleNotFoundError:
        return False


def check_jobs(
    config_folder: Path, word: str, arguments: list[str], check: Callable[[DictConfig], Any]
) -> int:
    """Compose and check each job of a sweep and count them; ConfigError names the first bad one.

    Overrides of Hydra itself (launchers, sweepers) are for Hydra; `--config-dir` is followed.
    """
    words, folders = split(arguments)
    if any(word.startswith("hydra/sweeper=") for word in words):
        return 0  # another sweeper makes other jobs
    words = [word for word in words if not re.match(r"[+~]*hydra[./]", word)]
    searching = searched(folders)
    with initialize_config_dir(str(config_folder), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(words)
        jobs = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
        if len(jobs) >= MANY:
            say(f"checking {len(jobs)} jobs")
        configs = JobConfigs(loader, word)
        for overrides in jobs:
            try:
                check(configs.compose([*overrides, *searching]))
            except ConfigError as error:
                raise ConfigError(f"job {' '.join(overrides)}: {error}") from None
    return len(jobs)


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the overrides, and the config folders named by --config-dir."""
    words, folders, rest = [], [], iter(arguments)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in ("--config-dir", "-cd"):
            folders.append(value if equals else next(rest, ""))
        elif not word.startswith("-"):
            words.append(word)
    return words, folders


def searched(folders: list[str]) -> list[str]:
    """Return the override that has Hydra search these folders too, after lexp's own."""
    if not folders:
        return []
    return [f"hydra.searchpath=[{','.join(f'file://{Path(f).resolve()}' for f in folders)}]"]


def compose_choices(config_folder: Path, word: str, arguments: list[str]) -> DictConfig:
    """Compose a command's config with the choices of groups alone, to tell what keys there are.

    arguments: those of the command line; of several choices that a sweep makes the first is taken.
    """
    words, folders = split(arguments)
    groups = {group.name for group in default_choices(config_folder / f"{word}.yaml")}
    choices = []
    for override in words:
        group, _, value = override.partition("=")
        if group in groups:
            choices.append(f"{group}={value if '[' in value else value.split(',')[0]}")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder), version_base="1.3"):
        config = compose(word, overrides=[*choices, *searched(folders)])
    OmegaConf.set_readonly(config, True)
    return config
