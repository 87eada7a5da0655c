"""The settings of a run that goes on from a checkpoint of transformers: its sizes and its trunk.

Llama, Mistral and Qwen3 have the layers of trunk=llama and trunk=qwen3, so that such a checkpoint
is trained as any model of lexp. What its config.json has that these trunks lack is refused.
"""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lexp.system.errors import ConfigError
from lexp.system.reading import read_file

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FAMILIES = ("llama", "mistral", "qwen3")
ROPE, SCALED_ROPE = "lexp.position.RoPE", "lexp.hf.scaled_rotary.ScaledRoPE"
TWO_RANGES = "lexp.hf.scaled_rotary.TwoScaledRoPE"
# Those of RoPE up to the trained length, and beyond it others for each length of a text.
DYNAMIC = "dynamic"
# By rope_type: the numbers that scale the frequencies, and those that may be left out.
ORIGINAL = "original_max_position_embeddings"
SCALINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", ORIGINAL), ()),
    "yarn": (("factor", ORIGINAL), ("beta_fast", "beta_slow", "attention_factor")),
    "longrope": (("short_factor", "long_factor", ORIGINAL), ("factor", "attention_factor")),
    DYNAMIC: (("factor",), ()),
}
LISTS = ("short_factor", "long_factor")
NORM, MLP = "lexp.model.trunk.RMSNorm", "lexp.model.trunk.SwiGLU"
# Keys of its config.json, and the values with which the trunks compute the same.
ALLOWED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,),
    "quantization_config": (None,), "partial_rotary_factor": (None, 1.0),
}  # fmt: skip
COUNTS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size",
    "max_position_embeddings",
)  # fmt: skip
# Counts that it may leave out; the last is a key that `lexp export` writes.
MORE_COUNTS = ("num_key_value_heads", "head_dim", "lexp_train_len")
LARGEST = 1e30  # a whole number may be too large for a float
# Other keys beside them, and values of some that change nothing.
READ = ("rope_type", "type", "rope_theta", ORIGINAL)
WITHOUT_EFFECT = {"partial_rotary_factor": 1.0, "truncate": True}


def is_hf_folder(path: str | None) -> bool:
    """Return whether a path is a folder with a model of transformers, and no run of lexp."""
    return path is not None and "model_type" in _config(Path(path) / "config.json")


def refuse_hub_name(key: str, path: str) -> None:
    """Raise ConfigError for a path that is no folder and reads as a model of the hub.

    key: the setting that has it.
    """
    name, _, revision = path.partition("@")
    if Path(path).exists() or not HUB_NAME.fullmatch(name):
        return
    folder = f"models/{name.partition('/')[2]}"
    at = f" --revision {revision}" if revision else ""
    run = "give a finished run (init_from=outputs/NAME/RUN), or " if key == "init_from" else ""
    raise ConfigError(
        f"{key}={path}: no folder here; {run}download the model: hf download {name}{at} "
        f"--local-dir {folder}, then {key}={folder}"
    )


def with_hf_folder(config: DictConfig) -> DictConfig:
    """Return the composed config of a run with what its init_from says, if that is a checkpoint.

    Size, trunk and vocabulary are the checkpoint's, and so is the base of model=rope. Another model
    keeps its values. ConfigError for a checkpoint that no trunk of lexp is like.
    """
    path = OmegaConf.select(config, "init_from")
    if not isinstance(path, str) or not is_hf_folder(path):
        return config
    folder = Path(path)
    raw = _config(folder / "config.json")
    where = f"init_from={path}"
    if problems := list(_problems(folder, raw)):
        raise ConfigError(f"{where}: {', '.join(problems)}")
    filled = copy.deepcopy(config)
    OmegaConf.set_struct(filled, False)
    size = _size(folder.resolve().name, raw, where)
    for key, value in size.items():
        filled.size[key] = value
    own_norm = filled.trunk.get("qk_norm")
    norm = {"_target_": NORM, "eps": float(raw["rms_norm_eps"])}
    filled.trunk = {
        "name": "qwen3" if raw["model_type"] == "qwen3" else "llama", "norm": norm,
        "mlp": {"_target_": MLP}, "n_kv_heads": _n_kv_heads(raw),
        "qk_norm": norm if raw["model_type"] == "qwen3" else own_norm, "output_gate": None,
        "sinks": None, "tied_embeddings": bool(raw.get("tie_word_embeddings", False)),
    }  # fmt: skip
    vocabulary = str(folder / "tokenizer.json")
    filled.tokenizer = {
        "name": "file",
        "_target_": "lexp.data.tokenizer.FileSpec",
        "path": vocabulary,
    }
    if filled.model.get("name") == "rope":
        filled.model.position = _position(raw, size["head_dim"])
    return filled


def trained_length(path: str) -> int:
    """Return the length that the checkpoint in a folder was trained at, as its config says."""
    return _trained_length(_config(Path(path) / "config.json"))


def rope_position(path: str, head_dim: int) -> dict[str, Any]:
    """Return the node of the rotary positions of the checkpoint in a folder."""
    return _position(_config(Path(path) / "config.json"), head_dim)


def dynamic_factor(path: str) -> float | None:
    """Return the factor of dynamic scaling of the checkpoint in a folder; None for another."""
    rope = _rope(_config(Path(path) / "config.json"))
    return float(rope["factor"]) if rope["rope_type"] == DYNAMIC else None


def _config(path: Path) -> dict[str, Any]:
    """Return a config.json; {} if there is none to read."""
    try:
        value = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _rope(raw: dict[str, Any]) -> dict[str, Any]:
    """Return rope_theta and rope_type, which older files have in other places."""
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        rope = {"rope_type": str(rope)}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    theta = rope.get("rope_theta") or raw.get("rope_theta") or 10000.0
    original = raw.get(ORIGINAL) or rope.get(ORIGINAL)
    return {**rope, "rope_type": str(kind), "rope_theta": theta, ORIGINAL: original}


