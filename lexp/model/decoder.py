"""A text that is read piece by piece: what each layer keeps, and where the next token stands."""

from collections.abc import Callable

import torch
from torch import Tensor

from lexp.attention import CachedAttention
from lexp.model.mixer import START
from lexp.model.transformer import Block, Transformer
from lexp.pattern import Pattern
from lexp.system.errors import NotDefined

# Tokens that are read at once, at most.
ROWS = 1 << 12


class Decoder:
    """A model that reads a text from left to right and has read its beginning.

    It computes what the model computes of a text of seq_len tokens, whose pattern and schemes it
    gets (lexp.attention.cached); layers with a recurrent mixer carry their state. NotDefined for
    models that need all of a text at once.
    """

    def __init__(self, model: Transformer, pattern: Pattern, seq_len: int):
        if pattern.two_sided:
            raise NotDefined("a bidirectional model does not say how a text goes on")
        if type(model).hidden is not Transformer.hidden:
            raise NotDefined(f"{model.title} is run as a whole by transformers, without a cache")
        self.model, self.seq_len, self.n_read = model, seq_len, 0
        layers = range(len(model.blocks))
        turns = pattern.turns
        self.caches = [CachedAttention(turns[n % len(turns)], seq_len) for n in layers]
        self.states = [START for _ in layers]
        self.sampled = model.position.sample_positions(seq_len)
        device = next(model.parameters()).device
        self.sampled = self.sampled if self.sampled is None else self.sampled.to(device)
        self.tokens = torch.empty(0)

    def read(self, tokens: Tensor) -> Tensor:
        """Return final normed hidden states [B, T, d_model] of the next token ids [B, T]."""
        return torch.cat([self._read(rows) for rows in tokens.split(ROWS, dim=1)], dim=1)

    def read_last(
        self, tokens: Tensor, tell: Callable[[int], None] = lambda n_read: None
    ) -> Tensor:
        """Return the final normed hidden state [B, d_model] of the last of the next tokens.

        Memory holds ROWS tokens of a prompt and a cache, however long it is. tell: called with the
        number of tokens read so far.
        """
        for rows in tokens.split(ROWS, dim=1):
            last = self._read(rows)[:, -1]
            tell(self.n_read)
        return last

    def _read(self, tokens: Tensor) -> Tensor:
        model, first = self.model, self.n_read
        self.n_read = first + tokens.shape[1]
        if self.n_read > self.seq_len:
            raise ValueError(f"token {self.n_read} of a text of {self.seq_len}")
        x = self._embedded(tokens, first)
        for n, block in enumerate(model.blocks):
            if isinstance(block, Block) and not block.mixer.attends:
                x, self.states[n] = block.read(x, self.states[n])
            else:
                position = model.positions[n % len(model.positions)]
                x = block(x, position, self.caches[n], self.sampled)
        return model.norm(x)

    def _embedded(self, tokens: Tensor, first: int) -> Tensor:
        """Return the embeddings of the next tokens, with their positions where a scheme adds some.

        A scheme that reads tokens gets those before them too.
        """
        model = self.model
        begin = first
        if model.position.reads_tokens:
            self.tokens = tokens if not first else torch.cat([self.tokens, tokens], dim=1)
            tokens, begin = self.tokens, 0
        indices = torch.arange(begin, self.n_read, device=tokens.device)
        positions = indices if self.sampled is None else self.sampled[begin : self.n_read]
        x = model.position.embed(model.embedding(tokens), positions, tokens)
        return x[:, first - begin :]
