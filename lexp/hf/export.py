"""A trained model of lexp as a model of transformers, which loads without code of lexp's.

trunk=gpt has no class of its own there: GPT-NeoX (without its parallel residual), MPT and GPT-2
have the same layers once their biases are 0. trunk=llama is Llama, or SmolLM3 where layers without
positions are among others; trunk=qwen3 is Qwen3.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lexp.attention import Attend, make_attend
from lexp.hf.config import TRAIN_LEN
from lexp.hf.export_positions import Rotation, is_mpt_alibi, rotation_of, table_of
from lexp.hf.export_rotary import Interpolation, fitting, partial_parameters, whole_parameters
from lexp.hf.export_weights import (
    Weights,
    channels_of,
    gpt2_weights,
    llama_weights,
    mpt_weights,
    neox_weights,
)
from lexp.hf.load import quiet_transformers
from lexp.model.mixer.attention import Attention, NoGate, QKNorm
from lexp.model.transformer import Block, Transformer
from lexp.model.trunk import GELU, SwiGLU
from lexp.pattern import Full
from lexp.system.errors import ConfigError

# What has a class, for messages.
HELD = (
    "rope, p_rope, nope (as trained, or with pi, ntk, yarn or longrope), alibi, learned and "
    "sinusoidal with trunk=gpt; rope, p_rope and nope, also in turns, with trunk=llama; rope, "
    "p_rope and nope with trunk=qwen3"
)
# Tokens on which the exported model is compared with the trained one, and how far its logits may
# be away, as a share of the largest.
N_TRIED, CLOSE = 256, 1e-4


@dataclass(frozen=True)
class ExportFacts:
    """What a config says besides sizes.

    length: tokens of context that the exported model is for. end: id of the token that ends texts,
    or None. made_by: what changed rotary frequencies.
    """

    train_len: int
    length: int
    end: int | None
    made_by: Interpolation

    @property
    def keys(self) -> dict[str, Any]:
        """Return the keys that all configs have."""
        return {
            "bos_token_id": None, "eos_token_id": self.end, "pad_token_id": None,
            TRAIN_LEN: self.train_len,
        }  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A class of transformers with the config and the weights of a model."""

    prefix: str
    model_class: str
    config: Any
    weights: Weights


def to_transformers(model: Transformer, facts: ExportFacts) -> Any:
    """Return the same model as an object of transformers; ConfigError if no class holds it."""
    quiet_transformers()
    target = _target(model, facts)
    import transformers

    theirs = getattr(transformers, target.model_class)(target.config).float().eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    detached = {name: weight.detach().float() for name, weight in target.weights.items()}
    told = theirs.load_state_dict(detached, strict=False)
    rest = [name for name in told.missing_keys if not name.endswith("bias")]
    assert not rest and not told.unexpected_keys, (rest, told.unexpected_keys)
    return theirs


def largest_difference(model: Transformer, theirs: Any, n_tokens: int) -> float:
    """Return how far apart the logits of both are on n_tokens, over the largest logit."""
    n_rows = model.embedding.num_embeddings
    tokens = torch.randint(n_rows, (1, n_tokens), generator=torch.Generator().manual_seed(0))
    attend: Attend = make_attend(Full(), n_tokens, model.schemes, tokens.device)
    with torch.inference_mode():
        ours: Tensor = model(tokens, attend)
        others: Tensor = theirs(tokens, use_cache=False).logits
    return float((ours - others).abs().max() / ours.abs().max())


def save(model: Transformer, facts: ExportFacts, folder: Path) -> str:
    """Write config.json and model.safetensors into a new folder; return the name of the class.

    ConfigError if no class holds the model, or if what was written has other logits.
    """
    theirs = to_transformers(model, facts)
    theirs.save_pretrained(folder)
    loaded = type(theirs).from_pretrained(
        folder, use_safetensors=True, local_files_only=True, dtype=torch.float32
    )
    n_tokens = min(facts.length, N_TRIED)
    difference = largest_difference(model, loaded.eval(), n_tokens)
    if not difference <= CLOSE:
        raise ConfigError(
            f"{type(theirs).__name__} has other logits than the trained model (by {difference:.1g} "
            "of the largest), so nothing was written; please report this"
        )
    return type(theirs).__name__


