"""Config schemas (types only; values live in conf/) and the checks that types cannot express.

Hydra checks names and types against the schemas when it composes, before the first job of a sweep.
`read_train` and `read_eval` turn a composed config into plain frozen settings; nothing below the
composition root sees Hydra or OmegaConf.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lexp.errors import ConfigError
from lexp.messages import first_line

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16")
WANDB_MODES = ("off", "offline", "online")
SCHEDULES = ("cosine", "linear", "polynomial", "constant")
PROTOCOLS = ("segments",)
BETAS = ("beta1", "beta2")
MAX_TOKENS = 1e15
MAX_LENGTH = 1 << 24  # positions beyond are not exact in float32, and no text is that long


@dataclass
class OptimSchema:
    """optim.* of `lexp train`."""

    beta1: float = MISSING
    beta2: float = MISSING
    eps: float = MISSING
    weight_decay: float = MISSING
    clip: float = MISSING
    schedule: str = MISSING
    warmup: float = MISSING
    final: float = MISSING
    power: float = MISSING


@dataclass
class SizeSchema:
    """size.*: dimensions, and the recipe that goes with them."""

    name: str = MISSING
    n_layers: int = MISSING
    d_model: int = MISSING
    n_heads: int = MISSING
    head_dim: int = MISSING
    d_ff: int = MISSING
    train_len: int = MISSING
    tokens: float = MISSING
    batch_tokens: int = MISSING
    lr: float = MISSING


@dataclass
class TrainSchema:
    """The root of `lexp train`. Token budgets are floats so that tokens=1e9 can be typed."""

    model: Any = MISSING
    size: SizeSchema = MISSING
    dataset: Any = MISSING
    tokenizer: Any = MISSING
    name: str = MISSING
    outputs: str = MISSING
    seed: int = MISSING
    init_from: str | None = None
    train_len: int = MISSING
    tokens: float = MISSING
    batch_tokens: int = MISSING
    accumulation: int = MISSING
    lr: float = MISSING
    optim: OptimSchema = MISSING
    save_every: int = MISSING
    probe_every: int = MISSING
    probe_tokens: int = MISSING
    device: str = MISSING
    precision: str = MISSING
    compile: bool = MISSING
    wandb: str = MISSING


@dataclass
class MethodsSchema:
    """What `lexp eval` and `lexp probe` share: which runs, by which methods, how long, on what."""

    attention: Any = field(default_factory=dict)  # one key a choice; none chosen is said clearly
    extension: Any = field(default_factory=dict)
    dataset: Any = None
    name: str = MISSING
    outputs: str = MISSING
    models: Any = MISSING
    lengths: list[Any] = MISSING  # checked here: OmegaConf would take 0, -5 and duplicates
    allow_partial: bool = MISSING
    device: str = MISSING
    precision: str = MISSING


@dataclass
class EvalSchema(MethodsSchema):
    """The root of `lexp eval`."""

    protocol: str = MISSING
    max_tokens: float | None = MISSING


@dataclass
class ProbeSchema(MethodsSchema):
    """The root of `lexp probe`."""

    probes: Any = field(default_factory=dict)
    samples: int = MISSING
    seed: int = MISSING


def register_schemas() -> None:
    """Make the schemas known to Hydra; safe to call again."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainSchema)
    store.store(name="eval_schema", node=EvalSchema)
    store.store(name="probe_schema", node=ProbeSchema)


def plain(config: DictConfig) -> dict[str, Any]:
    """The composed config as plain containers; ConfigError names a value that is still missing."""
    try:
        value = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(first_line(error)) from None
    assert isinstance(value, dict)
    return {str(key): inner for key, inner in value.items()}


def check_types(settings: dict[str, Any]) -> None:
    """Settings read back from a run folder against the schema; ConfigError names the key.

    Nothing in them is interpolated: they may be somebody else's.
    """
    for group in ("model", "size", "dataset", "tokenizer"):
        if not isinstance(settings.get(group), dict):
            raise ConfigError(f"{group}={settings.get(group)!r}: expected one of its choices")
    try:
        OmegaConf.merge(OmegaConf.structured(TrainSchema), OmegaConf.create(settings))
    except OmegaConfBaseException as error:
        raise ConfigError(first_line(error)) from None


