"""The settings of `lexp generate`."""

import math
from dataclasses import dataclass

from omegaconf import DictConfig

from lexp.config.checks import (
    MAX_LENGTH,
    at_least,
    between,
    folder_name,
    one_of,
    path_word,
    raise_all,
)
from lexp.config.schema import plain
from lexp.config.settings import HF, MethodsConfig
from lexp.config.typed import read_settings
from lexp.config.validation import DEVICES, PRECISIONS, external_problems


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(MethodsConfig):
    """Settings of `lexp generate`. attention, extension: one choice each, by its name.

    run: null with model=hf. lengths, allow_partial: of commands that store results.
    """

    lengths: tuple[int, ...] = ()
    allow_partial: bool = False
    run: str | None
    prompt: str | None
    prompt_file: str | None
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int


def read_generate(composed: DictConfig) -> GenerateConfig:
    """Return the settings of `lexp generate`; one ConfigError names everything that is wrong."""
    config = read_settings(GenerateConfig, plain(composed))
    chosen = {"attention": config.attention, "extension": config.extension}
    problems = [
        *[f"{key}={list(nodes)} (one choice)" for key, nodes in chosen.items() if len(nodes) != 1],
        *between(1, MAX_LENGTH, {"max_new_tokens": config.max_new_tokens}),
        *at_least(0, seed=config.seed),
        *path_word("name", config.name),
        *folder_name(config.outputs),
        *(external_problems(config) if config.run is None or config.model is None else []),
        *one_of("device", config.device, DEVICES),
        *one_of("precision", config.precision, PRECISIONS),
    ]
    if config.run is not None and config.model is not None:
        problems.append(f"run={config.run} and model={config.model} (one of them)")
    elif config.model not in (None, HF):
        problems.append(f"model={config.model} (hf with path=FOLDER; a run of lexp: run=FOLDER)")
    elif config.run is None and config.model is None:
        problems.append("no model (give run=FOLDER of a finished run, or model=hf path=FOLDER)")
    if not (math.isfinite(config.temperature) and config.temperature >= 0):
        problems.append(f"temperature={config.temperature} (a finite number from 0)")
    if not 0 < config.top_p <= 1:
        problems.append(f"top_p={config.top_p} (above 0 and at most 1)")
    elif config.temperature == 0 and config.top_p != 1:
        problems.append(f"top_p={config.top_p} (draws, so add temperature=1, or another above 0)")
    raise_all(problems)
    return config
