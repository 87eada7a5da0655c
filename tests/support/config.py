"""Settings of tests: a command's config as the command line composes it, a run of ten steps."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from lexp.cli import hydra_guard
from lexp.config.job_configs import JobConfigs
from lexp.config.schema import register_schemas
from lexp.data.corpus import SPLITS
from lexp.system.errors import ConfigError
from lexp.system.files import config_folder
from support import ROOT

TINY = (
    "size.n_layers=1", "size.d_model=16", "size.n_heads=2", "size.head_dim=8", "size.d_ff=32",
    "train_len=16", "batch_tokens=64", "tokens=640", "save_every=4", "eval_every=5",
    "eval_tokens=128", "precision=float32", "device=cpu", "lr=1e-2",
)  # fmt: skip


def compose_by_hydra(word: str, *overrides: str):
    """Compose a command's config, as the command line would."""
    register_schemas()
    hydra_guard.install()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return hydra_compose(word, overrides=list(overrides))


def compose(word: str, *overrides: str):
    """Return what `compose_by_hydra` returns, ten times sooner (config/test_job_configs.py)."""
    GlobalHydra.instance().clear()
    return _configs(word).compose(list(overrides))


@cache
def _configs(word: str) -> JobConfigs:
    register_schemas()
    hydra_guard.install()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return JobConfigs(GlobalHydra.instance().config_loader(), word)


def refusal(check: Callable, word: str, *overrides: str) -> str:
    """Return the line with which a command refuses its config."""
    with pytest.raises(ConfigError) as error:
        check(compose(word, *overrides))
    return str(error.value)


def choices(group: str) -> list[str]:
    """Return the names of a config group's files."""
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def dataset(texts: Path) -> list[str]:
    """Return the overrides that make a folder of texts the data set."""
    return ["dataset=text", *(f"dataset.{split}={texts}/{split}/*.txt" for split in SPLITS)]


def compose_tiny(texts: Path, outputs: Path, *overrides: str):
    """Compose a ten-step training run; an override replaces the default of its key."""
    base = [*TINY, *dataset(texts), f"outputs={outputs}"]
    given = {override.split("=")[0] for override in overrides}
    return compose("train", *(b for b in base if b.split("=")[0] not in given), *overrides)