def check_train(config: dict[str, Any]) -> None:
    """Check ranges and combinations; one ConfigError names everything that is wrong."""
    optim = config["optim"]
    problems = [
        *_at_least(config, 1, "train_len", "batch_tokens", "accumulation", "save_every"),
        *_at_least(config, 1, "probe_every", "probe_tokens"),
        *_at_least(config, 0, "seed"),
        *_positive(config, "lr", "tokens"),
        *_positive(optim, "eps", "power"),
        *_share(optim, "warmup", "final"),
        *[f"optim.{k}={optim[k]} (from 0 to below 1)" for k in BETAS if not 0 <= optim[k] < 1],
        *_one_of(config, "device", DEVICES),
        *_one_of(config, "precision", PRECISIONS),
        *_one_of(config, "wandb", WANDB_MODES),
        *_one_of({"optim.schedule": optim["schedule"]}, "optim.schedule", SCHEDULES),
        *_path_word("name", config["name"]),
    ]
    for group in ("model", "size", "dataset", "tokenizer"):
        # They are part of folder names.
        problems += _path_word(f"{group}.name", config[group].get("name"))
    for key in ("weight_decay", "clip"):
        if not (math.isfinite(optim[key]) and optim[key] >= 0):
            problems.append(f"optim.{key}={optim[key]} (a finite number from 0)")
    if config["seed"] >= 1 << 63:
        problems.append(f"seed={config['seed']} (below 2^63)")
    if config["tokens"] > MAX_TOKENS:
        problems.append(f"tokens={config['tokens']:g} (at most {MAX_TOKENS:g})")
    if config["train_len"] > MAX_LENGTH:
        problems.append(f"train_len={config['train_len']} (at most {MAX_LENGTH})")
    _raise(problems)
    portion = config["train_len"] * config["accumulation"]
    if config["batch_tokens"] % portion:
        problems.append(
            f"batch_tokens={config['batch_tokens']} (a multiple of train_len * accumulation = "
            f"{portion})"
        )
    if config["tokens"] < config["batch_tokens"]:
        problems.append(f"tokens={config['tokens']:g} (at least batch_tokens)")
    _raise(problems)


def check_eval(config: dict[str, Any]) -> None:
    """Check lengths and choices; one ConfigError names everything that is wrong."""
    problems = [*_methods(config), *_one_of(config, "protocol", PROTOCOLS)]
    if config["max_tokens"] is not None:
        problems += _at_least(config, 1, "max_tokens")
        if math.isinf(config["max_tokens"]):
            problems.append("max_tokens=inf (null for all)")
    _raise(problems)


def check_probe(config: dict[str, Any]) -> None:
    """Check lengths and choices; one ConfigError names everything that is wrong."""
    problems = [*_methods(config), *_chosen(config, "probes")]
    _raise(problems + _at_least(config, 2, "samples") + _at_least(config, 0, "seed"))


def _methods(config: dict[str, Any]) -> list[str]:
    """What is wrong with the values that `MethodsSchema` declares."""
    problems = [
        *_one_of(config, "device", DEVICES),
        *_one_of(config, "precision", PRECISIONS),
        *_path_word("name", config["name"]),
        *_lengths(config["lengths"]),
        *_chosen(config, "attention", "extension"),
    ]
    models = config["models"]
    words = models if isinstance(models, list) else [models]
    if models is not None and not (words and all(isinstance(word, str) for word in words)):
        problems.append(f"model={models} (a name, or a list of names)")
    return problems


def _chosen(config: dict[str, Any], *groups: str) -> list[str]:
    return [
        f"{group}=[] (at least one of its choices)"
        for group in groups
        if not isinstance(config[group], dict) or not config[group]
    ]


def _raise(problems: list[str]) -> None:
    if problems:
        raise ConfigError("not allowed: " + ", ".join(problems))


def _at_least(config: dict[str, Any], least: int, *keys: str) -> list[str]:
    return [f"{key}={config[key]} (at least {least})" for key in keys if not config[key] >= least]


def _positive(config: dict[str, Any], *keys: str) -> list[str]:
    return [
        f"{key}={config[key]} (a finite number above 0)"
        for key in keys
        if not (math.isfinite(config[key]) and config[key] > 0)
    ]


def _share(config: dict[str, Any], *keys: str) -> list[str]:
    return [f"optim.{k}={config[k]} (from 0 to 1)" for k in keys if not 0 <= config[k] <= 1]


def _one_of(config: dict[str, Any], key: str, allowed: tuple[str, ...]) -> list[str]:
    return [] if config[key] in allowed else [f"{key}={config[key]} (one of {', '.join(allowed)})"]


def _path_word(key: str, value: Any) -> list[str]:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
        return []
    return [f"{key}={value!r} (letters, digits, '.', '_' and '-', at most 100)"]


def _lengths(lengths: list[Any]) -> list[str]:
    if not lengths:
        return ["lengths=[] (at least one)"]
    bad = [
        value
        for value in lengths
        if not isinstance(value, int) or isinstance(value, bool) or not 2 <= value <= MAX_LENGTH
    ]
    problems = []
    if bad:
        shown = ", ".join(map(str, bad))
        problems.append(f"lengths: {shown} (whole numbers from 2 to {MAX_LENGTH})")
    twice = sorted({str(value) for value in lengths if lengths.count(value) > 1})
    if twice:
        problems.append(f"lengths: {', '.join(twice)} (each once)")
    return problems
