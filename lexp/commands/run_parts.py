"""The parts of a run, built from its settings: texts, model, objective, pattern, kernel."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import torch

from lexp.attention import MakeAttend, make_attend, make_flex
from lexp.config.instantiate import code_of
from lexp.config.settings import LayerConfig, ModelConfig, Node, RunConfig, TrainConfig
from lexp.config.tasks import is_task
from lexp.config.trunk import n_kv_heads
from lexp.data import Corpus
from lexp.data.reading import Moved, Reading
from lexp.data.tasks.dataset import TaskDataset
from lexp.data.tokenizer import BytesSpec, TokenizerSpec
from lexp.data.unchanged import FileFindings
from lexp.extension import ByFactor, Extension, Lengths, with_schemes
from lexp.model import layers
from lexp.model.layers import LayerEntry
from lexp.model.mixer import Mixer
from lexp.model.mixer.kernels import kernel_note
from lexp.model.transformer import Block, Dims, Transformer
from lexp.model.trunk import GPT, Activation, Norm, OutputGate, Trunk, matched_d_ff
from lexp.pattern import NoAttention, Pattern, in_turns
from lexp.position import NoPE, Position, SinkLogits, Sum
from lexp.system.errors import ConfigError, NotDefined
from lexp.training.objective import CausalLM, Objective

# No model is that large; building one would fill the memory before anything could be said.
MAX_LAYERS, MAX_WEIGHTS = 10_000, 10**13


def make_corpus(dataset: Node, cache: Path | None = None) -> Corpus:
    """Return the texts that a dataset names; ConfigError for a task.

    cache: the folder where digests of unchanged files are kept; None: all are read anew.
    """
    if is_task(dataset.values):
        raise ConfigError(f"dataset={dataset.name} is a task; texts are needed here")
    corpus = dataset.build(Corpus, "dataset")
    corpus.findings = FileFindings(cache)
    return corpus


def make_task(dataset: Node) -> TaskDataset | None:
    """Return the task that a data set is; None for texts."""
    return dataset.build(TaskDataset, "dataset") if is_task(dataset.values) else None


def refuse_for_task(config: TrainConfig, vocabulary: TokenizerSpec) -> None:
    """Raise ConfigError for a vocabulary or an objective with which a task is not trained."""
    name = f"dataset={config.dataset.name}"
    if not isinstance(vocabulary, BytesSpec):
        raise ConfigError(
            f"tokenizer={config.tokenizer.name}: {name} is a task, in which each character is one "
            "token; use tokenizer=bytes"
        )
    if type(make_objective(config)) is not CausalLM:
        raise ConfigError(
            f"objective={config.objective.name}: {name} is a task, which is trained with "
            "objective=causal"
        )


def make_dims(config: TrainConfig) -> Dims:
    """Return the dimensions of a run's model; ConfigError if one is below 1.

    d_ff and n_kv_heads are those that its trunk makes of its size.
    """
    size, trunk = config.size, make_trunk(config)
    n_weights = size.n_layers * size.d_model * (4 * size.n_heads * size.head_dim + 2 * size.d_ff)
    if size.n_layers > MAX_LAYERS or n_weights > MAX_WEIGHTS:
        raise ConfigError(
            f"size: {size.n_layers} layers with {n_weights:.2g} weights (at most {MAX_LAYERS} and "
            f"{MAX_WEIGHTS:.0g})"
        )
    own = [field.name for field in fields(Dims) if hasattr(size, field.name)]
    try:
        dims = Dims(**{name: getattr(size, name) for name in own})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"size: {error}") from None
    n_shared = n_kv_heads(config.trunk, size)
    assert n_shared is not None, "checked where settings are read"
    left_out = (size.n_heads - n_shared) * size.head_dim
    n_rates = trunk.n_rates(size.n_heads, size.head_dim)
    d_ff = matched_d_ff(size.d_ff, left_out, n_rates, trunk.mlp.n_inputs)
    return replace(dims, d_ff=d_ff, n_kv_heads=n_shared)


def make_trunk(config: TrainConfig) -> Trunk:
    """Return the parts that a run's layers have in addition to their mixers."""
    given = config.trunk
    norm, mlp = given.norm.build(Norm, "trunk.norm"), given.mlp.build(Activation, "trunk.mlp")
    qk_norm = given.qk_norm.build(Norm, "trunk.qk_norm") if given.qk_norm else None
    gate = given.output_gate.build(OutputGate, "trunk.output_gate") if given.output_gate else None
    return Trunk(norm, mlp, qk_norm, gate, given.tied_embeddings)


def make_entries(config: RunConfig) -> list[LayerEntry]:
    """Return the entries of a run's layers; of models trained by lexp alone.

    ConfigError names the entry in which something is wrong.
    """
    assert isinstance(config, TrainConfig), "models from elsewhere bring their own"
    return [make_entry(config, entry, where) for where, entry in config.model.entries.items()]


@dataclass(frozen=True)
class MakeMixer:
    """Builds a mixer; those that build the same are equal. where: its key, for messages."""

    node: Node
    where: str = field(compare=False)

    def __call__(self) -> Mixer:
        """Return a new mixer."""
        return self.node.build(Mixer, self.where)


