"""The general path: causal models without a family of their own, checked before weights are read.

A model that calls transformers' attention interface in each of its layers is run as a whole. Its
layers apply their own positions; lexp decides which keys a query sees, and nothing else. A trial
run without numbers (on torch's meta device) shows what the layers hand to the interface: what lexp
does not follow there (a soft cap, sink logits, a bias, a mask of another kind) is refused.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lexp.hf.source import Source
from lexp.model.transformer import Dims
from lexp.pattern import Full, Pattern, Window
from lexp.system.errors import CheckpointError, ConfigError, first_line

# The name of lexp's functions among those of transformers for attention and for masks.
NAME = "lexp_general"
# What an attention module has the object under that answers its calls of the interface.
ANSWER = "lexp_answer"
# Arguments of the interface that change no number: these, and any that are None or False.
HARMLESS = {"position_ids", "cache_position", "use_cache"}
# Rotary frequencies that stay the same whatever the length.
FIXED_ROPE = ("default", "linear", "llama3", "yarn")
# Tokens of the trial run.
N_TRIAL = 40


@dataclass(frozen=True)
class DescribedGeneral:
    """The description of a model of the general path; see lexp.hf.config.Described.

    model_class: its name in transformers. layers: the keys that each layer lets its queries see.
    attention: the names of the modules that compute it. max_len: the longest text that it has
    positions for; None: any.
    """

    config: Any
    dims: Dims
    vocab_size: int
    train_len: int | None
    model_class: str
    layers: tuple[Pattern, ...]
    attention: tuple[str, ...]
    max_len: int | None

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Return how many keys queries of each layer see, None: all; one value if all are alike."""
        own = tuple(p.window if isinstance(p, Window) else None for p in self.layers)
        return own[:1] if len(set(own)) == 1 else own

    def without_positions(self) -> "DescribedGeneral":
        """Raise ConfigError: the model's own code has its positions."""
        raise ConfigError(
            f"position=nope takes away positions that lexp computes; a {self.config.model_type} "
            "model computes its own, remove it"
        )


@dataclass(frozen=True)
class LayerMask:
    """What a layer gets in place of a mask: the rule for it, and the size of a local rule."""

    rule: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    local_size: int | None


@dataclass(frozen=True)
class AttentionCall:
    """A layer's call of the attention interface, as transformers makes it.

    query [B, H, T, D]; key, value [B, H / groups, T, D]; scaling: the multiplier of q . k;
    others: the arguments that are not named here, by name.
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Any
    scaling: float
    dropout: float
    others: dict[str, Any]

    def unknown(self) -> str:
        """Return what lexp does not follow in this call; "" if there is nothing."""
        if not isinstance(self.mask, LayerMask):
            return f"a mask of its own making ({type(self.mask).__name__})"
        if self.dropout:
            return f"dropout={self.dropout}"
        for name, value in self.others.items():
            if name == "sliding_window" and value in (None, self.mask.local_size):
                continue
            if name not in HARMLESS and value is not None and value is not False:
                return f"{name}={'a tensor' if isinstance(value, Tensor) else str(value)[:40]}"
        if self.key.shape[2] != self.query.shape[2] or self.query.shape[1] % self.key.shape[1]:
            return f"keys {list(self.key.shape)} for queries {list(self.query.shape)}"
        if self.value.shape[-1] != self.query.shape[-1]:
            return f"values of width {self.value.shape[-1]}, queries of {self.query.shape[-1]}"
        return ""


def attention_function(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any,
    scaling: float | None = None, dropout: float = 0.0, **others: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Answer a call of transformers' attention interface with the module's own answer."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    call = AttentionCall(module, query, key, value, attention_mask, scaling, dropout, others)
    return vars(module)[ANSWER](call), None


def mask_function(*, mask_function: Any, local_size: int | None = None, **rest: Any) -> LayerMask:
    """Answer transformers' request for a mask with the rule it is made from."""
    return LayerMask(mask_function, local_size)


