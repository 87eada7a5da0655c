"""Tiny checkpoints of families that have no entry of their own, with what is theirs switched on."""

from typing import Any

import transformers as hf

from support.hf import LLAMA, SPECIAL, TRAINED, VOCAB

EQUAL_HEADS = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
GPT2: dict[str, Any] = {
    "vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": TRAINED,
    **SPECIAL,
}  # fmt: skip
MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
BERT: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": TRAINED,
}  # fmt: skip


def opt(**more: Any) -> Any:
    return hf.OPTConfig(
        vocab_size=VOCAB, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=TRAINED, **{**SPECIAL, "pad_token_id": 1, **more},
    )  # fmt: skip


# Families that the general path runs.
GENERAL = {
    "stablelm": lambda: hf.StableLmConfig(**LLAMA, qk_layernorm=True, use_qkv_bias=True),
    "granite": lambda: hf.GraniteConfig(
        **LLAMA, embedding_multiplier=3.0, logits_scaling=2.0, residual_multiplier=0.5,
        attention_multiplier=0.3,
    ),
    "nemotron": lambda: hf.NemotronConfig(**LLAMA),
    "phi": lambda: hf.PhiConfig(**LLAMA, qk_layernorm=True),
    "opt": lambda: opt(word_embed_proj_dim=16),
    "starcoder2": lambda: hf.Starcoder2Config(**LLAMA),
    "gpt_bigcode": lambda: hf.GPTBigCodeConfig(**GPT2),
    "gemma": lambda: hf.GemmaConfig(**LLAMA, head_dim=16),
    "cohere": lambda: hf.CohereConfig(**LLAMA, logit_scale=0.3, use_qk_norm=True),
    "olmo": lambda: hf.OlmoConfig(**LLAMA, clip_qkv=1.5),
    "glm": lambda: hf.GlmConfig(**LLAMA, head_dim=8),
    "persimmon": lambda: hf.PersimmonConfig(**EQUAL_HEADS),
    "biogpt": lambda: hf.BioGptConfig(**{**EQUAL_HEADS, "pad_token_id": 1}),
    "mixtral": lambda: hf.MixtralConfig(**LLAMA, **MOE),
    "olmoe": lambda: hf.OlmoeConfig(**LLAMA, num_experts=4, num_experts_per_tok=2),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(
        **LLAMA, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    ),
}  # fmt: skip

# Those of them with a window of 7 in the first layer and everything in the second.
LOCAL_GLOBAL = {"sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]}
LAYERED = {
    "exaone4": lambda: hf.Exaone4Config(**LLAMA, **LOCAL_GLOBAL),
    "afmoe": lambda: hf.AfmoeConfig(
        **LLAMA,
        **LOCAL_GLOBAL,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        num_shared_experts=1,
        moe_intermediate_size=16,
        num_dense_layers=1,
    ),
}

# Families that are refused, and why: by the class, by the trial run, by what a layer takes.
REFUSED = {
    "falcon": (lambda: hf.FalconConfig(), "does not use transformers' attention interface"),
    "gptj": (lambda: hf.GPTJConfig(), "does not use transformers' attention interface"),
    "codegen": (lambda: hf.CodeGenConfig(), "does not use transformers' attention interface"),
    "mamba": (lambda: hf.MambaConfig(), "does not use transformers' attention interface"),
    "falcon_h1": (lambda: hf.FalconH1Config(), "it has recurrent layers"),
    "jamba": (lambda: hf.JambaConfig(), "it has recurrent layers"),
    "lfm2": (
        lambda: hf.Lfm2Config(**LLAMA, layer_types=["full_attention", "conv"]),
        "2 layers make 1 calls of transformers' attention interface from 1 modules",
    ),
    "diffllama": (lambda: hf.DiffLlamaConfig(**LLAMA), "2 layers make 4 calls"),
    "vaultgemma": (
        lambda: hf.VaultGemmaConfig(**LLAMA, head_dim=8),
        "attention of layer 1 takes softcap=50.0",
    ),
    "granite_swa": (lambda: hf.GraniteSWAConfig(), "attention of layer 1 takes s_aux=a tensor"),
    "deepseek_v3": (
        lambda: hf.DeepseekV3Config(), "values of width 128, queries of 192"
    ),
    "bert": (lambda: hf.BertConfig(**BERT), "its mask is none that lexp knows"),
    "llama4_text": (lambda: hf.Llama4TextConfig(), "see their own chunk of keys alone (chu"),
    "phimoe": (
        lambda: hf.PhimoeConfig(**LLAMA, rope_parameters={
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4,
            "short_mscale": 1.0, "long_mscale": 1.0,
            "long_factor": [2.0] * 4, "original_max_position_embeddings": 16}),
        "rope_type 'longrope' changes with the length",
    ),
    "bart": (lambda: hf.BartConfig(is_encoder_decoder=True), "takes no positions"),
    "gemma4": (lambda: hf.Gemma4Config(), "it is made of several models"),
}  # fmt: skip