def make_entry(config: TrainConfig, entry: LayerConfig, where: str) -> LayerEntry:
    """Return one entry of a run's layers. where: its key, for messages."""
    pattern = make_objective(config).pattern
    make_position: Callable[[], Position] = NoPE
    make_mixer: Callable[[], Mixer] | None = None
    if entry.mixer is not None:
        make_mixer = MakeMixer(entry.mixer, f"{where}.mixer")
        mixer = make_mixer()
        refuse_useless(entry, mixer, where)
        if not mixer.attends:
            if pattern.two_sided:
                raise ConfigError(
                    f"{where}.mixer: {type(mixer).__name__} reads from left to right, but "
                    f"objective={config.objective.name} needs both sides; use objective=causal"
                )
            pattern = NoAttention()
    if entry.position is not None:
        make_position = partial(entry.position.build, Position, f"{where}.position")
    if entry.pattern is not None:
        pattern = entry.pattern.build(Pattern, f"{where}.pattern")
        pattern = pattern.fit(config.train_len, config.train_len)
    if config.trunk.sinks is not None and pattern.attends:
        make_position = partial(with_sinks, make_position, config.trunk.sinks)
    gate, key = entry.output_gate, f"{where}.output_gate"
    made = gate.build(OutputGate, key) if gate is not None else None
    return LayerEntry(make_position, pattern, make_mixer, made)


def with_sinks(make_position: Callable[[], Position], sinks: Node) -> Position:
    """Return a new scheme with the sink logits of the trunk."""
    position = make_position()
    try:
        return Sum([position, sinks.build(SinkLogits, "trunk.sinks")])
    except ValueError as error:
        reason = str(error).removeprefix("together: ")
        raise ConfigError(f"trunk.sinks: not with {position.title}: {reason}") from None


def refuse_useless(entry: LayerConfig, mixer: Mixer, where: str) -> None:
    """Raise ConfigError for parts of attention in an entry whose mixer has no use for them."""
    if entry.output_gate is not None:
        name = type(mixer).__name__
        raise ConfigError(
            f"{where}.output_gate: is of the trunk's attention, this entry has {name}; remove it"
        )
    if mixer.attends:
        return
    for key, node in (("position", entry.position), ("pattern", entry.pattern)):
        if node is not None:
            raise ConfigError(
                f"{where}.{key}: {type(mixer).__name__} computes no attention and has no {key}; "
                "remove it"
            )


def make_positions(config: RunConfig) -> list[Position]:
    """Return the schemes that a run's layers take in turns, freshly initialised, as extended."""
    entries = make_entries(config)
    try:
        positions = layers.make_positions(entries, config.size.n_layers)
    except ValueError as error:
        raise ConfigError(f"model.{error}") from None
    attending = [entry.pattern.attends for entry in layers.in_turns(entries, len(positions))]
    return extended_schemes(config, positions, attending)


def unused_entries(config: RunConfig) -> list[str]:
    """Return a line that names the entries which get no layer; none if all have one."""
    entries, n_layers = make_entries(config), config.size.n_layers
    if len(entries) <= n_layers:
        return []
    left = [
        f"{n}: {entry.make_position().title} in {entry.pattern.label}"
        for n, entry in enumerate(entries[n_layers:], n_layers + 1)
    ]
    return [
        f"model={config.model.name} has {len(entries)} entries for {n_layers} layers; without a "
        f"layer: {', '.join(left)}; size.n_layers={len(entries)} has all"
    ]


def make_model(config: TrainConfig, vocab_size: int) -> Transformer:
    """Return the model of a run with the extension it is trained with, freshly initialised.

    vocab_size: the tokenizer's; the objective may need more.
    """
    return with_extension(make_unextended(config, vocab_size), config)


def make_unextended(config: TrainConfig, vocab_size: int) -> Transformer:
    """Return the model of a run, freshly initialised, without the extension."""
    vocab_size += make_objective(config).n_extra
    refuse_shared_mixers(config)
    entries, trunk = make_entries(config), make_trunk(config)
    return Transformer(make_dims(config), vocab_size, entries, trunk=trunk)


def make_extension(config: TrainConfig) -> Extension:
    """Return the extension that a run is trained with."""
    ((key, node),) = config.extension.items()
    return node.build(Extension, f"extension.{key}")


def with_extension(model: Transformer, config: TrainConfig) -> Transformer:
    """Return the model as a run trains it: the same parameters, in schemes that are extended."""
    if config.extended_from is None:
        return model
    return with_schemes(model, extended_schemes(config, model.schemes, model.attending))


def extended_to(config: TrainConfig) -> int:
    """Return the length in tokens that a run's extension is made for.

    That of its windows, or of the longer text whose positions its reading gives them (PoSE).
    """
    reading = config.reading.build(Reading, "reading")
    if not isinstance(reading, Moved):
        return config.train_len
    try:
        return reading.target(config.train_len)
    except ValueError as error:
        raise ConfigError(f"reading: {error}") from None