def register() -> None:
    """Make lexp's functions known to transformers, under NAME."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attention_function)
    AttentionMaskInterface.register(NAME, mask_function)


def describe_general(source: Source, raw: dict[str, Any]) -> DescribedGeneral:
    """Describe a model from its config alone; ConfigError if lexp cannot run it."""
    kind = raw.get("model_type")
    where = f"path={source.path}: the model family {kind!r}"
    model_class = causal_class(kind)
    if model_class is None:
        raise ConfigError(
            f"{where} is none of transformers' causal language models (docs/huggingface.md has "
            "those that lexp runs)"
        )
    if reason := class_refused(model_class) or _config_refused(raw):
        raise ConfigError(f"{where} is not supported: {reason}")
    try:
        config = model_class.config_class.from_dict(raw)
        trial_config = model_class.config_class.from_dict(raw)
    except Exception as error:  # transformers checks configs with exceptions of many kinds
        reason = first_line(error)
        raise CheckpointError(f"{source.folder / 'config.json'} is not allowed: {reason}") from None
    try:
        return _tried(model_class, config, trial_config)
    except ConfigError as error:
        raise ConfigError(f"{where} is not supported: {error}") from None


def causal_class(kind: Any) -> Any:
    """Return transformers' class for a `model_type`; None if it has none for causal models."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as names

    name = names.get(kind) if isinstance(kind, str) else None
    return None if name is None else getattr(transformers, name)


def class_refused(model_class: Any) -> str:
    """Return why models of a class cannot be run, seen from the class alone; "" if they may be."""
    if not hasattr(sys.modules[model_class.__module__], "ALL_ATTENTION_FUNCTIONS"):
        return "its code does not use transformers' attention interface"
    if model_class._is_stateful:
        return "it has recurrent layers, which hand tokens on whatever keys attention sees"
    if "position_ids" not in inspect.signature(model_class.forward).parameters:
        return "its forward pass takes no positions (position_ids)"
    return ""


def _config_refused(raw: dict[str, Any]) -> str:
    if raw.get("quantization_config") is not None:
        return "quantization_config"
    if raw.get("is_encoder_decoder", False):
        return "it is an encoder and a decoder"
    return ""


def _tried(model_class: Any, config: Any, trial_config: Any) -> DescribedGeneral:
    """Describe a model after a trial run without numbers; ConfigError for what is not followed."""
    if config.get_text_config() is not config:
        raise ConfigError("it is made of several models")
    for rope in _rope_settings(config):
        if rope.get("rope_type", "default") not in FIXED_ROPE:
            raise ConfigError(f"rope_type {rope['rope_type']!r} changes with the length")
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        # Llama 4. Its temperature also counts tokens from the start of each call, so that a text
        # read in pieces would get that of other places.
        raise ConfigError("its layers see their own chunk of keys alone (chunked_attention)")
    train_len = trained_length(config)
    try:
        trial = run_trial(model_class, trial_config)
        layers = tuple(rule_of(call.mask) for call in trial.calls)
    except ConfigError:
        raise
    except Exception as error:  # of any kind: the code is the family's own
        raise ConfigError(f"its code cannot be followed ({first_line(error)})") from None
    _, n_heads, _, head_dim = trial.calls[0].query.shape
    d_ff = getattr(config, "intermediate_size", None) or getattr(config, "ffn_dim", None)
    dims = Dims(len(layers), trial.width, n_heads, head_dim, d_ff or 4 * trial.width)
    ends = train_len is not None and any(0 <= n - train_len <= 8 for n in trial.tables)
    max_len = train_len if ends else None
    name = model_class.__name__
    return DescribedGeneral(
        config, dims, trial.n_rows, train_len, name, layers, trial.attention, max_len
    )


def _rope_settings(config: Any) -> list[dict[str, Any]]:
    """Return the rotary settings of a config: one for all layers, or one for each kind."""
    settings = getattr(config, "rope_parameters", None) or {}
    kinds = [value for value in settings.values() if isinstance(value, dict)]
    return kinds or [settings]


