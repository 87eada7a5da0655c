"""The supported families of models, and the names of their submodules."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def every_layer(config: Any, n: int) -> bool:
    """Return True: of most families every layer rotates queries and keys."""
    return True


def in_windows_alone(config: Any, n: int) -> bool:
    """Return whether layer n of Cohere2 rotates: those with a sliding window do."""
    return bool(config.layer_types[n] == "sliding_attention")


def as_listed(config: Any, n: int) -> bool:
    """Return whether layer n of SmolLM3 rotates: its config has 1 for each layer that does."""
    return bool(config.no_rope_layers[n])


@dataclass(frozen=True)
class Family:
    """One `model_type` of transformers, and the names of its submodules.

    prefix: of the class names. embedding, layers, norm: submodules of the model. attention: of a
    layer; out: of its attention, the projection of the heads. position: rope, alibi or learned.
    call: the argument by which a layer hands something on to its attention untouched. rotates:
    from a config and a layer's index to whether that layer rotates. adjacent: whether channels 2c
    and 2c + 1 rotate together; else those half of the rotating channels apart do.
    """

    prefix: str
    model: str
    embedding: str
    layers: str
    norm: str
    attention: str
    out: str
    position: str
    call: str = "lexp"
    rotates: Callable[[Any, int], bool] = every_layer
    adjacent: bool = False


def _like_llama(
    prefix: str, rotates: Callable[[Any, int], bool] = every_layer, adjacent: bool = False
) -> Family:
    return Family(
        prefix, f"{prefix}ForCausalLM", "model.embed_tokens", "model.layers", "model.norm",
        "self_attn", "o_proj", "rope", rotates=rotates, adjacent=adjacent,
    )  # fmt: skip


FAMILIES = {
    "llama": _like_llama("Llama"),
    "mistral": _like_llama("Mistral"),
    "ministral": _like_llama("Ministral"),
    "qwen2": _like_llama("Qwen2"),
    "qwen3": _like_llama("Qwen3"),
    "gemma2": _like_llama("Gemma2"),
    "gemma3_text": _like_llama("Gemma3"),
    "cohere2": _like_llama("Cohere2", in_windows_alone, adjacent=True),
    "smollm3": _like_llama("SmolLM3", as_listed),
    "olmo2": _like_llama("Olmo2"),
    "olmo3": _like_llama("Olmo3"),
    "phi3": _like_llama("Phi3"),
    "gpt_oss": _like_llama("GptOss"),
    "gpt_neox": Family(
        "GPTNeoX", "GPTNeoXForCausalLM", "gpt_neox.embed_in", "gpt_neox.layers",
        "gpt_neox.final_layer_norm", "attention", "dense", "rope",
    ),
    "gpt2": Family(
        "GPT2", "GPT2LMHeadModel", "transformer.wte", "transformer.h", "transformer.ln_f",
        "attn", "c_proj", "learned",
    ),
    "bloom": Family(
        "Bloom", "BloomForCausalLM", "transformer.word_embeddings", "transformer.h",
        "transformer.ln_f", "self_attention", "dense", "alibi", "alibi",
    ),
    "mpt": Family(
        "Mpt", "MptForCausalLM", "transformer.wte", "transformer.blocks", "transformer.norm_f",
        "attn", "out_proj", "alibi", "position_bias",
    ),
}  # fmt: skip
