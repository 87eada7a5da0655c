"""What to say of a key that does not exist: the key that was meant, or the keys of its level."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lexp.config.comments import keys as read_keys
from lexp.config.messages import options
from lexp.system.errors import ConfigError
from lexp.system.files import config_folder

# What other tools call a key of lexp. Where several keys share a word, those that a command has
# are offered.
SYNONYMS = {
    "tokens": "steps max_steps n_steps num_steps total_steps train_steps iterations iters "
    "max_iters num_iterations epochs n_epochs num_epochs max_epochs train_tokens n_tokens budget",
    "epochs": "n_epochs num_epochs max_epochs num_train_epochs steps max_steps",
    "batch_tokens": "batch_size batch bs global_batch_size per_device_train_batch_size "
    "micro_batch_size train_batch_size device_batch_size n_batch",
    "batch_size": "batch bs global_batch_size per_device_train_batch_size train_batch_size",
    "lengths": "length len seq_len seqlen seq_length sequence_length context ctx n_ctx context_len "
    "context_length block_size max_len max_length max_seq_len max_seq_length eval_len",
    "train_len": "seq_len seqlen seq_length sequence_length context ctx n_ctx context_len "
    "context_length block_size max_len max_length max_seq_len max_seq_length "
    "max_position_embeddings length lengths window train_length",
    "max_len": "seq_len seqlen seq_length context context_length block_size max_length train_len",
    "max_tokens": "n_tokens tokens limit max_eval_tokens eval_tokens",
    "max_new_tokens": "max_tokens n_tokens num_tokens tokens max_length n_predict new_tokens",
    "prompt": "text input start context",
    "prompt_file": "file input_file",
    "samples": "n_samples num_samples limit examples n_examples",
    "length_warmup": "seq_len_warmup sequence_length_warmup seqlen_warmup length_curriculum",
    "recompute_layers": "gradient_checkpointing activation_checkpointing checkpointing remat",
    "lr": "learning_rate learningrate max_lr peak_lr base_lr",
    "optim": "optimizer optimiser adamw",
    "optim.weight_decay": "wd decay",
    "optim.clip": "grad_clip max_grad_norm clip_grad gradient_clip_val gradient_clipping",
    "optim.warmup": "warmup_steps warmup_ratio warmup_iters num_warmup_steps",
    "optim.schedule": "scheduler lr_scheduler lr_schedule lr_scheduler_type schedule",
    "optim.final": "min_lr min_lr_ratio final_lr",
    "optim.beta1": "adam_beta1",
    "optim.beta2": "adam_beta2",
    "size.n_layers": "layers n_layer num_layers depth num_hidden_layers",
    "size.d_model": "dim width hidden_size n_embd embed_dim hidden d_embed",
    "size.n_heads": "heads n_head num_heads num_attention_heads",
    "size.d_ff": "ffn_dim intermediate_size d_mlp",
    "trunk": "backbone",
    "trunk.n_kv_heads": "num_key_value_heads n_kv_heads kv_heads num_kv_heads key_value_heads "
    "n_head_kv n_local_kv_heads num_query_groups",
    "accumulation": "grad_accum gradient_accumulation_steps grad_accumulation accumulate "
    "accumulate_grad_batches gradient_accumulation",
    "save_every": "save_steps save_interval checkpoint_every checkpoint_interval ckpt_every",
    "eval_every": "eval_steps eval_interval val_every val_interval val_check_interval probe_every",
    "init_from": "resume resume_from checkpoint ckpt ckpt_path pretrained resume_from_checkpoint",
    "checkpoints": "checkpoint step steps ckpt",
    "parallel": "gpus n_gpus num_gpus ngpus gpu devices nproc nproc_per_node world_size strategy "
    "distributed ddp fsdp",
    "device": "gpus n_gpus num_gpus ngpus gpu devices cuda accelerator",
    "precision": "dtype fp16 bf16 amp mixed_precision torch_dtype",
    "outputs": "out out_dir output output_dir output_path save_dir log_dir",
    "to": "out out_dir output output_dir output_path folder path save_dir dest destination",
    "name": "run_name experiment exp exp_name experiment_name run_id",
    "dataset": "data corpus texts text train_data data_path data_dir",
    "model": "position scheme arch architecture pos positions runs run",
    "attention": "pattern patterns method methods mask",
    "wandb": "logger log_to report_to logging",
    "task": "task_name glue",
}


def unknown_key(words: Sequence[str], config: DictConfig) -> str:
    """Return the first key among overrides that is not in a composed config; "" if all are."""
    known, absent = set(_keys(config)), object()
    for word in words:
        key = word.partition("=")[0]
        plain = re.fullmatch(r"(?!hydra\b)[A-Za-z_][\w.]*", key)
        if plain and key not in known and OmegaConf.select(config, key, default=absent) is absent:
            return key
    return ""


def suggest(
    unknown: str, config: DictConfig, comments: Mapping[str, str], others: list[str]
) -> str:
    """Return, for a key that does not exist, the one that was meant, or all of its level.

    config: a composed config of the command. comments: what its keys are, by name. others: the
    commands that have the key, or the group that it is in.
    """
    keys = [key for key in _keys(config) if _is_set_by_hand(key)]
    above, _, last = unknown.rpartition(".")
    if others:
        meant = [] if above else _called(last, keys, "")
        guess = f"; did you mean {_joined(meant, comments)}?" if meant else ";"
        listed = " and ".join(filter(None, [", ".join(others[:-1]), others[-1]]))
        return f"no key {unknown!r}{guess} {unknown.partition('.')[0]} is a key of lexp {listed}"
    if having := _choices_with(unknown):
        group = unknown.partition(".")[0]
        return f"no key {unknown!r} in this {group}; it is a key of {' and '.join(having)}"
    if above in keys or above == "":
        if meant := _meant(last, keys, f"{above}." if above else ""):
            return f"no key {unknown!r}; did you mean {_joined(meant, comments)}?"
        return f"no key {unknown!r}; {_level(above, keys)}"
    near = difflib.get_close_matches(unknown, keys, n=3) or _meant(last, keys, "")
    if near:
        return f"no key {unknown!r}; did you mean {_joined(near, comments)}?"
    return f"no key {unknown!r}; {_level('', keys)}"


def _choices_with(key: str) -> list[str]:
    """Return lexp's choices of the key's group that have the key, each with the key's comment.

    A key without one is fixed by its choice, such as the path of a data set of the hub.
    """
    group, _, inside = key.partition(".")
    files = sorted((config_folder() / group).glob("*.yaml")) if inside else []
    return [
        f"{group}={path.stem} ({found.about})"
        for path in files
        for found in read_keys(path)
        if found.name == inside and found.about
    ]


def _meant(word: str, keys: list[str], above: str) -> list[str]:
    """Return the keys that a word below `above` may stand for, else those written almost so."""
    inside = [key.removeprefix(above) for key in keys if key.startswith(above)]
    almost = difflib.get_close_matches(word, inside, n=3)
    return _called(word, keys, above) or [f"{above}{key}" for key in almost]


def _called(word: str, keys: list[str], above: str) -> list[str]:
    """Return the keys that a word below `above` stands for, the likeliest first, at most three.

    In order: other tools' words for keys below it, the last part of a longer key there, and other
    tools' words for any key.
    """
    inside, shown = [key for key in keys if key.startswith(above)], _letters(word)
    words = [key for key, said in SYNONYMS.items() if shown in _letters(said).split()]
    called = [key for key in words if key in keys]
    found = [key for key in called if key.startswith(above)]
    return (found or [key for key in inside if key.rpartition(".")[2] == word] or called)[:3]


def _letters(words: str) -> str:
    """Return words as one of batch_size, batch-size and batchSize."""
    return words.lower().replace("-", "").replace("_", "")


def _joined(keys: list[str], comments: Mapping[str, str]) -> str:
    return " or ".join(f"{key} ({comments[key]})" if comments.get(key) else key for key in keys)


def _level(above: str, keys: list[str]) -> str:
    """Return which keys there are below a key; "" for the first level."""
    start = f"{above}." if above else ""
    inside = [key for key in keys if key.startswith(start)]
    level = dict.fromkeys(start + key.removeprefix(start).split(".")[0] for key in inside)
    if level:
        return f"there are {', '.join(level)}"
    if "." not in above and (config_folder() / above).is_dir():
        return f"this {above} has no keys; choose another by {above}=NAME of {options(above)}"
    return f"{above} has no keys of its own"


def _is_set_by_hand(key: str) -> bool:
    """Return False for keys inside a choice that say which class it is and how it is called."""
    return not (key.endswith("._target_") or ("." in key and key.endswith(".name")))


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    for key in config:
        name = f"{prefix}{key}"
        yield name
        if not OmegaConf.is_missing(config, key) and not OmegaConf.is_interpolation(config, key):
            inner = config[key]
            if OmegaConf.is_dict(inner):
                yield from _keys(inner, f"{name}.")


def refuse_added(schema: Any, settings: dict[str, Any], where: str = "") -> None:
    """Raise ConfigError for a key that was added to a schema (+key): nothing would read it."""
    if not is_dataclass(schema):
        return
    known = {item.name: item.type for item in fields(schema)}
    for key, value in settings.items():
        if key not in known:
            listed = ", ".join(f"{where}{name}" for name in known)
            raise ConfigError(f"no key {where + key!r}; there are {listed}")
        if isinstance(value, dict):
            refuse_added(known[key], value, f"{where}{key}.")
