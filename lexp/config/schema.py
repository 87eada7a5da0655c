"""Config schemas: types only. Values live in conf/; lexp.config.validation checks the rest.

Hydra checks names and types against the schemas when it composes, before the first job of a sweep.
Nothing below the composition root sees Hydra or OmegaConf.
"""

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lexp.config.messages import one_line
from lexp.config.unknown_keys import refuse_added
from lexp.system.errors import ConfigError
from lexp.system.secrets import secret_in

# True or false. lexp.config.typed checks it, because OmegaConf would take 3 and "on" as true.
YesNo = Any


@dataclass
class OptimSchema:
    """The keys optim.* of `lexp train`."""

    beta1: float = MISSING
    beta2: float = MISSING
    eps: float = MISSING
    weight_decay: float = MISSING
    clip: float = MISSING
    schedule: str = MISSING
    warmup: float = MISSING
    final: float = MISSING
    power: float = MISSING
    decay: float = MISSING
    matrices: str = MISSING
    matrix_lr: float = MISSING
    momentum: float = MISSING


@dataclass
class SizeSchema:
    """The keys size.*: dimensions, and the recipe that goes with them."""

    name: str = MISSING
    n_layers: int = MISSING
    d_model: int = MISSING
    n_heads: int = MISSING
    head_dim: int = MISSING
    d_ff: int = MISSING
    share_layers: YesNo = False
    train_len: int = MISSING
    tokens: float = MISSING
    batch_tokens: int = MISSING
    lr: float = MISSING


@dataclass
class TrainSchema:
    """The root config of `lexp train`. Token budgets are floats so that tokens=1e9 can be typed."""

    model: Any = MISSING
    trunk: Any = MISSING
    objective: Any = MISSING
    size: SizeSchema = MISSING
    dataset: Any = MISSING
    tokenizer: Any = MISSING
    reading: Any = MISSING
    extension: Any = MISSING
    name: str = MISSING
    outputs: str = MISSING
    seed: int = MISSING
    init_from: str | None = None
    train_len: int = MISSING
    length_warmup: Any = field(default_factory=list)
    tokens: float = MISSING
    batch_tokens: int = MISSING
    accumulation: int = MISSING
    lr: float = MISSING
    optim: OptimSchema = MISSING
    save_every: int = MISSING
    keep: Any = None
    eval_every: int = MISSING
    eval_tokens: int = MISSING
    stall_min: float | None = None
    device: str = MISSING
    precision: str = MISSING
    kernel: str = MISSING
    compile: YesNo = MISSING
    recompute_layers: Any = MISSING
    parallel: str = MISSING
    wandb: str = MISSING
    tensorboard: YesNo = MISSING
    one_batch: YesNo = MISSING
    profile_steps: int | None = None


@dataclass
class ModelsSchema:
    """Settings of commands on trained models: which ones, by which methods, and the device."""

    attention: Any = field(default_factory=dict)  # choices by key; at least one
    extension: Any = field(default_factory=dict)
    name: str = MISSING
    outputs: str = MISSING
    model: Any = MISSING
    path: str | None = None
    train_len: int | None = None
    position: str | None = None
    device: str = MISSING
    precision: str = MISSING


@dataclass
class RunsSchema(ModelsSchema):
    """Settings of commands on finished runs, at several lengths."""

    lengths: list[Any] = MISSING  # checked here: OmegaConf would take 0, -5 and duplicates
    allow_partial: YesNo = MISSING


@dataclass
class MethodsSchema(RunsSchema):
    """Settings of `lexp eval`, `probe` and `analyze`, which take a text."""

    dataset: Any = None


@dataclass
class ReportSchema:
    """The root config of `lexp report`."""

    name: str = MISSING
    outputs: str = MISSING
    model: Any = MISSING
    delta: float = MISSING
    last_k: int | None = MISSING
    key_alpha: float = MISSING
    judge: str | None = MISSING
    baseline: str | None = MISSING
    show: str = MISSING


