"""The byte tokenizer as a tokenizer.json of the `tokenizers` library: byte b is token b.

Byte-level BPE without merges. The library writes a byte as a character (Radford et al. 2019,
GPT-2): itself where Latin-1 prints it, else the next character from U+0100 on.
"""

import json
from typing import Any

PRINTED = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}


def byte_characters() -> list[str]:
    """Return the character of each byte."""
    others = [byte for byte in range(256) if byte not in PRINTED]
    return [chr(b) if b in PRINTED else chr(256 + others.index(b)) for b in range(256)]


def byte_json() -> str:
    """Return the JSON of the vocabulary; the same at every call."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    vocabulary = {character: byte for byte, character in enumerate(byte_characters())}
    settings: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": False},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": False},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    return json.dumps(settings, indent=1) + "\n"
