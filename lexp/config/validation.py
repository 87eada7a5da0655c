"""Checks of settings that types cannot express: ranges, choices, combinations."""

import math
import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from lexp.config.layers import model_problems
from lexp.config.schema import check_types, plain
from lexp.config.settings import (
    HF,
    NOPE,
    AnalyzeConfig,
    EvalConfig,
    FinetuneConfig,
    HfRunConfig,
    MethodsConfig,
    Node,
    ProbeConfig,
    ReportConfig,
    StatusConfig,
    StudyConfig,
    TrainConfig,
    read_settings,
)
from lexp.config.tasks import fit_to_task
from lexp.config.trunk import trunk_problems
from lexp.system.errors import ConfigError

STATES = ("trained", "random")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16")
KERNELS = ("tiles", "flex")
PARALLEL = ("ddp", "fsdp")
WANDB_MODES = ("off", "offline", "online")
SCHEDULES = ("cosine", "linear", "polynomial", "constant")
MAX_TOKENS = 1e15
MAX_LENGTH = 1 << 24  # positions beyond are not exact in float32, and no text is that long


def read_train(raw: dict[str, Any]) -> TrainConfig:
    """Return the settings of a training run; one ConfigError names everything that is wrong.

    raw: as composed, or as read from the config.json of a run, which may be somebody else's.
    """
    check_types(raw)
    config = read_settings(TrainConfig, fit_to_task(raw))
    optim = config.optim
    problems = [
        *_at_least(
            1,
            train_len=config.train_len,
            batch_tokens=config.batch_tokens,
            accumulation=config.accumulation,
            save_every=config.save_every,
            eval_every=config.eval_every,
            eval_tokens=config.eval_tokens,
        ),
        *_at_least(0, seed=config.seed),
        *_steps("keep", config.keep),
        *_positive(lr=config.lr, tokens=config.tokens),
        *([] if config.stall_min is None else _positive(stall_min=config.stall_min)),
        *_positive(**{"optim.eps": optim.eps, "optim.power": optim.power}),
        *_between(0, 1, {"optim.warmup": optim.warmup, "optim.final": optim.final}),
        *_betas({"optim.beta1": optim.beta1, "optim.beta2": optim.beta2}),
        *_one_of("device", config.device, DEVICES),
        *_one_of("precision", config.precision, PRECISIONS),
        *_one_of("kernel", config.kernel, KERNELS),
        *_one_of("parallel", config.parallel, PARALLEL),
        *_one_of("wandb", config.wandb, WANDB_MODES),
        *_one_of("optim.schedule", optim.schedule, SCHEDULES),
        *_path_word("name", config.name),
        *_folder(config.outputs),
        # They are part of folder names.
        *_path_word("model.name", config.model.name),
        *_path_word("trunk.name", config.trunk.name),
        *_path_word("size.name", config.size.name),
        *_path_word("dataset.name", config.dataset.name),
        *_path_word("tokenizer.name", config.tokenizer.name),
        *_path_word("objective.name", config.objective.name),
        *_not_negative({"optim.weight_decay": optim.weight_decay, "optim.clip": optim.clip}),
    ]
    if not isinstance(config.init_from, str | None):
        problems.append(f"init_from={config.init_from} (the folder of a run)")
    if config.tokens > MAX_TOKENS:
        problems.append(f"tokens={config.tokens:g} (at most {MAX_TOKENS:g})")
    if config.train_len > MAX_LENGTH:
        problems.append(f"train_len={config.train_len} (at most {MAX_LENGTH})")
    problems += model_problems(config.model, raw["model"], config.size)
    problems += trunk_problems(config.trunk, raw["trunk"], config.size)
    _raise(problems)
    portion = config.train_len * config.accumulation
    if config.batch_tokens % portion:
        problems.append(
            f"batch_tokens={config.batch_tokens} (a multiple of train_len * accumulation = "
            f"{portion})"
        )
    if config.tokens < config.batch_tokens:
        problems.append(f"tokens={config.tokens:g} (at least batch_tokens={config.batch_tokens})")
    _raise(problems)
    return config