def extended_schemes(
    config: RunConfig, schemes: list[Position], attending: list[bool]
) -> list[Position]:
    """Return schemes as the extension of a run changes them; ConfigError if it cannot.

    attending: of each scheme, whether its layers attend.
    """
    if not isinstance(config, TrainConfig) or config.extended_from is None:
        return schemes
    (key,), extension = config.extension, make_extension(config)
    assert isinstance(extension, ByFactor), "checked where training starts"
    longest = extended_to(config)
    lengths = Lengths(config.extended_from, longest, longest)
    try:
        return extension.extend_schemes(schemes, attending, training_pattern(config), lengths)
    except NotDefined as error:
        raise ConfigError(f"extension={key}: {error}") from None


def layer_parameters(dims: Dims, trunk: Trunk, entries: list[LayerEntry]) -> list[int]:
    """Return the parameters of each layer without its scheme."""
    with torch.device("meta"):
        taken = entries[: dims.n_layers]
        blocks = [Block(dims, entry.make_mixer, trunk=entry.parts(trunk)) for entry in taken]
    by_entry = [sum(p.numel() for p in block.parameters()) for block in blocks]
    return layers.in_turns(by_entry, dims.n_layers)


def trunk_notes(config: TrainConfig, model: Transformer) -> list[str]:
    """Return a line with a model's parameters and its d_ff; none for the trunk gpt."""
    size, dims, trunk = config.size, model.dims, make_trunk(config)
    if (trunk, config.trunk.sinks, dims.n_kv_heads) == (GPT, None, dims.n_heads):
        return []
    plain = replace(dims, d_ff=size.d_ff, n_kv_heads=None)
    n_blocks = 1 if dims.share_layers else dims.n_layers
    of_layers, of_gpt = (
        sum(layer_parameters(*parts, make_entries(config))[:n_blocks])
        for parts in ((dims, trunk), (plain, GPT))
    )
    total = sum(p.numel() for p in model.parameters())
    gpt = total - of_layers + of_gpt
    if trunk.tied_embeddings:
        gpt += model.head.weight.numel()
    if config.trunk.sinks is not None:
        parts = [part for scheme in model.schemes for part in scheme.parts]
        gpt -= sum(p.numel() for s in parts if isinstance(s, SinkLogits) for p in s.parameters())
    return [
        f"trunk={config.trunk.name}: {total:,} parameters (gpt: {gpt:,}), "
        f"{dims.n_kv_heads} key-value heads for {dims.n_heads} query heads; d_ff {dims.d_ff} of "
        f"{type(trunk.mlp).__name__}, chosen so that attention and feed-forward part have the "
        f"weights of size.d_ff={size.d_ff} with trunk=gpt"
    ]


def mixer_notes(model: Transformer, device: torch.device) -> list[str]:
    """Return a line that says what computes recurrent layers; none without such layers."""
    note = "" if all(model.attending) else kernel_note(device)
    return [note] if note else []


def refuse_shared_mixers(config: RunConfig) -> None:
    """Raise ConfigError if layers would share the weights of mixers that differ."""
    if not config.size.share_layers:
        return
    entries = make_entries(config)[: config.size.n_layers]
    if not all(entries[0].builds_as(other) for other in entries):
        raise ConfigError(
            f"size.share_layers=true: the layers of model={config.model.name} have mixers of their "
            "own; a model whose layers share their weights has one mixer"
        )


def make_objective(config: RunConfig) -> Objective:
    """Return what a run's model is trained to predict."""
    return config.objective.build(Objective, "objective")


def training_pattern(config: RunConfig) -> Pattern:
    """Return which keys queries see in training: the layers' own patterns, else the objective's."""
    if isinstance(config.model, ModelConfig):
        # A size without layers is refused where the model is made.
        entries = make_entries(config)[: max(1, config.size.n_layers)]
        patterns = tuple(entry.pattern for entry in entries)
        return in_turns(patterns) if config.model.layers else patterns[0]
    nodes = [entry.pattern for entry in config.model.layers or (config.model,)]
    patterns = tuple(
        node.build(Pattern, "model.pattern") if node else make_objective(config).pattern
        for node in nodes
    )
    fitted = tuple(pattern.fit(config.train_len, config.train_len) for pattern in patterns)
    return in_turns(fitted) if config.model.layers else fitted[0]


def own_code(config: RunConfig) -> dict[str, str]:
    """Return the digests of the user's classes of a run's model and objective, by target.

    Texts and vocabularies have digests of their own, whatever code gave them.
    """
    keys = ("model", "trunk", "objective", "extension")
    return code_of([config.raw[key] for key in keys if key in config.raw], "model")


def choose_backend(name: str, device: torch.device) -> MakeAttend:
    """Return what kernel=tiles|flex stands for; ConfigError if this device cannot run it."""
    if name == "flex" and device.type != "cuda":
        raise ConfigError(f"kernel=flex: needs device=cuda, this is {device}; allowed here: tiles")
    return make_flex if name == "flex" else make_attend
