"""Tiny checkpoints of every family of Hugging Face models, none of whose numbers is trivial."""

import csv
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
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
WINDOW = 7
HYBRID: dict[str, Any] = {**LLAMA, "num_hidden_layers": 4, "sliding_window": WINDOW}
LONG_FACTORS = {"short_factor": [1.0, 1.1, 1.5], "long_factor": [1.2, 3.0, 8.0]}


def phi3(**more: Any) -> Any:
    return transformers.Phi3Config(**{**LLAMA, **more})


# Families whose layers differ, or whose scores do; texts of LONG tokens are longer than any window.
LAYERED = {
    "gemma2": lambda: transformers.Gemma2Config(
        **HYBRID, head_dim=16, query_pre_attn_scalar=9, attn_logit_softcapping=1.5,
        final_logit_softcapping=2.5,
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **{**HYBRID, "num_hidden_layers": 5}, head_dim=8, query_pre_attn_scalar=9,
        sliding_window_pattern=3, rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
        },
    ),
    "cohere2": lambda: transformers.Cohere2Config(**HYBRID, logit_scale=0.4),
    "smollm3": lambda: transformers.SmolLM3Config(
        **{**HYBRID, "sliding_window": None}, no_rope_layer_interval=2
    ),
    "olmo2": lambda: transformers.Olmo2Config(**LLAMA),
    "olmo3": lambda: transformers.Olmo3Config(
        **HYBRID, rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            "full_attention": {
                "rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "ministral": lambda: transformers.MinistralConfig(
        **HYBRID, head_dim=8, layer_types=["full_attention", *["sliding_attention"] * 3]
    ),
    "phi3": lambda: phi3(sliding_window=WINDOW),
    "phi3-longrope": lambda: phi3(
        original_max_position_embeddings=TRAINED // 2,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
            **LONG_FACTORS,
        },
    ),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **HYBRID, head_dim=8, num_local_experts=4, num_experts_per_tok=2,
        rope_parameters={
            "rope_type": "yarn", "rope_theta": 150000.0, "factor": 4.0, "truncate": False,
            "original_max_position_embeddings": 16,
        },
    ),
    "qwen2": lambda: transformers.Qwen2Config(
        **{**HYBRID, "num_hidden_layers": 3}, use_sliding_window=True, max_window_layers=1
    ),
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
    weights_of_norms = 0.0 if config.model_type.startswith("gemma") else 1.0  # Gemma adds the 1
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = weights_of_norms if parameter.ndim == 1 and "weight" in name else 0.0
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


def study_rows(tmp_path: Path) -> list[dict[str, str]]:
    """The results of the study `default` of a test."""
    with (tmp_path / "outputs" / "default" / "results.csv").open() as file:
        return list(csv.DictReader(file))


def expected_nll(
    config: Any, folder: Path, files: list[Path], length: int, longest: int = 64
) -> float:
    """Mean loss of tokens 1 .. longest of each text in windows end to end, by transformers."""
    model = made(config)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    nats = []
    for path in files:
        ids = tokenizer.encode(path.read_text(), add_special_tokens=False).ids
        for first in range(0, longest, length):
            window = torch.tensor(ids[first : first + length + 1])
            with torch.no_grad():
                logits = model(window[None, :-1], use_cache=False).logits[0].double()
            nats += torch.nn.functional.cross_entropy(logits, window[1:], reduction="none").tolist()
    return sum(nats) / len(nats)
