"""Cuts of a long text at which its tokens cannot change, so that memory does not grow with it.

The regular expressions by which byte-level vocabularies part text into words match no space after
another character, look at no character behind a match, and ahead for white space alone. So a word
ends before a space that follows a character which is no white space, and on either side of it
words are those of the whole text.
"""

import re
from collections.abc import Iterator
from typing import Any

# So many characters and more, to the next such space.
PIECE_CHARACTERS = 1 << 17
SPACE = re.compile(r"(?<=[\w!-~]) ")
# The expressions of Llama 3 and of Qwen 2 and 3; that of GPT-2 is the one of ByteLevel.
PATTERNS = tuple(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + digits
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in ("{1,3}", "")
)  # fmt: skip


def pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces; a text without spaces as a whole."""
    first = 0
    while cut := SPACE.search(text, first + PIECE_CHARACTERS):
        yield text[first : cut.start()]
        first = cut.start()
    yield text[first:]


def cuts_at_spaces(settings: dict[str, Any]) -> bool:
    """Return whether a tokenizer surely parts words as `pieces` does. settings: its JSON.

    A normaliser that composes characters leaves spaces alone; added tokens must neither hold white
    space nor take any from beside them.
    """
    added = settings.get("added_tokens") or []
    return (
        settings["model"].get("type") == "BPE"
        and (settings.get("normalizer") or {"type": "NFC"}) == {"type": "NFC"}
        and not any(
            one["lstrip"] or one["rstrip"] or one["single_word"] or re.search(r"\s", one["content"])
            for one in added
        )
        and _is_known(settings.get("pre_tokenizer") or {})
    )


def _is_known(splitter: dict[str, Any]) -> bool:
    parts = splitter.get("pretokenizers") or [splitter]
    *first, last = [part.get("type") for part in parts]
    if last != "ByteLevel" or parts[-1]["add_prefix_space"]:
        return False
    if parts[-1].get("use_regex", True):
        return first in ([], ["Digits"])
    return first == ["Split"] and (
        parts[0]["pattern"].get("Regex") in PATTERNS
        and (parts[0]["behavior"], parts[0]["invert"]) == ("Isolated", False)
    )