def trained_length(config: Any) -> int | None:
    """Return the context that a model was made for; None if its config does not say."""
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(config, key, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


@dataclass(frozen=True)
class Trial:
    """What a trial run showed: the calls in order, and sizes of the embedding.

    attention: names of the modules that made the calls. tables: rows of the other embeddings that
    were read, such as learned positions.
    """

    calls: tuple[AttentionCall, ...]
    attention: tuple[str, ...]
    width: int
    n_rows: int
    tables: tuple[int, ...]


def run_trial(model_class: Any, config: Any) -> Trial:
    """Run a model's code without numbers; ConfigError for what lexp does not follow."""
    register()
    config._attn_implementation = NAME
    if model_class._can_set_experts_implementation():
        # The only one whose shapes do not depend on numbers.
        config._experts_implementation = "batched_mm"
    with torch.device("meta"):
        model = model_class(config).eval()
        tokens = torch.zeros(1, N_TRIAL, dtype=torch.long)
    calls: list[AttentionCall] = []

    def answer(call: AttentionCall) -> Tensor:
        calls.append(call)
        if unknown := call.unknown():
            raise ConfigError(f"attention of layer {len(calls)} takes {unknown}")
        return call.query.transpose(1, 2).contiguous()

    for module in model.modules():
        set_answer(module, answer)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding is None or head is None:
        raise ConfigError("it has no embedding or no head by a name that transformers knows")
    tables: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module is not embedding:
            module.register_forward_hook(lambda m, *_: tables.append(m.num_embeddings))
    with torch.no_grad():
        # With a cache transformers does not look for texts packed into one, which needs numbers.
        model(input_ids=tokens, position_ids=torch.arange(N_TRIAL, device="meta")[None],
              use_cache=True)  # fmt: skip
    _check_calls(calls, config)
    names = {id(module): name for name, module in model.named_modules()}
    attention = tuple(names[id(call.module)] for call in calls)
    sizes = embedding.embedding_dim, embedding.num_embeddings
    return Trial(tuple(calls), attention, *sizes, tuple(tables))


def set_answer(module: nn.Module, answer: Callable[[AttentionCall], Tensor]) -> None:
    """Give a module the object that answers its calls of the interface."""
    vars(module)[ANSWER] = answer


def _check_calls(calls: list[AttentionCall], config: Any) -> None:
    n_layers, n_modules = config.num_hidden_layers, len({id(call.module) for call in calls})
    if not len(calls) == n_modules == n_layers:
        raise ConfigError(
            f"{n_layers} layers make {len(calls)} calls of transformers' attention interface from "
            f"{n_modules} modules; lexp follows one of each layer"
        )


def rule_of(mask: LayerMask) -> Pattern:
    """Return the pattern that a mask's rule follows; ConfigError if it is none of lexp's.

    The rule is asked about whole rows, near the beginning, around the local size and far beyond.
    """
    size = mask.local_size
    candidates: list[Pattern] = [Window(size), Full()] if size else [Full()]
    n = size or N_TRIAL
    rows = sorted({0, 1, 2, 7, n - 1, n, n + 1, 2 * n + 1, 4 * n + 3})
    left = [pattern for pattern in candidates if all(_follows(mask, pattern, i) for i in rows)]
    if not left:
        raise ConfigError(f"its mask is none that lexp knows (local size {size})")
    return left[0]


def _follows(mask: LayerMask, pattern: Pattern, row: int) -> bool:
    """Return whether query `row` sees the same keys under a mask's rule and a pattern."""
    first, j = torch.zeros(1, 1, 1, 1, dtype=torch.long), torch.arange(row + 3)
    i = torch.full((1, 1, 1, 1), row)
    theirs = mask.rule(first, first, i, j[None, None, None]).expand(1, 1, 1, len(j))
    return torch.equal(theirs.flatten().bool(), pattern.allowed(i.flatten(), j))