def _position(raw: dict[str, Any], head_dim: int) -> dict[str, Any]:
    rope = _rope(raw)
    node = {"_target_": ROPE, "head_dim": head_dim, "base": float(rope["rope_theta"])}
    if rope["rope_type"] in ("default", DYNAMIC):
        return node
    target = TWO_RANGES if rope["rope_type"] == "longrope" else SCALED_ROPE
    return {**node, "_target_": target, "scaling": _scaling(raw)}


def _scaling(raw: dict[str, Any]) -> dict[str, Any]:
    """Return how a config scales the frequencies, without what it leaves open."""
    rope = _rope(raw)
    kind = rope["rope_type"]
    names = [name for some in SCALINGS[kind] for name in some]
    if ORIGINAL in names:
        # In configs without it, the original context is the present one, as in transformers.
        rope[ORIGINAL] = rope[ORIGINAL] or raw["max_position_embeddings"]
    if kind == "longrope" and rope.get("factor") is None:
        rope["factor"] = raw["max_position_embeddings"] / rope[ORIGINAL]
    return {"rope_type": kind, **{name: rope[name] for name in names if rope.get(name) is not None}}


def _scaling_problems(raw: dict[str, Any]) -> Iterator[str]:
    """Yield what lexp does not compute of a config's rotary frequencies."""
    rope = _rope(raw)
    kind = rope["rope_type"]
    if kind not in SCALINGS:
        yield f"rope_type={kind} (allowed: {', '.join(SCALINGS)})"
        return
    needed, others = SCALINGS[kind]
    for key in needed:
        if rope.get(key) is None and key != ORIGINAL:
            yield f"rope_type={kind} without {key}"
    for key, value in rope.items():
        if key in LISTS and key in needed:
            if not (isinstance(value, list) and all(map(_is_positive, value))):
                yield f"{key}={str(value)[:40]} (allowed: numbers above 0)"
        elif key in (*needed, *others):
            if value is not None and not _is_positive(value):
                yield f"{key}={str(value)[:40]} (allowed: a number above 0)"
        elif key not in READ and value is not None and WITHOUT_EFFECT.get(key) != value:
            yield f"{key}={str(value)[:40]} with rope_type={kind} (not supported)"
    low, high = rope.get("low_freq_factor"), rope.get("high_freq_factor")
    if isinstance(low, int | float) and isinstance(high, int | float) and low >= high:
        yield f"low_freq_factor={low} with high_freq_factor={high} (allowed: below it)"


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < LARGEST


def _trained_length(raw: dict[str, Any]) -> int:
    return int(raw.get("lexp_train_len") or raw["max_position_embeddings"])


def _n_kv_heads(raw: dict[str, Any]) -> int:
    return int(raw.get("num_key_value_heads") or raw["num_attention_heads"])


def _problems(folder: Path, raw: dict[str, Any]) -> list[str]:
    """Return what keeps a checkpoint from being trained here."""
    kind = raw["model_type"]
    if kind not in FAMILIES:
        return [f"model family {kind!r} (trained are {', '.join(FAMILIES)}; others are evaluated)"]
    found = [
        f"{key}={str(raw[key])[:40]} (allowed: {' or '.join(map(str, allowed))})"
        for key, allowed in ALLOWED.items()
        if key in raw and raw[key] not in allowed
    ]
    if kind != "qwen3" and raw.get("sliding_window") is not None:
        found.append(f"sliding_window={raw['sliding_window']} (allowed: null)")
    if raw.get("use_sliding_window"):
        found.append("use_sliding_window=true (allowed: false)")
    found += [*_scaling_problems(raw), *_malformed(raw)]
    if not (folder / "tokenizer.json").is_file():
        found.append("no tokenizer.json (transformers' save_pretrained writes one)")
    return found


def _malformed(raw: dict[str, Any]) -> Iterator[str]:
    """Yield what is missing in a config, and values that are no sizes."""
    values = {**raw, "rope_theta": _rope(raw)["rope_theta"]}
    for key in (*COUNTS, *MORE_COUNTS, "rms_norm_eps", "rope_theta"):
        value = values.get(key)
        is_count = key in COUNTS or key in MORE_COUNTS
        is_number = isinstance(value, int if is_count else int | float)
        if value is None and key not in MORE_COUNTS:
            yield f"config.json has no {key}"
        elif value is not None and (
            not is_number or isinstance(value, bool) or not 0 < value < LARGEST
        ):
            allowed = "a whole number from 1" if is_count else "a number above 0"
            yield f"{key}={str(value)[:40]} (allowed: {allowed})"


def _size(name: str, raw: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the values of size.*; d_ff is the one of which the trunk makes the checkpoint's."""
    n_heads, width = raw["num_attention_heads"], raw["hidden_size"]
    head_dim = raw.get("head_dim") or width // n_heads
    left_out = (n_heads - _n_kv_heads(raw)) * head_dim
    twice = 3 * raw["intermediate_size"] - 2 * left_out
    if twice < 2 or twice % 2:
        raise ConfigError(
            f"{where}: intermediate_size={raw['intermediate_size']} is no feed-forward width of "
            "trunk=llama with these heads"
        )
    word = "".join(c if c.isalnum() or c in "._-" else "-" for c in name).lstrip("._-")
    return {
        "name": word[:60] or "model", "n_layers": raw["num_hidden_layers"], "d_model": width,
        "n_heads": n_heads, "head_dim": head_dim, "d_ff": twice // 2, "share_layers": False,
        "train_len": _trained_length(raw),
    }  # fmt: skip
