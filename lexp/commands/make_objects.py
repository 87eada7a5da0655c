"""What training and evaluation set up alike."""

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lexp.attention import MakeAttend, make_attend, make_flex
from lexp.config.instantiate import build
from lexp.data import Corpus, Store, open_store
from lexp.data.tokenizer import TokenizerSpec
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Pattern
from lexp.position import Position
from lexp.system.errors import ConfigError
from lexp.system.files import make_folder
from lexp.training.objective import CausalLM, Objective


def make_corpus(node: dict[str, Any]) -> Corpus:
    """The corpus of a dataset node."""
    return build(node, Corpus, "dataset")


def make_store(
    dataset: dict[str, Any], tokenizer: dict[str, Any], outputs: Path
) -> tuple[Corpus, Store]:
    """A corpus, tokenised; the vocabulary is trained or fetched if this is its first use."""
    corpus, cache = make_corpus(dataset), make_folder(outputs / ".cache")
    spec = build(tokenizer, TokenizerSpec, "tokenizer")
    return corpus, open_store(corpus, spec.load(corpus, cache), cache)


def make_dims(settings: dict[str, Any]) -> Dims:
    """The model's sizes; ConfigError if one is below 1."""
    # Runs of an older lexp do not say whether layers share weights: they do not.
    size = {"share_layers": False, **settings["size"]}
    try:
        return Dims(**{field.name: size[field.name] for field in fields(Dims)})
    except ValueError as error:
        raise ConfigError(f"size: {error}") from None


def make_model(settings: dict[str, Any], vocab_size: int) -> Transformer:
    """The model that the settings of a run describe, freshly initialised.

    vocab_size: the tokenizer's; the objective may need more.
    """
    node = settings["model"]["position"]
    make_position = partial(build, node, Position, "model.position")
    vocab_size += make_objective(settings).n_extra
    return Transformer(make_dims(settings), vocab_size, make_position)


def make_objective(settings: dict[str, Any]) -> Objective:
    """What a run's model is trained to say; runs of an older lexp are causal."""
    node = settings.get("objective")
    return CausalLM() if node is None else build(node, Objective, "objective")


def choose_kernel(name: str, device: torch.device) -> MakeAttend:
    """What kernel=tiles|flex stands for; ConfigError if this device cannot run it."""
    if name == "flex" and device.type != "cuda":
        raise ConfigError(f"kernel=flex: needs device=cuda, this is {device}; allowed here: tiles")
    return make_flex if name == "flex" else make_attend


def training_pattern(settings: dict[str, Any]) -> Pattern:
    """Which keys a query saw in training: as the objective has it, or the model's own pattern."""
    node, train_len = settings["model"].get("pattern"), settings["train_len"]
    if node is None:
        return make_objective(settings).pattern
    return build(node, Pattern, "model.pattern").fit(train_len, train_len)