@dataclass
class StatusSchema:
    """The root config of `lexp status`."""

    name: str = MISSING
    outputs: str = MISSING
    watch: YesNo = MISSING
    every: float = MISSING


@dataclass
class AnalyzeSchema(MethodsSchema):
    """The root config of `lexp analyze`."""

    lengths: list[Any] | None = MISSING  # type: ignore[assignment]  # null: usual ones
    instruments: Any = field(default_factory=dict)
    texts: int = MISSING
    checkpoints: Any = MISSING
    states: list[str] = MISSING


@dataclass
class EvalSchema(MethodsSchema):
    """The root config of `lexp eval`."""

    lengths: list[Any] | None = MISSING  # type: ignore[assignment]  # null: usual ones
    protocol: Any = field(default_factory=dict)
    checkpoints: Any = MISSING
    max_tokens: float | None = MISSING
    examples: int = MISSING
    grid: list[Any] = MISSING
    plan: YesNo = MISSING
    workers: Any = MISSING
    kernel: str = MISSING
    wandb: str = MISSING


@dataclass
class ProbeSchema(MethodsSchema):
    """The root config of `lexp probe`."""

    probes: Any = field(default_factory=dict)
    samples: int = MISSING
    seed: int = MISSING


@dataclass
class HarnessSchema(RunsSchema):
    """The root config of `lexp harness`."""

    tasks: Any = MISSING
    task_folder: str | None = None
    shots: int | None = None
    limit: int | None = None
    resamples: int = MISSING


@dataclass
class FinetuneSchema:
    """The root config of `lexp finetune`."""

    task: Any = MISSING
    run: str = MISSING
    seed: int = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    max_len: int | None = None
    name: str = MISSING
    outputs: str = MISSING
    device: str = MISSING
    precision: str = MISSING


@dataclass
class ExportSchema:
    """The root config of `lexp export`."""

    extension: Any = MISSING
    run: str = MISSING
    to: str = MISSING
    length: int | None = None


@dataclass
class GenerateSchema(ModelsSchema):
    """The root config of `lexp generate`."""

    run: str | None = None
    prompt: str | None = None
    prompt_file: str | None = None
    max_new_tokens: int = MISSING
    temperature: float = MISSING
    top_p: float = MISSING
    seed: int = MISSING


@dataclass
class DataSchema:
    """The root config of `lexp data`."""

    dataset: Any = MISSING
    tokenizer: Any = MISSING
    reading: Any = MISSING
    outputs: str = MISSING
    verify: YesNo = MISSING
    show: int = MISSING


@dataclass
class StudySchema:
    """The root config of `lexp study`; lexp.commands.study.file checks the study file."""

    study: Any = MISSING
    dataset: Any = None
    tokenizer: Any = None
    scale: str = MISSING
    name: str = MISSING
    outputs: str = MISSING
    plan: YesNo = MISSING
    flops: float | None = None
    train: Any = MISSING
    eval: Any = MISSING
    probe: Any = MISSING
    analyze: Any = MISSING
    report: Any = MISSING
    device: str = MISSING
    precision: str = MISSING


def register_schemas() -> None:
    """Make the schemas known to Hydra; safe to call again, and then without a cost."""
    store = ConfigStore.instance()
    if "train_schema.yaml" in store.repo:
        return
    for schema in (
        TrainSchema, EvalSchema, AnalyzeSchema, ProbeSchema, HarnessSchema, ReportSchema,
        StatusSchema, StudySchema, FinetuneSchema, ExportSchema, GenerateSchema, DataSchema,
    ):  # fmt: skip
        word = schema.__name__.removesuffix("Schema").lower()
        store.store(name=f"{word}_schema", node=schema)


