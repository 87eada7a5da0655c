"""The settings of every command as frozen dataclasses.

A command's edge reads the composed config into one of them (lexp.config.typed); objects travel
below it. Values and their defaults are in conf/, the types that Hydra checks while it composes in
lexp.config.schema, ranges and combinations in lexp.config.validation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from lexp.config.instantiate import build
from lexp.runs.usual import USUAL
from lexp.system.errors import ConfigError
from lexp.system.links import real_folder

T = TypeVar("T")
HF = "hf"  # the kind of a run whose model is from Hugging Face, and model= that asks for it
NOPE = "nope"  # position= of a model of Hugging Face whose rotary positions are taken away


@dataclass(frozen=True)
class Node:
    """A part that a config describes: the path of its class (`_target_`) and its arguments."""

    values: Any

    @property
    def name(self) -> str:
        """Return the name of the choice, such as `bytes` of tokenizer=bytes."""
        values: dict[str, Any] = self.values if isinstance(self.values, dict) else {}
        return values.get("name", "")

    def build(self, expected: type[T], where: str) -> T:
        """Build the part; ConfigError says what is wrong with it. where: its key, for messages."""
        return build(self.values, expected, where)


def build_all(
    nodes: Mapping[str, Node], expected: type[T], group: str, label_of: Callable[[T], str]
) -> tuple[T, ...]:
    """Build every choice of a group from which several can be chosen.

    label_of: the name in tables. ConfigError for two of one name: they would pass for one, and be
    averaged.
    """
    parts = {key: node.build(expected, f"{group}.{key}") for key, node in nodes.items()}
    keys: dict[str, str] = {}
    for key, part in parts.items():
        label = label_of(part)
        if label in keys:
            raise ConfigError(
                f"{group}.{keys[label]} and {group}.{key} are both {label} in tables: leave one "
                "out, or give classes of your own different names"
            )
        keys[label] = key
    return tuple(parts.values())


@dataclass(frozen=True)
class OptimConfig:
    """Settings optim.* of `lexp train`."""

    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip: float
    schedule: str
    warmup: float
    final: float
    power: float
    decay: float
    matrices: str
    matrix_lr: float
    momentum: float


@dataclass(frozen=True)
class SizeConfig:
    """The dimensions of a model."""

    name: str
    n_layers: int
    d_model: int
    n_heads: int
    head_dim: int
    d_ff: int
    share_layers: bool


@dataclass(frozen=True)
class TrunkConfig:
    """The parts that all layers have in addition to their mixers.

    n_kv_heads: all, half, or a number. output_gate, sinks: of attention.
    """

    name: str
    norm: Node
    mlp: Node
    n_kv_heads: int | str
    qk_norm: Node | None
    output_gate: Node | None = None
    sinks: Node | None = None
    tied_embeddings: bool = False


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """What some layers of a model are made of; what is left out is that of a plain Transformer.

    position: the scheme. pattern: which keys a query sees in training. mixer: what takes the place
    of the trunk's attention. output_gate: of that attention, in place of the trunk's.
    """

    position: Node | None = None
    pattern: Node | None = None
    mixer: Node | None = None
    output_gate: Node | None = None


@dataclass(frozen=True, kw_only=True)
class ModelConfig(LayerConfig):
    """A model's layers: a list of entries that they take in turns, or one for all of them."""

    name: str
    layers: tuple[LayerConfig, ...] = ()

    @property
    def entries(self) -> dict[str, LayerConfig]:
        """Return the entries, by their keys for messages."""
        if not self.layers:
            own = {item.name: getattr(self, item.name) for item in fields(LayerConfig)}
            return {"model": LayerConfig(**own)}
        return {f"model.layers[{n}]": entry for n, entry in enumerate(self.layers)}


@dataclass(frozen=True)
class HfModelConfig:
    """A model of Hugging Face: its architecture, and the digest of its config and weights.

    pattern: of all layers; layers: entries that they take in turns where their patterns differ.
    position: nope where rotary positions are taken away.
    """

    name: str
    type: str
    sha256: str
    pattern: Node | None = None
    layers: tuple[LayerConfig, ...] = ()
    position: str | None = None


@dataclass(frozen=True, kw_only=True)
class StudyFolder:
    """Settings of every command: the study, and the folder of all studies.

    raw: all values as composed, for what is hashed or written to disk.
    """

    name: str
    outputs: str
    raw: dict[str, Any] = field(repr=False, compare=False)

    @property
    def study_folder(self) -> Path:
        """Return the folder with the runs of the study."""
        return real_folder(self.outputs) / self.name

    @property
    def cache(self) -> Path:
        """Return the folder of tokenised texts."""
        return real_folder(self.outputs) / ".cache"


@dataclass(frozen=True, kw_only=True)
class RunConfig(StudyFolder):
    """Settings of every run, trained here or not."""

    model: ModelConfig | HfModelConfig
    objective: Node
    size: SizeConfig
    dataset: Node
    tokenizer: Node
    seed: int
    train_len: int


