"""The text of tokens that come one by one."""

from lexp.data.tokenizer import Tokenizer

# What a decoder shows of bytes that are no UTF-8, such as the first of a character.
UNKNOWN = "\ufffd"
# Tokens before the first one: some vocabularies write the first word of a text without its space.
CONTEXT = 8
# The most bytes, and so tokens, that one character has.
LONGEST = 4


class TextStream:
    """A decoder of tokens, which holds back the beginning of a character of several tokens.

    prompt: ids of the text before. The time of a token does not depend on how many came before.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: list[int]):
        self._tokenizer = tokenizer
        self._shown, self._held = prompt[-CONTEXT:], list[int]()

    def push(self, token: int) -> str:
        """Return the text that is complete with this token; "" while it is not."""
        self._held.append(token)
        text = self._text(len(self._held))
        if not text.endswith(UNKNOWN):
            return self._take(len(self._held))
        return self._take(1) if len(self._held) == LONGEST else ""  # the first begins no character

    def finish(self) -> str:
        """Return what was held back."""
        return self._take(len(self._held))

    def _text(self, n: int) -> str:
        """Return the text of the first n tokens that are held back."""
        before, whole = self._tokenizer.decode([self._shown, self._shown + self._held[:n]])
        return whole[len(before) :]

    def _take(self, n: int) -> str:
        text = self._text(n)
        self._shown = (self._shown + self._held[:n])[-CONTEXT:]
        self._held = self._held[n:]
        return text
