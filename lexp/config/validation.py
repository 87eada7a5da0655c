"""Checks of settings that types cannot express: ranges, choices, combinations."""

import math
import re
from typing import Any

from lexp.system.errors import ConfigError

STATES = ("trained", "random")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16")
KERNELS = ("tiles", "flex")
PARALLEL = ("ddp", "fsdp")
WANDB_MODES = ("off", "offline", "online")
SCHEDULES = ("cosine", "linear", "polynomial", "constant")
BETAS = ("beta1", "beta2")
MAX_TOKENS = 1e15
MAX_LENGTH = 1 << 24  # positions beyond are not exact in float32, and no text is that long


def check_train(config: dict[str, Any]) -> None:
    """Check ranges and combinations; one ConfigError names everything that is wrong."""
    optim = config["optim"]
    problems = [
        *_at_least(config, 1, "train_len", "batch_tokens", "accumulation", "save_every"),
        *_at_least(config, 1, "eval_every", "eval_tokens"),
        *_at_least(config, 0, "seed"),
        *_steps("keep", config.get("keep")),
        *_positive(config, "lr", "tokens"),
        *([] if config.get("stall_min") is None else _positive(config, "stall_min")),
        *_positive(optim, "eps", "power"),
        *_share(optim, "warmup", "final"),
        *[f"optim.{k}={optim[k]} (from 0 to below 1)" for k in BETAS if not 0 <= optim[k] < 1],
        *_one_of(config, "device", DEVICES),
        *_one_of(config, "precision", PRECISIONS),
        *_one_of({"kernel": config.get("kernel", "tiles")}, "kernel", KERNELS),
        *_one_of({"parallel": "ddp", **config}, "parallel", PARALLEL),  # older runs have none
        *_one_of(config, "wandb", WANDB_MODES),
        *_one_of({"optim.schedule": optim["schedule"]}, "optim.schedule", SCHEDULES),
        *_path_word("name", config["name"]),
        *_place(config),
    ]
    for group in ("model", "size", "dataset", "tokenizer"):
        # They are part of folder names.
        problems += _path_word(f"{group}.name", config[group].get("name"))
    if "objective" in config:  # runs of an older lexp have none
        problems += _path_word("objective.name", config["objective"].get("name"))
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


def check_ranks(config: dict[str, Any], n_ranks: int) -> None:
    """ConfigError if so many ranks cannot share a batch, or not in the way that is asked for."""
    portion = config["train_len"] * config["accumulation"] * n_ranks
    problems = []
    if config["batch_tokens"] % portion:
        problems.append(
            f"batch_tokens={config['batch_tokens']} on {n_ranks} ranks (a multiple of train_len * "
            f"accumulation * ranks = {portion})"
        )
    if n_ranks > 1 and config["compile"] and config["parallel"] == "fsdp":
        problems.append("compile=true with parallel=fsdp (one of the two; ddp can be compiled)")
    _raise(problems)


def check_eval(config: dict[str, Any]) -> None:
    """Check lengths and choices; one ConfigError names everything that is wrong."""
    problems = [*_methods(config), *_chosen(config, "protocol"), *_checkpoints(config)]
    problems += _one_of(config, "kernel", KERNELS)
    problems += _one_of(config, "wandb", WANDB_MODES)
    if config["max_tokens"] is not None:
        problems += _at_least(config, 1, "max_tokens")
        if math.isinf(config["max_tokens"]):
            problems.append("max_tokens=inf (null for all)")
    workers = config["workers"]
    if workers != "auto" and (type(workers) is not int or workers < 1):
        problems.append(f"workers={workers} (auto, or a whole number from 1)")
    _raise(problems)


def check_probe(config: dict[str, Any]) -> None:
    """Check lengths and choices; one ConfigError names everything that is wrong."""
    problems = [*_methods(config), *_chosen(config, "probes")]
    _raise(problems + _at_least(config, 2, "samples") + _at_least(config, 0, "seed"))


def check_analyze(config: dict[str, Any]) -> None:
    """Check lengths and choices; one ConfigError names everything that is wrong."""
    problems = [*_methods(config), *_chosen(config, "instruments")]
    if not config["states"] or set(config["states"]) - set(STATES):
        problems.append(f"states={config['states']} (of {', '.join(STATES)})")
    _raise(problems + _checkpoints(config) + _at_least(config, 1, "texts"))


