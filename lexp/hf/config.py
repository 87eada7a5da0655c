"""Checked reading of a model's config.json: what lexp cannot reproduce is refused, not ignored."""

from dataclasses import dataclass, replace
from typing import Any

from lexp.hf.family import FAMILIES, Family
from lexp.hf.general import DescribedGeneral, describe_general
from lexp.hf.layers import LayerKind, in_turn, read_layers
from lexp.hf.source import Source, read_config
from lexp.model.transformer import Dims
from lexp.system.errors import CheckpointError, ConfigError

# Rotary frequencies that stay the same whatever the length, or (longrope) have two sets of them.
ROPE_TYPES = ("default", "linear", "llama3", "yarn", "longrope", "proportional")
# The key of what `lexp export` has written: tokens of context in training, where the config's own
# key says how many the model is for.
TRAIN_LEN = "lexp_train_len"


@dataclass(frozen=True)
class Described:
    """The description of a model before its weights are read.

    config: transformers' config object. train_len: the context it was made for, None if its config
    does not say. layers: the kind of each layer.
    """

    family: Family
    config: Any
    dims: Dims
    vocab_size: int
    train_len: int | None
    layers: tuple[LayerKind, ...]

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Return the windows that layers take in turns, a single one where all are alike."""
        return tuple(in_turn([kind.window for kind in self.layers]))

    def without_positions(self) -> "Described":
        """Return the same without rotary positions; ConfigError if it has others."""
        if self.family.position != "rope":
            raise ConfigError(
                f"position=nope takes rotary positions away, a {self.config.model_type} model has "
                f"{self.family.position} ones; remove it"
            )
        return replace(self, layers=tuple(replace(kind, rotates=False) for kind in self.layers))

    @property
    def model_class(self) -> str:
        """Return the name of the class in transformers."""
        return self.family.model


def describe(source: Source) -> Described | DescribedGeneral:
    """Read and check config.json; CheckpointError if unreadable, ConfigError if not for lexp."""
    raw = read_config(source)
    kind = raw.get("model_type")
    if kind not in FAMILIES:
        return describe_general(source, raw)
    refused = _refused(kind, raw)
    if refused:
        raise ConfigError(f"path={source.path}: not supported: {', '.join(refused)}")
    import transformers  # not before the checks: it takes seconds

    family = FAMILIES[kind]
    try:
        config = transformers.CONFIG_MAPPING[kind].from_dict(raw)
        dims = _dims(config)
        layers = read_layers(config, family)
        if family.position == "rope":
            _check_rope(config, layers)
        return Described(family, config, dims, int(config.vocab_size), _train_len(config), layers)
    except ConfigError as error:
        raise ConfigError(f"path={source.path}: {error}") from None
    except Exception as error:  # transformers checks configs with exceptions of many kinds
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"{source.folder / 'config.json'} is not allowed: {reason}") from None


def _refused(kind: str, raw: dict[str, Any]) -> list[str]:
    """Return the settings of a config that change numbers in ways the adapter does not follow."""
    attention = raw.get("attn_config") or {}
    wanted: dict[str, tuple[Any, Any]] = {
        "quantization_config": (raw.get("quantization_config"), None),
        "is_encoder_decoder": (raw.get("is_encoder_decoder", False), False),
    }
    if kind.startswith("gemma"):
        wanted["use_bidirectional_attention"] = (
            raw.get("use_bidirectional_attention") or False, False
        )  # fmt: skip
    if kind == "gpt2":
        wanted["add_cross_attention"] = (raw.get("add_cross_attention", False), False)
    if kind == "mpt":
        # transformers reads none of these, so that its numbers would not be the model's.
        wanted |= {
            "attn_config.alibi": (attention.get("alibi", True), True),
            "attn_config.prefix_lm": (attention.get("prefix_lm", False), False),
            "attn_config.qk_ln": (attention.get("qk_ln", False), False),
            "attn_config.attn_type": (
                attention.get("attn_type", "multihead_attention"), "multihead_attention"
            ),
            "attn_config.alibi_bias_max": (attention.get("alibi_bias_max", 8), 8),
            "logit_scale": (raw.get("logit_scale"), None),
            "no_bias": (raw.get("no_bias", True), True),
            "expansion_ratio": (raw.get("expansion_ratio", 4), 4),
        }  # fmt: skip
    shown = ((key, *pair) for key, pair in wanted.items())
    return [f"{key}={str(value)[:60]}" for key, value, fine in shown if value != fine]


def _dims(config: Any) -> Dims:
    d_model, n_heads = config.hidden_size, config.num_attention_heads
    if n_heads < 1 or (d_model % n_heads and not getattr(config, "head_dim", None)):
        raise ConfigError(f"{n_heads} heads of a width of {d_model}")
    d_ff = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    head_dim = getattr(config, "head_dim", None) or d_model // n_heads
    return Dims(config.num_hidden_layers, d_model, n_heads, head_dim, d_ff or 4 * d_model)


def _train_len(config: Any) -> int | None:
    for key in (TRAIN_LEN, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(config, key, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _check_rope(config: Any, layers: tuple[LayerKind, ...]) -> None:
    parameters = config.rope_parameters
    names = {layer.name for layer in layers if layer.rotates}
    # Some families have parameters for each kind of layer.
    own = [parameters] if "rope_type" in parameters else [parameters[name] for name in names]
    for kind in sorted({values["rope_type"] for values in own} - set(ROPE_TYPES)):
        why = "changes with the length" if kind == "dynamic" else "is not supported"
        raise ConfigError(
            f"rope_type {kind!r} {why}; it can be {', '.join(ROPE_TYPES)} (take it out of "
            "config.json, and compare extension=dynamic_ntk or extension=longrope)"
        )