def check_ranks(config: TrainConfig, n_ranks: int) -> None:
    """Raise ConfigError if so many ranks cannot share a batch, or not with parallel=."""
    portion = config.train_len * config.accumulation * n_ranks
    problems = []
    if config.batch_tokens % portion:
        problems.append(
            f"batch_tokens={config.batch_tokens} on {n_ranks} ranks (a multiple of train_len * "
            f"accumulation * ranks = {portion})"
        )
    if n_ranks > 1 and config.compile and config.parallel == "fsdp":
        problems.append("compile=true with parallel=fsdp (one of the two; ddp can be compiled)")
    _raise(problems)


def read_hf_run(raw: dict[str, Any]) -> HfRunConfig:
    """Return the settings of a run of a Hugging Face model; ConfigError if they are not allowed."""
    config = read_settings(HfRunConfig, raw)
    model = config.model
    words = {
        "path": config.path,
        "model.name": model.name,
        "model.type": model.type,
        "model.sha256": model.sha256,
        "size.name": config.size.name,
        "dataset.name": config.dataset.name,
        "tokenizer.name": config.tokenizer.name,
    }
    problems = [
        f"{key}={word!r} (text)" for key, word in words.items() if not isinstance(word, str)
    ]
    sizes = (config.size.n_layers, config.size.d_model, config.size.n_heads)
    if not all(_is_whole(n) and n >= 1 for n in (*sizes, config.size.head_dim, config.size.d_ff)):
        problems.append("size (whole numbers from 1)")
    if not _is_whole(config.seed):
        problems.append(f"seed={config.seed!r} (a whole number)")
    if not _is_whole(config.train_len) or not 1 <= config.train_len <= MAX_LENGTH:
        problems.append(f"train_len={config.train_len!r} (from 1 to {MAX_LENGTH})")
    if model.position not in (None, NOPE):
        problems.append(f"model.position={model.position!r} ({NOPE}, or none)")
    _raise(problems)
    return config


def read_eval(composed: DictConfig) -> EvalConfig:
    """Return the settings of `lexp eval`; one ConfigError names everything that is wrong."""
    config = read_settings(EvalConfig, plain(composed))
    problems = [
        *_methods(config),
        *_chosen(protocol=config.protocol),
        *_checkpoints(config.checkpoints),
        *_one_of("kernel", config.kernel, KERNELS),
        *_one_of("wandb", config.wandb, WANDB_MODES),
        *_at_least(1, examples=config.examples),
        *_lengths("grid", config.grid),
    ]
    if config.max_tokens == math.inf:
        problems.append("max_tokens=inf (null for all)")
    elif config.max_tokens is not None:
        problems += _at_least(1, max_tokens=config.max_tokens)
    workers = config.workers
    if workers != "auto" and (not _is_whole(workers) or int(workers) < 1):
        problems.append(f"workers={workers} (auto, or a whole number from 1)")
    _raise(problems)
    return config


def read_probe(composed: DictConfig) -> ProbeConfig:
    """Return the settings of `lexp probe`; one ConfigError names everything that is wrong."""
    config = read_settings(ProbeConfig, plain(composed))
    problems = [*_methods(config), *_chosen(probes=config.probes)]
    problems += [*_at_least(2, samples=config.samples), *_at_least(0, seed=config.seed)]
    _raise(problems)
    return config


def read_analyze(composed: DictConfig) -> AnalyzeConfig:
    """Return the settings of `lexp analyze`; one ConfigError names everything that is wrong."""
    config = read_settings(AnalyzeConfig, plain(composed))
    problems = [*_methods(config), *_chosen(instruments=config.instruments)]
    if not config.states or any(state not in STATES for state in config.states):
        problems.append(f"states={list(config.states)} (of {', '.join(STATES)})")
    problems += [*_checkpoints(config.checkpoints), *_at_least(1, texts=config.texts)]
    _raise(problems)
    return config


