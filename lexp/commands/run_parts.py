"""The parts of a run, built from its settings: texts, model, objective, pattern, kernel."""

from dataclasses import fields
from functools import partial
from pathlib import Path

import torch

from lexp.attention import MakeAttend, make_attend, make_flex
from lexp.config.instantiate import code_of
from lexp.config.settings import ModelConfig, Node, RunConfig, SizeConfig
from lexp.data import Corpus, Store, open_store
from lexp.data.store import enough_memory
from lexp.data.tokenizer import TokenizerSpec
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Pattern
from lexp.position import Position
from lexp.system.errors import ConfigError
from lexp.system.files import make_folder
from lexp.training.objective import Objective

# No model is that large; building one would fill the memory before anything could be said.
MAX_LAYERS, MAX_WEIGHTS = 10_000, 10**13


def make_corpus(dataset: Node) -> Corpus:
    """Return the texts that a dataset names."""
    return dataset.build(Corpus, "dataset")


def make_store(dataset: Node, tokenizer: Node, cache: Path) -> tuple[Corpus, Store]:
    """Return a corpus, tokenised; its vocabulary is trained or fetched at its first use."""
    corpus, folder = make_corpus(dataset), make_folder(cache)
    spec = tokenizer.build(TokenizerSpec, "tokenizer")
    with enough_memory(dataset.name):
        return corpus, open_store(corpus, spec.load(corpus, folder), folder)


def make_dims(size: SizeConfig) -> Dims:
    """Return the dimensions of a model; ConfigError if one is below 1."""
    n_weights = size.n_layers * size.d_model * (4 * size.n_heads * size.head_dim + 2 * size.d_ff)
    if size.n_layers > MAX_LAYERS or n_weights > MAX_WEIGHTS:
        raise ConfigError(
            f"size: {size.n_layers} layers with {n_weights:.2g} weights (at most {MAX_LAYERS} and "
            f"{MAX_WEIGHTS:.0g})"
        )
    try:
        return Dims(**{field.name: getattr(size, field.name) for field in fields(Dims)})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"size: {error}") from None


def make_position(config: RunConfig) -> Position:
    """Return the position scheme of a run, freshly initialised; of models trained by lexp alone."""
    assert isinstance(config.model, ModelConfig), "models from elsewhere bring their own"
    return config.model.position.build(Position, "model.position")


def make_model(config: RunConfig, vocab_size: int) -> Transformer:
    """Return the model of a run, freshly initialised.

    vocab_size: the tokenizer's; the objective may need more.
    """
    vocab_size += make_objective(config).n_extra
    return Transformer(make_dims(config.size), vocab_size, partial(make_position, config))


def make_objective(config: RunConfig) -> Objective:
    """Return what a run's model is trained to predict."""
    return config.objective.build(Objective, "objective")


def training_pattern(config: RunConfig) -> Pattern:
    """Return which keys a query sees in training: the model's own pattern, else the objective's."""
    if config.model.pattern is None:
        return make_objective(config).pattern
    pattern = config.model.pattern.build(Pattern, "model.pattern")
    return pattern.fit(config.train_len, config.train_len)


def own_code(config: RunConfig) -> dict[str, str]:
    """Return the digests of the user's own classes of model and objective, by target.

    Texts and vocabularies have digests of their own, whatever code gave them.
    """
    return code_of([config.raw["model"], config.raw["objective"]], "model")


def choose_backend(name: str, device: torch.device) -> MakeAttend:
    """Return what kernel=tiles|flex stands for; ConfigError if this device cannot run it."""
    if name == "flex" and device.type != "cuda":
        raise ConfigError(f"kernel=flex: needs device=cuda, this is {device}; allowed here: tiles")
    return make_flex if name == "flex" else make_attend