def plain(config: DictConfig) -> dict[str, Any]:
    """Return the composed config as plain containers; ConfigError names a missing value."""
    try:
        value = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from None
    assert isinstance(value, dict)
    settings = {str(key): inner for key, inner in value.items()}
    for key, inner in settings.items():
        for leaf in _leaves(inner):
            if leaf is not None and not isinstance(leaf, str | int | float):
                raise ConfigError(f"{key} holds {type(leaf).__name__}; write text or a number")
        if name := secret_in(inner):
            raise ConfigError(f"{key} holds the value of ${name}; settings are written down")
    schema = OmegaConf.get_type(config)
    if missing := list(_missing(schema, settings)):
        raise ConfigError(f"no value for {', '.join(missing)}")
    refuse_added(schema, settings)
    return settings


def _leaves(value: Any) -> Iterator[Any]:
    """Yield every key and value in plain containers that is no container."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def _missing(schema: Any, settings: dict[str, Any], where: str = "") -> Iterator[str]:
    """Yield the keys of a schema that were taken out of a config (~key)."""
    for item in fields(schema) if is_dataclass(schema) else ():
        if item.name not in settings:
            yield where + item.name
        elif isinstance(settings[item.name], dict):
            yield from _missing(item.type, settings[item.name], f"{where}{item.name}.")


def check_types(settings: dict[str, Any]) -> None:
    """Check the types of a run's settings against the schema; ConfigError names the key.

    Nothing in them is interpolated: they may be somebody else's.
    """
    groups = ("model", "trunk", "size", "dataset", "tokenizer", "objective")
    later = ("reading", "extension")  # earlier runs lack these
    for group in (*groups, *later):
        if not isinstance(settings.get(group, {} if group in later else None), dict):
            raise ConfigError(f"{group}={settings.get(group)!r}: expected one of its choices")
    if not is_as_declared(settings, TrainSchema):
        _convert(settings)


def _convert(settings: dict[str, Any]) -> None:
    """Raise ConfigError for what OmegaConf does not convert to the types of the schema."""
    plainly = json.loads(json.dumps(settings))
    try:
        OmegaConf.merge(OmegaConf.structured(TrainSchema), OmegaConf.create(plainly))
    except (OmegaConfBaseException, OverflowError) as error:
        raise ConfigError(one_line(error)) from None


# Nothing of lexp's own is nested so deep.
DEEPEST = 20


def is_as_declared(value: Any, hint: Any, depth: int = 0) -> bool:
    """Return True if a value has exactly the type of its key, and so have all values in it.

    Then OmegaConf would convert nothing, and need not be asked: it takes 50 times longer, and a
    report opens hundreds of runs. False: it may still be allowed. hint: a schema or a field's type.
    """
    if depth > DEEPEST:
        return False
    if isinstance(hint, type) and is_dataclass(hint):
        hints = _hints(hint)
        return isinstance(value, dict) and all(
            key in hints and is_as_declared(inner, hints[key], depth + 1)
            for key, inner in value.items()
        )
    if isinstance(hint, UnionType):
        return value is None or is_as_declared(value, hint.__args__[0], depth + 1)
    if hint in (Any, list) and isinstance(value, list):
        return all(is_as_declared(inner, Any, depth + 1) for inner in value)
    if hint is Any and isinstance(value, dict):
        inside = [*value, *value.values()]
        return all(is_as_declared(inner, Any, depth + 1) for inner in inside)
    if hint is Any:
        return value is None or any(
            is_as_declared(value, kind, depth + 1) for kind in (bool, int, float, str)
        )
    if hint is float and type(value) is int:
        return abs(value) < 1 << 63
    if hint is str:  # what looks like a reference is for OmegaConf to judge
        return type(value) is str and "${" not in value and value != "???"
    return type(value) is hint


@functools.cache
def _hints(schema: type) -> dict[str, Any]:
    """Return the type of every key; of one whose default is a list, a list."""
    hints = get_type_hints(schema)
    lists = [item.name for item in fields(schema) if item.default_factory is list]
    return {**hints, **dict.fromkeys(lists, list)}
