"""Tiny checkpoints of every family of Hugging Face models, none of whose numbers is trivial."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lexp.data.tokenizer import train_bpe

VOCAB = 300
TRAINED = 32
SPECIAL: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
LLAMA: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": TRAINED,
    **SPECIAL,
}  # fmt: skip
NEOX: dict[str, Any] = {**LLAMA, "rope_parameters": {
    "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}  # fmt: skip


def rope(kind: str, **values: object) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **values}}


def gpt2(**more: Any) -> Any:
    return transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=TRAINED, **SPECIAL, **more
    )


def bloom(n_head: int, **more: Any) -> Any:
    return transformers.BloomConfig(
        vocab_size=VOCAB, hidden_size=8 * n_head, n_layer=2, n_head=n_head, seq_length=TRAINED,
        **SPECIAL, **more,
    )  # fmt: skip


def mpt(n_heads: int, **attention: Any) -> Any:
    return transformers.MptConfig(
        vocab_size=VOCAB, d_model=8 * n_heads, n_layers=2, n_heads=n_heads, max_seq_len=TRAINED,
        attn_config=attention, **SPECIAL,
    )  # fmt: skip


def llama(**more: Any) -> Any:
    return transformers.LlamaConfig(**{**LLAMA, **more})


# Every family, with each feature that changes what attention computes.
CONFIGS = {
    "llama": lambda: llama(),
    "llama-tied-biased": lambda: llama(
        tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=16
    ),
    "llama-theta": lambda: llama(rope_parameters={"rope_type": "default", "rope_theta": 500000.0}),
    "llama-linear": lambda: llama(**rope("linear", factor=4.0)),
    "llama-llama3": lambda: llama(**rope(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=16,
    )),
    "llama-yarn": lambda: llama(**rope("yarn", factor=4.0, original_max_position_embeddings=16)),
    "mistral": lambda: transformers.MistralConfig(**LLAMA, sliding_window=None),
    "qwen2": lambda: transformers.Qwen2Config(**LLAMA),
    "qwen3": lambda: transformers.Qwen3Config(**LLAMA, head_dim=16),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**NEOX),
    "gpt_neox-serial-yarn": lambda: transformers.GPTNeoXConfig(
        **{**NEOX, "use_parallel_residual": False, **rope(
            "yarn", factor=4.0, original_max_position_embeddings=16, partial_rotary_factor=0.5)}
    ),
    "gpt2": lambda: gpt2(),
    "gpt2-scaled": lambda: gpt2(scale_attn_by_inverse_layer_idx=True, tie_word_embeddings=False),
    "gpt2-unscaled": lambda: gpt2(scale_attn_weights=False),
    "bloom": lambda: bloom(4),
    "bloom-6-heads": lambda: bloom(6, apply_residual_connection_post_layernorm=True),
    "mpt": lambda: mpt(4),
    "mpt-6-heads": lambda: mpt(6, clip_qkv=0.5, softmax_scale=0.2),
}  # fmt: skip
CLASSES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "gpt_neox": "GPTNeoXForCausalLM", "gpt2": "GPT2LMHeadModel",
    "bloom": "BloomForCausalLM", "mpt": "MptForCausalLM",
}  # fmt: skip


def made(config: Any, seed: int = 3) -> Any:
    """A model with eager attention whose every parameter, norms and biases too, is drawn."""
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type])(config)
    model = model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if parameter.ndim == 1 and "weight" in name else 0.0
            scale = 0.2 if parameter.ndim == 1 else 1 / parameter.shape[-1] ** 0.5
            parameter.copy_(centre + scale * torch.randn(parameter.shape))
    return model


def saved(config: Any, folder: Path, tokenizer: bool = True) -> Path:
    """A checkpoint's folder as save_pretrained leaves it, with a tokenizer.json."""
    made(config).save_pretrained(folder)
    if tokenizer:
        text = "def length(text): return the number of tokens in the text, one by one"
        (folder / "tokenizer.json").write_text(train_bpe([text] * 20, 280))
    return folder


def logits(config: Any, tokens: torch.Tensor, **more: Any) -> torch.Tensor:
    """What transformers itself says: eager attention, no cache, no code of ours."""
    with torch.no_grad():
        return made(config)(tokens, use_cache=False, **more).logits
