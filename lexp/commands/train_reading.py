"""How a run reads its data: the reading from its settings, and what it cannot be combined with."""

import numpy as np
import torch

from lexp.attention import MakeAttend, make_moved
from lexp.commands.run_parts import choose_backend, make_objective, make_positions
from lexp.config.settings import TrainConfig
from lexp.config.tasks import is_task
from lexp.data.reading import Documents, Moved, Packed, Reading
from lexp.position.compose import least
from lexp.system.errors import ConfigError


def make_reading(config: TrainConfig) -> Reading:
    """Return how a run's training windows are made; ConfigError if they cannot be its."""
    reading = config.reading.build(Reading, "reading")
    name = f"reading={config.reading.name}"
    if reading.causal_only and make_objective(config).pattern.two_sided:
        what = "reading.mask=document" if reading.within_documents else name
        raise ConfigError(
            f"{what}: is for models that see one side, this run has "
            f"objective={config.objective.name}; use reading=documents, or packed without a mask"
        )
    if is_task(config.dataset.values):
        _refuse_for_task(config, reading)
    if config.length_warmup:
        _refuse_with_warmup(config, reading)
    if reading.within_documents:
        refuse_with_documents(config)
    if isinstance(reading, Moved):
        refuse_with_positions(config, reading)
    return reading


def training_attention(config: TrainConfig, device: torch.device) -> MakeAttend:
    """Return what makes the attention of training steps, at the positions of the reading."""
    if make_reading(config).moves_positions:
        return make_moved
    return choose_backend(config.kernel, device)


def _refuse_with_warmup(config: TrainConfig, reading: Reading) -> None:
    """Raise ConfigError for data that cannot be read in shorter windows first."""
    given = f"length_warmup={list(config.length_warmup)}"
    if is_task(config.dataset.values):
        raise ConfigError(
            f"{given}: dataset={config.dataset.name}, a task, has rows of lengths of its own; use "
            "dataset.draw=grow, or leave length_warmup out"
        )
    if isinstance(reading, Moved):
        raise ConfigError(
            f"{given}: reading={config.reading.name} spreads train_len tokens over target_len "
            "positions, shorter windows would leave larger gaps; leave length_warmup out, or train "
            "with it first, on documents, and go on from that run with init_from="
        )


def _refuse_for_task(config: TrainConfig, reading: Reading) -> None:
    """Raise ConfigError for a reading by which the problems of a task cannot be read."""
    if type(reading) is Documents or (isinstance(reading, Packed) and reading.within_documents):
        return
    is_packed = isinstance(reading, Packed)
    raise ConfigError(
        f"reading={config.reading.name}: is for texts, dataset={config.dataset.name} is a task; "
        + ("add reading.mask=document, or leave reading out" if is_packed else "leave reading out")
    )


def refuse_with_documents(config: TrainConfig) -> None:
    """Raise ConfigError for what cannot keep attention within documents."""
    where = "reading.mask=document"
    if config.kernel == "flex":
        raise ConfigError(
            f"{where}: kernel=flex is compiled for one shape of rows, and documents have many; use "
            "kernel=tiles"
        )
    if config.compile:
        raise ConfigError(
            f"{where}: compile=true compiles for one shape of rows, and documents have many; leave "
            "compile out"
        )
    for position in make_positions(config):
        does = {
            "samples positions for": position.samples_positions,
            "reads the tokens of": position.reads_tokens,
            "changes with the length of": position.by_length,
        }
        for how in (how for how, does_so in does.items() if does_so):
            other = "leave reading out" if is_task(config.dataset.values) else "reading.mask=null"
            raise ConfigError(
                f"{where}: {position.title} {how} whole rows; use another model, or {other}"
            )


def refuse_with_positions(config: TrainConfig, reading: Moved) -> None:
    """Raise ConfigError where a reading cannot give the positions, or a scheme has none to move."""
    name = f"reading={config.reading.name}"
    try:
        target = reading.target(config.train_len)
        reading.draw(config.train_len, np.random.default_rng(0))
    except ValueError as error:
        raise ConfigError(f"reading: {error}") from None
    if config.kernel == "flex":
        raise ConfigError(f"{name}: kernel=flex has positions 0 .. T-1 alone; use kernel=tiles")
    positions = make_positions(config)
    for position in positions:
        title = position.title
        if position.samples_positions:
            raise ConfigError(f"{name}: {title} samples positions itself; use reading=documents")
        if position.by_length:
            raise ConfigError(
                f"{name}: {title} changes with the length of a text, which moved positions are not "
                "of; use reading=documents"
            )
        if position.reads_indices:
            raise ConfigError(
                f"{name}: {title} reads indices of tokens, which have no other positions; use "
                "reading=documents"
            )
        most = least((position.max_len, position.max_span))
        if most is not None and most < target:
            raise ConfigError(
                f"{name}: {title} has {most} positions, reading.target_len={target} needs as many; "
                "choose a smaller target_len, or a model.position with more"
            )
    if not any(position.reads_positions or position.has_embedding for position in positions):
        titles = " / ".join(dict.fromkeys(position.title for position in positions))
        raise ConfigError(f"{name}: {titles} has no positions to move; use reading=documents")