def read_report(composed: DictConfig) -> ReportConfig:
    """Return the settings of `lexp report`; one ConfigError names everything that is wrong."""
    config = read_settings(ReportConfig, plain(composed))
    problems = [
        *_path_word("name", config.name),
        *_folder(config.outputs),
        *_model_names(config.model),
    ]
    if not (math.isfinite(config.delta) and config.delta >= 0):
        problems.append(f"delta={config.delta} (nats per token, a finite number from 0)")
    problems += _positive(key_alpha=config.key_alpha)
    if config.show not in ("answer", "all"):
        problems.append(f"show={config.show} (answer or all)")
    if config.last_k is not None:
        problems += _at_least(1, last_k=config.last_k)
    _raise(problems)
    return config


def read_status(composed: DictConfig) -> StatusConfig:
    """Return the settings of `lexp status`; one ConfigError names everything that is wrong."""
    config = read_settings(StatusConfig, plain(composed))
    _raise([*_path_word("name", config.name), *_positive(every=config.every)])
    return config


def read_finetune(composed: DictConfig) -> FinetuneConfig:
    """Return the settings of `lexp finetune`; one ConfigError names everything that is wrong."""
    config = read_settings(FinetuneConfig, plain(composed))
    problems = [
        *_at_least(1, epochs=config.epochs, batch_size=config.batch_size),
        *_at_least(0, seed=config.seed),
        *_positive(lr=config.lr),
        *_one_of("device", config.device, DEVICES),
        *_one_of("precision", config.precision, PRECISIONS),
        *_path_word("name", config.name),
        *_folder(config.outputs),
    ]
    if not isinstance(config.task.values, dict):
        _raise([*problems, f"task={config.task.values} (text, or one of glue/)"])
    problems += _path_word("task.name", config.task.name)
    if config.max_len is not None and not 3 <= config.max_len <= MAX_LENGTH:
        problems.append(f"max_len={config.max_len} (from 3 to {MAX_LENGTH})")
    _raise(problems)
    return config


def read_study(composed: DictConfig) -> StudyConfig:
    """Return the settings of `lexp study`; one ConfigError names everything that is wrong."""
    config = read_settings(StudyConfig, plain(composed))
    problems = [
        *_path_word("name", config.name),
        *_one_of("device", config.device, DEVICES),
        *_one_of("precision", config.precision, PRECISIONS),
        *[
            f"{command}={values} (values by name, such as +{command}.KEY=VALUE)"
            for command, values in config.overrides.items()
            if not isinstance(values, dict)
        ],
    ]
    if config.flops is not None:
        problems += _positive(flops=config.flops)
    _raise(problems)
    return config


def _methods(config: MethodsConfig) -> list[str]:
    """Return what is wrong with the values that `MethodsConfig` declares."""
    return [
        *_one_of("device", config.device, DEVICES),
        *_one_of("precision", config.precision, PRECISIONS),
        *_path_word("name", config.name),
        *_folder(config.outputs),
        *["lengths=[] (at least one)"] * (not config.lengths),
        *_lengths("lengths", config.lengths),
        *_chosen(attention=config.attention, extension=config.extension),
        *_model_names(config.model),
        *_external(config),
    ]


def _external(config: MethodsConfig) -> list[str]:
    """Return what is wrong with model=hf and the keys that go with it alone."""
    train_len, position = config.train_len, config.position
    if config.model != HF:
        given = {"path": config.path, "train_len": train_len, "position": position}
        return [
            f"{key}={value} (is for Hugging Face models; add model=hf)"
            for key, value in given.items()
            if value is not None
        ]
    problems = [] if config.path else ["model=hf (needs path=FOLDER or path=ORG/NAME)"]
    if train_len is not None and not 1 <= train_len <= MAX_LENGTH:
        problems.append(f"train_len={train_len} (from 1 to {MAX_LENGTH})")
    if position not in (None, NOPE):
        problems.append(f"position={position} ({NOPE}, or null for what its config has)")
    return problems