def check_report(config: dict[str, Any]) -> None:
    """Check what the claims of a report rest on; one ConfigError names everything wrong."""
    problems = [*_path_word("name", config["name"]), *_place(config), *_models(config["model"])]
    if not (math.isfinite(config["delta"]) and config["delta"] >= 0):
        problems.append(f"delta={config['delta']} (nats per token, a finite number from 0)")
    problems += _positive(config, "key_alpha")
    if config["last_k"] is not None:
        problems += _at_least(config, 1, "last_k")
    _raise(problems)


def check_status(config: dict[str, Any]) -> None:
    """Check which study is shown and how often; one ConfigError names everything wrong."""
    _raise([*_path_word("name", config["name"]), *_positive(config, "every")])


def check_finetune(config: dict[str, Any]) -> None:
    """Check ranges and choices; one ConfigError names everything that is wrong."""
    problems = [
        *_at_least(config, 1, "epochs", "batch_size"),
        *_at_least(config, 0, "seed"),
        *_positive(config, "lr"),
        *_one_of(config, "device", DEVICES),
        *_one_of(config, "precision", PRECISIONS),
        *_path_word("name", config["name"]),
        *_place(config),
    ]
    if not isinstance(config["task"], dict):
        _raise([*problems, f"task={config['task']} (text, or one of glue/)"])
    problems += _path_word("task.name", config["task"].get("name"))
    if config["max_len"] is not None and not 3 <= config["max_len"] <= MAX_LENGTH:
        problems.append(f"max_len={config['max_len']} (from 3 to {MAX_LENGTH})")
    _raise(problems)


def check_study(config: dict[str, Any]) -> None:
    """Check what all stages of a study share; one ConfigError names everything wrong."""
    problems = [
        *_path_word("name", config["name"]),
        *_one_of(config, "device", DEVICES),
        *_one_of(config, "precision", PRECISIONS),
        *[
            f"{key}={config[key]} (values by name, such as +{key}.KEY=VALUE)"
            for key in ("train", "eval", "probe", "analyze", "report")
            if not isinstance(config[key], dict)
        ],
    ]
    if config["flops"] is not None:
        problems += _positive(config, "flops")
    _raise(problems)


def _methods(config: dict[str, Any]) -> list[str]:
    """What is wrong with the values that `MethodsSchema` declares."""
    return [
        *_one_of(config, "device", DEVICES),
        *_one_of(config, "precision", PRECISIONS),
        *_path_word("name", config["name"]),
        *_place(config),
        *_lengths(config["lengths"]),
        *_chosen(config, "attention", "extension"),
        *_models(config["model"]),
        *_external(config),
    ]


def _external(config: dict[str, Any]) -> list[str]:
    """What is wrong with model=hf and what goes with it alone."""
    if config["model"] != "hf":
        return [
            f"{key}={config[key]} (goes with model=hf)"
            for key in ("path", "train_len")
            if config[key] is not None
        ]
    problems = [] if config["path"] else ["model=hf (needs path=FOLDER or path=ORG/NAME)"]
    train_len = config["train_len"]
    if train_len is not None and not 1 <= train_len <= MAX_LENGTH:
        problems.append(f"train_len={train_len} (from 1 to {MAX_LENGTH})")
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


def _steps(key: str, given: Any) -> list[str]:
    steps = given if isinstance(given, list) else [given]
    if given is None or all(type(step) is int and step >= 1 for step in steps):
        return []
    return [f"{key}={given} (a whole number from 1, or a list of such)"]


def _checkpoints(config: dict[str, Any]) -> list[str]:
    given = config["checkpoints"]
    if given in ("last", "all"):
        return []
    if isinstance(given, list) and given:
        return _steps("checkpoints", given)
    return [f"checkpoints={given} (last, all, or a list of steps)"]


def _one_of(config: dict[str, Any], key: str, allowed: tuple[str, ...]) -> list[str]:
    return [] if config[key] in allowed else [f"{key}={config[key]} (one of {', '.join(allowed)})"]


def _path_word(key: str, value: Any) -> list[str]:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
        return []
    return [f"{key}={value!r} (letters, digits, '.', '_' and '-', at most 100)"]


def _place(config: dict[str, Any]) -> list[str]:
    return [] if config["outputs"].strip() else ["outputs='' (a folder)"]


def _models(models: Any) -> list[str]:
    words = models if isinstance(models, list) else [models]
    if models is None or (words and all(isinstance(word, str) for word in words)):
        return []
    return [f"model={models} (a name, or a list of names)"]


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
