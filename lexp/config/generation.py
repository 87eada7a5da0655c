"""The settings of `lexp generate`."""

import math
from dataclasses import dataclass

from omegaconf import DictConfig

from lexp.config.checks import MAX_LENGTH, at_least, between, one_of, raise_all
from lexp.config.schema import plain
from lexp.config.settings import Node
from lexp.config.typed import read_settings
from lexp.config.validation import DEVICES, PRECISIONS


@dataclass(frozen=True)
class GenerateConfig:
    """Settings of `lexp generate`. attention, extension: one choice each, by its name."""

    attention: dict[str, Node]
    extension: dict[str, Node]
    run: str
    prompt: str | None
    prompt_file: str | None
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    device: str
    precision: str


def read_generate(composed: DictConfig) -> GenerateConfig:
    """Return the settings of `lexp generate`; one ConfigError names everything that is wrong."""
    config = read_settings(GenerateConfig, plain(composed))
    chosen = {"attention": config.attention, "extension": config.extension}
    problems = [
        *[f"{key}={list(nodes)} (one choice)" for key, nodes in chosen.items() if len(nodes) != 1],
        *between(1, MAX_LENGTH, {"max_new_tokens": config.max_new_tokens}),
        *at_least(0, seed=config.seed),
        *one_of("device", config.device, DEVICES),
        *one_of("precision", config.precision, PRECISIONS),
    ]
    if not (math.isfinite(config.temperature) and config.temperature >= 0):
        problems.append(f"temperature={config.temperature} (a finite number from 0)")
    if not 0 < config.top_p <= 1:
        problems.append(f"top_p={config.top_p} (above 0 and at most 1)")
    if config.temperature == 0 and config.top_p != 1:
        problems.append(f"top_p={config.top_p} (draws, so add temperature=1, or another above 0)")
    raise_all(problems)
    return config