def _chosen(**groups: Mapping[str, Node]) -> list[str]:
    return [f"{key}=[] (at least one of its choices)" for key, nodes in groups.items() if not nodes]


def _raise(problems: list[str]) -> None:
    if problems:
        raise ConfigError("not allowed: " + ", ".join(problems))


def _at_least(least: int, **values: float) -> list[str]:
    return [
        f"{key}={value} (at least {least})" for key, value in values.items() if not value >= least
    ]


def _positive(**values: float) -> list[str]:
    return [
        f"{key}={value} (a finite number above 0)"
        for key, value in values.items()
        if not (math.isfinite(value) and value > 0)
    ]


def _not_negative(values: dict[str, float]) -> list[str]:
    return [
        f"{key}={value} (a finite number from 0)"
        for key, value in values.items()
        if not (math.isfinite(value) and value >= 0)
    ]


def _between(low: int, high: int, values: dict[str, float]) -> list[str]:
    return [
        f"{key}={value} (from {low} to {high})"
        for key, value in values.items()
        if not low <= value <= high
    ]


def _betas(values: dict[str, float]) -> list[str]:
    return [
        f"{key}={value} (from 0 to below 1)" for key, value in values.items() if not 0 <= value < 1
    ]


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _steps(key: str, value: Any) -> list[str]:
    steps = value if isinstance(value, tuple) else (value,)
    if value is None or all(_is_whole(step) and step >= 1 for step in steps):
        return []
    return [f"{key}={_listed(value)} (a whole number from 1, or a list of such)"]


def _checkpoints(value: str | tuple[int, ...]) -> list[str]:
    if value in ("last", "all"):
        return []
    if isinstance(value, tuple) and value:
        twice = [f"checkpoints={_listed(value)} (each once)"] * (
            len(set(map(str, value))) < len(value)
        )
        return _steps("checkpoints", value) or twice
    return [f"checkpoints={_listed(value)} (last, all, or a list of steps)"]


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> list[str]:
    return [] if value in allowed else [f"{key}={value} (one of {', '.join(allowed)})"]


def _path_word(key: str, value: Any) -> list[str]:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
        return []
    return [f"{key}={value!r} (letters, digits, '.', '_' and '-', at most 100)"]


def _folder(outputs: Any) -> list[str]:
    if not isinstance(outputs, str) or not outputs.strip():
        return [f"outputs={outputs!r} (a folder)"]
    if any("\ud800" <= character <= "\udfff" for character in outputs):
        # Checkpoints in it could be written, and not be read.
        return [f"outputs={outputs} (a name in UTF-8; in a locale without it set PYTHONUTF8=1)"]
    return []


def _model_names(value: Any) -> list[str]:
    words = value if isinstance(value, tuple) else (value,)
    if value is None or (words and all(isinstance(word, str) for word in words)):
        return []
    return [f"model={_listed(value)} (a name, or a list of names)"]


def _lengths(key: str, lengths: tuple[Any, ...]) -> list[str]:
    bad = [v for v in lengths if not _is_whole(v) or not 1 <= v <= MAX_LENGTH]
    problems = []
    if bad:
        shown = ", ".join(map(str, bad))
        commas = [",".join(v.split()) for v in bad if isinstance(v, str) and len(v.split()) > 1]
        hint = f"; with commas: '{key}=[{','.join(commas)}]'" if commas else ""
        problems.append(f"{key}: {shown} (whole numbers from 1 to {MAX_LENGTH}{hint})")
    twice = sorted({str(value) for value in lengths if lengths.count(value) > 1})
    if twice:
        problems.append(f"{key}: {', '.join(twice)} (each once)")
    return problems


def _listed(value: Any) -> Any:
    """Return a tuple as the list that was typed."""
    return list(value) if isinstance(value, tuple) else value
