"""The supported families of models, and the names of their submodules."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One `model_type` of transformers, and the names of its submodules.

    prefix: of the class names. embedding, layers, norm: submodules of the model. attention: of a
    layer; out: of its attention, the projection of the heads. position: rope, alibi or learned.
    call: the argument by which a layer hands something on to its attention untouched.
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


def _like_llama(prefix: str) -> Family:
    return Family(
        prefix, f"{prefix}ForCausalLM", "model.embed_tokens", "model.layers", "model.norm",
        "self_attn", "o_proj", "rope",
    )  # fmt: skip


FAMILIES = {
    "llama": _like_llama("Llama"),
    "mistral": _like_llama("Mistral"),
    "qwen2": _like_llama("Qwen2"),
    "qwen3": _like_llama("Qwen3"),
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
