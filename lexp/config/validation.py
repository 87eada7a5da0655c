"""Checks of settings that types cannot express: ranges, choices, combinations."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig

from lexp.config.checks import (
    MAX_LENGTH,
    at_least,
    between,
    checkpoint_steps,
    folder_name,
    is_whole,
    length_list,
    model_names,
    one_of,
    path_word,
    positive,
    raise_all,
    recompute_problems,
    step_numbers,
    warmup_problems,
)
from lexp.config.data_settings import DataConfig
from lexp.config.hf_folder import with_hf_folder
from lexp.config.layers import model_problems
from lexp.config.optim import optim_problems
from lexp.config.schema import check_types, plain
from lexp.config.settings import (
    HF,
    NOPE,
    AnalyzeConfig,
    EvalConfig,
    ExportConfig,
    FinetuneConfig,
    HarnessConfig,
    HfRunConfig,
    MethodsConfig,
    Node,
    ProbeConfig,
    ReportConfig,
    StatusConfig,
    StudyConfig,
    TrainConfig,
)
from lexp.config.tasks import fit_to_task, with_train_len
from lexp.config.trunk import trunk_problems
from lexp.config.typed import read_settings

STATES = ("trained", "random")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16")
KERNELS = ("tiles", "flex")
PARALLEL = ("ddp", "fsdp")
WANDB_MODES = ("off", "offline", "online")
MAX_TOKENS = 1e15
# Of the bootstrap of a harness, as many as its own command draws: more would take hours, silently.
MOST_RESAMPLES = 100_000
# Context lengths of texts for which none are given: of an evaluation, and of an analysis.
TEXT_LENGTHS = (64, 128, 256, 512, 1024, 2048)
ANALYSIS_LENGTHS = (128, 256, 512, 1024)


def read_composed_train(config: DictConfig) -> TrainConfig:
    """Return the settings of a training run as composed; see `read_train`.

    The train_len of a task is computed before values that refer to it, such as a scheme's.
    """
    return read_train(plain(with_train_len(with_hf_folder(config))))


def read_train(raw: dict[str, Any]) -> TrainConfig:
    """Return the settings of a training run; one ConfigError names everything that is wrong.

    raw: as composed, or as read from the config.json of a run, which may be somebody else's.
    """
    check_types(raw)
    config = read_settings(TrainConfig, fit_to_task(raw))
    problems = [
        *at_least(
            1,
            train_len=config.train_len,
            batch_tokens=config.batch_tokens,
            accumulation=config.accumulation,
            save_every=config.save_every,
            eval_every=config.eval_every,
            eval_tokens=config.eval_tokens,
        ),
        *at_least(0, seed=config.seed),
        *step_numbers("keep", config.keep),
        *positive(lr=config.lr, tokens=config.tokens),
        *([] if config.stall_min is None else positive(stall_min=config.stall_min)),
        *optim_problems(config.optim),
        *one_of("device", config.device, DEVICES),
        *one_of("precision", config.precision, PRECISIONS),
        *one_of("kernel", config.kernel, KERNELS),
        *one_of("parallel", config.parallel, PARALLEL),
        *recompute_problems(config.recompute_layers, config.size.n_layers),
        *one_of("wandb", config.wandb, WANDB_MODES),
        *path_word("name", config.name),
        *folder_name(config.outputs),
        # They are part of folder names.
        *path_word("model.name", config.model.name),
        *path_word("trunk.name", config.trunk.name),
        *path_word("size.name", config.size.name),
        *path_word("dataset.name", config.dataset.name),
        *path_word("tokenizer.name", config.tokenizer.name),
        *path_word("objective.name", config.objective.name),
    ]
    if len(config.extension) != 1:
        problems.append(f"extension={list(config.extension)} (one choice)")
    problems += [found for key in config.extension for found in path_word("extension", key)]
    if not isinstance(config.init_from, str | None):
        problems.append(f"init_from={config.init_from} (the folder of a run)")
    if MAX_TOKENS < config.tokens < math.inf:
        problems.append(f"tokens={config.tokens:g} (at most {MAX_TOKENS:g})")
    if config.train_len > MAX_LENGTH:
        problems.append(f"train_len={config.train_len} (at most {MAX_LENGTH})")
    problems += model_problems(config.model, raw["model"], config.size)
    problems += trunk_problems(config.trunk, raw["trunk"], config.size)
    raise_all(problems)
    raise_all(warmup_problems(config.length_warmup, config.train_len, config.n_steps))
    problems += _batch_problems(config, 1)
    if config.tokens < config.batch_tokens:
        problems.append(f"tokens={config.tokens:g} (at least batch_tokens={config.batch_tokens})")
    raise_all(problems)
    return config


def _batch_problems(config: TrainConfig, n_ranks: int) -> list[str]:
    """Return a problem where a batch is no whole number of windows for each part and rank."""
    where, ranks = (f" on {n_ranks} ranks", " * ranks") if n_ranks > 1 else ("", "")
    for length in reversed(config.lengths):
        portion = length * config.accumulation * n_ranks
        if config.batch_tokens % portion:
            name = "train_len" if length == config.train_len else f"{length} of length_warmup"
            step = math.lcm(*config.lengths) * config.accumulation * n_ranks
            below = config.batch_tokens // step * step
            nearest = " or ".join(str(n) for n in (below, below + step) if n)
            return [
                f"batch_tokens={config.batch_tokens}{where} (a multiple of {name} * "
                f"accumulation{ranks} = {portion}: {nearest})"
            ]
    return []


def check_ranks(config: TrainConfig, n_ranks: int) -> None:
    """Raise ConfigError if so many ranks cannot share a batch, or not with parallel=."""
    problems = _batch_problems(config, n_ranks)
    if n_ranks > 1 and config.compile and config.parallel == "fsdp":
        problems.append("compile=true with parallel=fsdp (one of the two; ddp can be compiled)")
    if n_ranks > 1 and config.optim.matrices == "muon" and config.parallel == "fsdp":
        problems.append("optim.matrices=muon with parallel=fsdp (matrices are whole under ddp)")
    raise_all(problems)


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
    if not all(is_whole(n) and n >= 1 for n in (*sizes, config.size.head_dim, config.size.d_ff)):
        problems.append("size (whole numbers from 1)")
    if not is_whole(config.seed):
        problems.append(f"seed={config.seed!r} (a whole number)")
    if not is_whole(config.train_len) or not 1 <= config.train_len <= MAX_LENGTH:
        problems.append(f"train_len={config.train_len!r} (from 1 to {MAX_LENGTH})")
    if model.position not in (None, NOPE):
        problems.append(f"model.position={model.position!r} ({NOPE}, or none)")
    raise_all(problems)
    return config


def read_eval(composed: DictConfig) -> EvalConfig:
    """Return the settings of `lexp eval`; one ConfigError names everything that is wrong."""
    raw, chooses = _with_lengths(plain(composed), TEXT_LENGTHS)
    config = replace(read_settings(EvalConfig, raw), chooses_lengths=chooses)
    problems = [
        *_methods(config),
        *_chosen(protocol=config.protocol),
        *checkpoint_steps(config.checkpoints),
        *one_of("kernel", config.kernel, KERNELS),
        *one_of("wandb", config.wandb, WANDB_MODES),
        *at_least(1, examples=config.examples),
        *length_list("grid", config.grid),
    ]
    if config.max_tokens == math.inf:
        problems.append("max_tokens=inf (null for all)")
    elif config.max_tokens is not None:
        problems += at_least(1, max_tokens=config.max_tokens)
    workers = config.workers
    if workers != "auto" and (not is_whole(workers) or int(workers) < 1):
        problems.append(f"workers={workers} (auto, or a whole number from 1)")
    raise_all(problems)
    return config


def read_probe(composed: DictConfig) -> ProbeConfig:
    """Return the settings of `lexp probe`; one ConfigError names everything that is wrong."""
    config = read_settings(ProbeConfig, plain(composed))
    problems = [*_methods(config), *_chosen(probes=config.probes)]
    problems += [*at_least(2, samples=config.samples), *at_least(0, seed=config.seed)]
    raise_all(problems)
    return config


def read_harness(composed: DictConfig) -> HarnessConfig:
    """Return the settings of `lexp harness`; one ConfigError names everything that is wrong."""
    config = read_settings(HarnessConfig, plain(composed))
    if isinstance(config.tasks, str):
        config = replace(config, tasks=(config.tasks,))
    problems = _methods(config)
    if not isinstance(config.tasks, tuple) or not config.tasks:
        problems.append("tasks=[] (at least one, such as tasks=[lambada_openai,hellaswag])")
    elif not all(isinstance(name, str) and name.strip() for name in config.tasks):
        problems.append(f"tasks={list(config.tasks)} (names of tasks)")
    elif len(set(config.tasks)) < len(config.tasks):
        problems.append(f"tasks={list(config.tasks)} (each task once)")
    if config.shots is not None:
        problems += at_least(0, shots=config.shots)
    if config.limit is not None:
        problems += at_least(1, limit=config.limit)
    raise_all([*problems, *between(1, MOST_RESAMPLES, {"resamples": config.resamples})])
    return config


def read_analyze(composed: DictConfig) -> AnalyzeConfig:
    """Return the settings of `lexp analyze`; one ConfigError names everything that is wrong."""
    raw, chooses = _with_lengths(plain(composed), ANALYSIS_LENGTHS)
    config = replace(read_settings(AnalyzeConfig, raw), chooses_lengths=chooses)
    problems = [*_methods(config), *_chosen(instruments=config.instruments)]
    if not config.states or any(state not in STATES for state in config.states):
        problems.append(f"states={list(config.states)} (of {', '.join(STATES)})")
    problems += [*checkpoint_steps(config.checkpoints), *at_least(1, texts=config.texts)]
    raise_all(problems)
    return config


def read_report(composed: DictConfig) -> ReportConfig:
    """Return the settings of `lexp report`; one ConfigError names everything that is wrong."""
    config = read_settings(ReportConfig, plain(composed))
    problems = [
        *path_word("name", config.name),
        *folder_name(config.outputs),
        *model_names(config.model),
    ]
    if not (math.isfinite(config.delta) and config.delta >= 0):
        problems.append(f"delta={config.delta} (nats per token, a finite number from 0)")
    problems += positive(key_alpha=config.key_alpha)
    if config.show not in ("answer", "all"):
        problems.append(f"show={config.show} (answer or all)")
    if config.last_k is not None:
        problems += at_least(1, last_k=config.last_k)
    raise_all(problems)
    return config


def read_status(composed: DictConfig) -> StatusConfig:
    """Return the settings of `lexp status`; one ConfigError names everything that is wrong."""
    config = read_settings(StatusConfig, plain(composed))
    raise_all([*path_word("name", config.name), *positive(every=config.every)])
    return config


def read_finetune(composed: DictConfig) -> FinetuneConfig:
    """Return the settings of `lexp finetune`; one ConfigError names everything that is wrong."""
    config = read_settings(FinetuneConfig, plain(composed))
    problems = [
        *at_least(1, epochs=config.epochs, batch_size=config.batch_size),
        *at_least(0, seed=config.seed),
        *positive(lr=config.lr),
        *one_of("device", config.device, DEVICES),
        *one_of("precision", config.precision, PRECISIONS),
        *path_word("name", config.name),
        *folder_name(config.outputs),
    ]
    if not isinstance(config.task.values, dict):
        raise_all([*problems, f"task={config.task.values} (text, or one of glue/)"])
    problems += path_word("task.name", config.task.name)
    if config.max_len is not None and not 3 <= config.max_len <= MAX_LENGTH:
        problems.append(f"max_len={config.max_len} (from 3 to {MAX_LENGTH})")
    raise_all(problems)
    return config


def read_data(composed: DictConfig) -> DataConfig:
    """Return the settings of `lexp data`; one ConfigError names everything that is wrong."""
    config = read_settings(DataConfig, plain(composed))
    raise_all([*folder_name(config.outputs), *at_least(0, show=config.show)])
    return config


def read_export(composed: DictConfig) -> ExportConfig:
    """Return the settings of `lexp export`; one ConfigError names everything that is wrong."""
    config = read_settings(ExportConfig, plain(composed))
    problems = [*folder_name(config.to, "to")]
    if len(config.extension) != 1:
        problems.append(f"extension={list(config.extension)} (one choice)")
    if config.length is not None and not 1 <= config.length <= MAX_LENGTH:
        problems.append(f"length={config.length} (from 1 to {MAX_LENGTH})")
    raise_all(problems)
    return config


def read_study(composed: DictConfig) -> StudyConfig:
    """Return the settings of `lexp study`; one ConfigError names everything that is wrong."""
    config = read_settings(StudyConfig, plain(composed))
    problems = [
        *path_word("name", config.name),
        *one_of("device", config.device, DEVICES),
        *one_of("precision", config.precision, PRECISIONS),
        *[
            f"{command}={values} (values by name, such as +{command}.KEY=VALUE)"
            for command, values in config.overrides.items()
            if not isinstance(values, dict)
        ],
    ]
    if config.flops is not None:
        problems += positive(flops=config.flops)
    raise_all(problems)
    return config


def _with_lengths(raw: dict[str, Any], usual: tuple[int, ...]) -> tuple[dict[str, Any], bool]:
    """Return settings with usual lengths if none were given, and whether none were."""
    chooses = raw.get("lengths") is None
    return {**raw, "lengths": [*usual]} if chooses else raw, chooses


def _methods(config: MethodsConfig) -> list[str]:
    """Return what is wrong with the values that `MethodsConfig` declares."""
    return [
        *one_of("device", config.device, DEVICES),
        *one_of("precision", config.precision, PRECISIONS),
        *path_word("name", config.name),
        *folder_name(config.outputs),
        *["lengths=[] (at least one)"] * (not config.lengths),
        *length_list("lengths", config.lengths),
        *_chosen(attention=config.attention, extension=config.extension),
        *model_names(config.model),
        *external_problems(config),
    ]


def external_problems(config: MethodsConfig) -> list[str]:
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
