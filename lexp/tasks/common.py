"""What training and evaluation set up alike."""

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lexp.attention import MakeAttend, make_attend, make_flex
from lexp.build import build
from lexp.data import Corpus, Store, open_store
from lexp.data.tokenizer import TokenizerSpec
from lexp.errors import ConfigError
from lexp.files import make_folder
from lexp.model import Dims, Transformer
from lexp.pattern import Full, Pattern
from lexp.position import Position


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
    names = [field.name for field in fields(Dims)]
    try:
        return Dims(**{name: settings["size"][name] for name in names})
    except ValueError as error:
        raise ConfigError(f"size: {error}") from None


def make_model(settings: dict[str, Any], vocab_size: int) -> Transformer:
    """The model that the settings of a run describe, freshly initialised."""
    node = settings["model"]["position"]
    make_position = partial(build, node, Position, "model.position")
    return Transformer(make_dims(settings), vocab_size, make_position)


def choose_kernel(name: str, device: torch.device) -> MakeAttend:
    """What kernel=tiles|flex stands for; ConfigError if this device cannot run it."""
    if name == "flex" and device.type != "cuda":
        raise ConfigError(f"kernel=flex: needs device=cuda, this is {device}; allowed here: tiles")
    return make_flex if name == "flex" else make_attend


def training_pattern(settings: dict[str, Any]) -> Pattern:
    """Which keys a query saw in training: everything, unless the model's config has a pattern."""
    node, train_len = settings["model"].get("pattern"), settings["train_len"]
    if node is None:
        return Full()
    return build(node, Pattern, "model.pattern").fit(train_len, train_len)