def _target(model: Transformer, facts: ExportFacts) -> Target:
    eps = _refuse_unlike(model)
    block, attention = model.blocks[0], _mixers(model)[0]
    assert isinstance(block, Block), "checked above"
    common = {**facts.keys, "vocab_size": model.embedding.num_embeddings,
              "tie_word_embeddings": model.head.weight is model.embedding.weight}  # fmt: skip
    is_plain = not isinstance(attention.qk_norm, QKNorm)
    is_shared = attention.n_kv_heads < attention.n_heads
    norm = type(block.norm_attention)
    if (norm, type(block.activation)) == (nn.RMSNorm, SwiGLU):
        return _like_llama(model, facts, eps, common)
    if (norm, type(block.activation)) == (nn.LayerNorm, GELU) and is_plain and not is_shared:
        return _like_gpt(model, facts, eps, common)
    raise ConfigError(f"its trunk is none of gpt, llama and qwen3; export takes {HELD}")


def _like_gpt(model: Transformer, facts: ExportFacts, eps: float, common: dict[str, Any]) -> Target:
    dims, scheme = model.dims, model.position
    if dims.n_heads * dims.head_dim != dims.d_model:
        raise ConfigError(
            f"n_heads x head_dim = {dims.n_heads * dims.head_dim} and d_model = {dims.d_model}: "
            "GPT-NeoX, MPT and GPT-2 have the two equal"
        )
    rotations = _rotations(model)
    if len(set(rotations)) == 1 and rotations[0] is not None:
        return _neox(model, rotations[0], facts, eps, common)
    if " / " in model.title:
        raise ConfigError(f"its layers have several schemes ({model.title}); export takes {HELD}")
    if is_mpt_alibi(scheme):
        return _mpt(model, facts, eps, common)
    if scheme.max_len is not None and scheme.max_len < facts.length:
        raise ConfigError(f"length={facts.length}: {scheme.title} ends at {scheme.max_len} tokens")
    table = table_of(scheme, facts.length, dims.d_model)
    if table is None:
        raise ConfigError(f"{scheme.title} has no class in transformers; export takes {HELD}")
    if table.scale != 1 and common["tie_word_embeddings"]:
        raise ConfigError(
            f"{scheme.title} multiplies the token embeddings, and GPT-2 ties them to its head as "
            "they are; train with trunk.tied_embeddings=false"
        )
    import transformers

    config = transformers.GPT2Config(
        **common, n_embd=dims.d_model, n_layer=dims.n_layers, n_head=dims.n_heads,
        n_inner=dims.d_ff, n_positions=len(table.rows), activation_function="gelu",
        layer_norm_epsilon=eps, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return Target("GPT2", "GPT2LMHeadModel", config, gpt2_weights(model, table))


def _neox(
    model: Transformer, rotation: Rotation, facts: ExportFacts, eps: float, common: dict[str, Any]
) -> Target:
    import transformers

    dims = model.dims
    make = partial(
        transformers.GPTNeoXConfig, **common, hidden_size=dims.d_model,
        num_hidden_layers=dims.n_layers, num_attention_heads=dims.n_heads,
        intermediate_size=dims.d_ff, hidden_act="gelu", max_position_embeddings=facts.length,
        layer_norm_eps=eps, use_parallel_residual=False, attention_bias=False,
    )  # fmt: skip
    candidates = partial_parameters(rotation, dims.head_dim, facts.made_by, facts.train_len)
    # Its tables have the rotating channels alone.
    temperature = rotation.temperature if rotation.rotating else 1.0
    config = _with_rotation(
        "GPTNeoX", make, candidates, rotation.frequencies, temperature, model.title
    )
    weights = neox_weights(model, channels_of(rotation, is_whole=False))
    return Target("GPTNeoX", "GPTNeoXForCausalLM", config, weights)


def _mpt(model: Transformer, facts: ExportFacts, eps: float, common: dict[str, Any]) -> Target:
    import transformers

    dims = model.dims
    if dims.d_ff != 4 * dims.d_model:
        raise ConfigError(
            f"d_ff = {dims.d_ff}: MPT, the class for ALiBi, has 4 d_model = {4 * dims.d_model}"
        )
    config = transformers.MptConfig(
        **common, d_model=dims.d_model, n_layers=dims.n_layers, n_heads=dims.n_heads,
        max_seq_len=facts.length, layer_norm_epsilon=eps, learned_pos_emb=False,
    )  # fmt: skip
    return Target("Mpt", "MptForCausalLM", config, mpt_weights(model))


def _like_llama(
    model: Transformer, facts: ExportFacts, eps: float, common: dict[str, Any]
) -> Target:
    import transformers

    dims, attention = model.dims, _mixers(model)[0]
    rotations = _rotations(model)
    rotating = list(dict.fromkeys(r for r in rotations if r is not None and r.rotating))
    is_mixed = len(set(rotations)) > 1
    has_norm = isinstance(attention.qk_norm, QKNorm)
    if None in rotations or len(rotating) > 1 or (is_mixed and has_norm):
        raise ConfigError(f"{model.title} on this trunk has no class; export takes {HELD}")
    rotation = rotating[0] if rotating else rotations[0]
    assert rotation is not None, "no layer is without one"
    prefix = "Qwen3" if has_norm else "SmolLM3" if is_mixed else "Llama"
    more: dict[str, Any] = {"head_dim": dims.head_dim}
    if is_mixed:
        which = [int(bool(r and r.rotating)) for r in rotations]
        turns = [which[n % len(which)] for n in range(dims.n_layers)]
        more |= {"no_rope_layers": turns, "use_sliding_window": False, "sliding_window": None}
    make = partial(
        getattr(transformers, f"{prefix}Config"), **common, **more, hidden_size=dims.d_model,
        num_hidden_layers=dims.n_layers, num_attention_heads=dims.n_heads,
        num_key_value_heads=attention.n_kv_heads, intermediate_size=dims.d_ff, hidden_act="silu",
        max_position_embeddings=facts.length, rms_norm_eps=eps,
    )  # fmt: skip
    candidates = whole_parameters(rotation, dims.head_dim, facts.made_by, facts.train_len)
    wanted = list(rotation.theta)
    config = _with_rotation(prefix, make, candidates, wanted, rotation.temperature, model.title)
    weights = llama_weights(model, channels_of(rotation, is_whole=True))
    return Target(prefix, f"{prefix}ForCausalLM", config, weights)


def _with_rotation(
    prefix: str,
    make: Callable[..., Any],
    candidates: Any,
    wanted: list[float],
    temperature: float,
    title: str,
) -> Any:
    """Return a config with rotary parameters that give the wanted frequencies."""
    import transformers

    module = sys.modules[getattr(transformers, f"{prefix}ForCausalLM").__module__]
    rotary = getattr(module, f"{prefix}RotaryEmbedding")
    parameters = fitting(
        candidates, lambda values: rotary(make(rope_parameters=values)), wanted, temperature
    )
    if parameters is None:
        raise ConfigError(
            f"{prefix} cannot hold the frequencies of {title}, as it is extended; trunk=gpt, or "
            "rope in place of p_rope, can be exported"
        )
    return make(rope_parameters=parameters)


def _rotations(model: Transformer) -> Sequence[Rotation | None]:
    """Return the schemes that layers take in turns as rotations."""
    return [rotation_of(scheme, model.dims.head_dim) for scheme in model.schemes]


def _mixers(model: Transformer) -> list[Attention]:
    mixers = [block.mixer for block in model.blocks if isinstance(block, Block)]
    return [mixer for mixer in mixers if isinstance(mixer, Attention)]


def _refuse_unlike(model: Transformer) -> float:
    """Return the epsilon of all norms; ConfigError for layers that no class has."""
    blocks = list(model.blocks)
    mixers = _mixers(model)
    if len(mixers) < len(blocks):
        others = [type(b.mixer).__name__ for b in blocks if isinstance(b, Block)]
        names = sorted({name for name in others if name != Attention.__name__})
        raise ConfigError(
            f"layers of {', '.join(names)} have no class in transformers; export takes {HELD}"
        )
    if not all(isinstance(mixer.output_gate, NoGate) for mixer in mixers):
        raise ConfigError(f"an output gate has no class in transformers; export takes {HELD}")
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.RMSNorm)]
    kinds = {(type(norm), norm.eps) for norm in norms}
    if len(kinds) > 1:
        raise ConfigError(
            "its norms differ in kind or eps; the classes of transformers have one for all"
        )
    ((_, eps),) = kinds
    assert eps is not None, "lexp's norms have one"
    return float(eps)
