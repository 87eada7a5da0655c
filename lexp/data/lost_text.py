"""How much of a text its tokens cannot give back: bits per byte compares only what loses nothing.

A vocabulary loses unknown characters, and what its normaliser changes: case, accents, white space.
The bytes of such text are counted, and nobody had to predict them.
"""

import json
from collections import Counter
from typing import Any

# Lost bytes cost at most 8 bits each: this share does not show in two decimals of bits per byte.
MOST_LOST = 5e-4


class TextRestorer:
    """Decoder of a vocabulary, to compare what tokens give back with the text.

    fast: a `tokenizers.Tokenizer`; it gets a decoder if it has none. json_text: its JSON.
    """

    def __init__(self, fast: Any, json_text: str):
        from tokenizers import decoders

        self._fast = fast
        settings = json.loads(json_text)
        self._unknown = _unknown_id(fast, settings["model"])
        self._is_fused_too = False
        if settings.get("decoder") is None:
            decoder = _decoder_of(settings)
            self._is_fused_too = decoder is None
            fast.decoder = decoder or decoders.Fuse()

    def count_lost(self, texts: list[str], ids: list[list[int]]) -> list[int]:
        """Return the bytes of each text that its tokens cannot give back."""
        known = [[i for i in row if i != self._unknown] for row in ids]
        given = self._fast.decode_batch(known, skip_special_tokens=False)
        lost = [lost_bytes(text, back) for text, back in zip(texts, given, strict=True)]
        if self._is_fused_too and any(lost):  # words that were cut at spaces
            spaced = (" ".join(map(self._fast.id_to_token, row)) for row in known)
            again = (lost_bytes(text, back) for text, back in zip(texts, spaced, strict=True))
            lost = [min(pair) for pair in zip(lost, again, strict=True)]
        return lost


def lost_bytes(text: str, given_back: str) -> int:
    """Return how many bytes at least tell a text from what its tokens give back; at most all.

    Characters are counted, not aligned: time is linear. A space that the tokenizer puts before a
    text is no loss.
    """
    if given_back == text or given_back == " " + text:
        return 0
    ours, theirs = Counter(text), Counter(given_back)
    missing, surplus = _n_bytes(ours - theirs), _n_bytes(theirs - ours)
    return min(max(missing, surplus, 1), _n_bytes(ours))


def _n_bytes(characters: Counter[str]) -> int:
    return sum(len(c.encode(errors="replace")) * n for c, n in characters.items())


def _unknown_id(fast: Any, model: dict[str, Any]) -> int | None:
    if model.get("unk_token") is not None:
        return fast.token_to_id(model["unk_token"])
    return model.get("unk_id")


def _decoder_of(settings: dict[str, Any]) -> Any:
    """Return the decoder that belongs to a tokenizer without one; None if nothing says which."""
    from tokenizers import decoders

    model, splitter = settings["model"], settings.get("pre_tokenizer") or {}
    for part in [splitter, *splitter.get("pretokenizers", [])]:
        if part.get("type") == "ByteLevel":
            return decoders.ByteLevel()
        if part.get("type") == "Metaspace":
            return decoders.Metaspace(part["replacement"], part.get("prepend_scheme", "always"))
    if model.get("type") == "WordPiece":
        return decoders.WordPiece(model["continuing_subword_prefix"], cleanup=False)
    if model.get("end_of_word_suffix"):
        return decoders.BPEDecoder(model["end_of_word_suffix"])
    return None