@dataclass(frozen=True, kw_only=True)
class HfRunConfig(RunConfig):
    """A run whose model was trained elsewhere. path: its folder, or its name on the hub."""

    model: HfModelConfig
    path: str


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Settings of `lexp train`. Token budgets are floats, as tokens=1e9 is one.

    extension: one choice, by its name, that the model is trained with. extended_from: the train_len
    from which it extends, no key but a fact about init_from; None without an extension.
    """

    model: ModelConfig
    trunk: TrunkConfig
    init_from: str | None
    tokens: float
    batch_tokens: int
    accumulation: int
    lr: float
    optim: OptimConfig
    save_every: int
    keep: int | tuple[int, ...] | None
    eval_every: int
    eval_tokens: int
    stall_min: float | None
    device: str
    precision: str
    kernel: str
    compile: bool
    recompute_layers: int | str
    parallel: str
    wandb: str
    tensorboard: bool
    one_batch: bool
    profile_steps: int | None
    # Of runs of before lexp had others.
    reading: Node = Node(USUAL["reading"])
    extension: dict[str, Node] = field(
        default_factory=lambda: {key: Node(values) for key, values in USUAL["extension"].items()}
    )
    extended_from: int | None = None
    length_warmup: tuple[int, ...] = ()

    @property
    def lengths(self) -> tuple[int, ...]:
        """Return the lengths of windows, each for an equal share of the steps."""
        return (*self.length_warmup, self.train_len)

    @property
    def n_steps(self) -> int:
        """Return the number of optimiser steps."""
        return int(self.tokens) // self.batch_tokens

    @property
    def kept_steps(self) -> frozenset[int]:
        """Return the steps whose checkpoints are kept for good."""
        if isinstance(self.keep, int):
            return frozenset(range(self.keep, self.n_steps + 1, self.keep))
        return frozenset(step for step in self.keep or () if step <= self.n_steps)


@dataclass(frozen=True, kw_only=True)
class ReportConfig(StudyFolder):
    """Settings of `lexp report`."""

    model: str | tuple[str, ...] | None
    delta: float
    last_k: int | None
    key_alpha: float
    judge: str | None
    baseline: str | None
    show: str


@dataclass(frozen=True, kw_only=True)
class StatusConfig(StudyFolder):
    """Settings of `lexp status`."""

    watch: bool
    every: float


@dataclass(frozen=True, kw_only=True)
class MethodsConfig(StudyFolder):
    """Settings of commands on finished runs: which runs, methods, lengths, text, device.

    chooses_lengths: none were given, so `lengths` are those usual for texts, and tasks are asked at
    their own.
    """

    attention: dict[str, Node]
    extension: dict[str, Node]
    dataset: Node | None = None
    model: str | tuple[str, ...] | None
    path: str | None
    train_len: int | None
    position: str | None
    lengths: tuple[int, ...]
    allow_partial: bool
    device: str
    precision: str
    chooses_lengths: bool = False


@dataclass(frozen=True, kw_only=True)
class EvalConfig(MethodsConfig):
    """Settings of `lexp eval`. checkpoints: last, all, or steps. workers: auto, or a number."""

    protocol: dict[str, Node]
    checkpoints: str | tuple[int, ...]
    max_tokens: float | None
    examples: int
    grid: tuple[int, ...]
    plan: bool
    workers: int | str
    kernel: str
    wandb: str


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(MethodsConfig):
    """Settings of `lexp probe`."""

    probes: dict[str, Node]
    samples: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class AnalyzeConfig(MethodsConfig):
    """Settings of `lexp analyze`."""

    instruments: dict[str, Node]
    texts: int
    checkpoints: str | tuple[int, ...]
    states: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class HarnessConfig(MethodsConfig):
    """Settings of `lexp harness`. shots, limit: null for those of each task's file, and for all."""

    tasks: tuple[str, ...]
    task_folder: str | None
    shots: int | None
    limit: int | None
    resamples: int


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(StudyFolder):
    """Settings of `lexp finetune`."""

    task: Node
    run: str
    seed: int
    epochs: int
    batch_size: int
    lr: float
    max_len: int | None
    device: str
    precision: str


@dataclass(frozen=True)
class ExportConfig:
    """Settings of `lexp export`. extension: one choice, by its name."""

    run: str
    to: str
    length: int | None
    extension: dict[str, Node]


@dataclass(frozen=True, kw_only=True)
class StudyConfig(StudyFolder):
    """Settings of `lexp study`. study: the study file; train, eval, ...: values for stages."""

    study: Any
    dataset: Node | None
    tokenizer: Node | None
    scale: str
    plan: bool
    flops: float | None
    train: dict[str, Any]
    eval: dict[str, Any]
    probe: dict[str, Any]
    analyze: dict[str, Any]
    report: dict[str, Any]
    device: str
    precision: str

    @property
    def overrides(self) -> dict[str, dict[str, Any]]:
        """Return, by command, the values for all its stages."""
        commands = ("train", "eval", "probe", "analyze", "report")
        return {command: getattr(self, command) for command in commands}
