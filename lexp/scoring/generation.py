"""Generation: the tokens that a model continues a text with."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from lexp.data.text_stream import TextStream
from lexp.data.tokenizer import Tokenizer
from lexp.model.decoder import Decoder
from lexp.system.errors import Diverged


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen of the predicted ones.

    temperature: logits are divided by it; 0 takes the likeliest token. top_p: tokens are drawn from
    the fewest likeliest ones whose probabilities add up to at least so much (nucleus sampling,
    Holtzman et al. 2020, arXiv 1904.09751).
    """

    temperature: float = 0.0
    top_p: float = 1.0

    def choose(self, logits: Tensor, generator: torch.Generator) -> int:
        """Return one token by its logits [V]."""
        if self.temperature == 0:
            return int(logits.argmax())
        probabilities = (logits.double().cpu() / self.temperature).softmax(-1)
        sorted_, ids = probabilities.sort(descending=True, stable=True)
        before = sorted_.cumsum(-1) - sorted_
        kept = sorted_.masked_fill(before >= self.top_p, 0)
        return int(ids[torch.multinomial(kept, 1, generator=generator)])


def generate(
    decoder: Decoder,
    prompt: Tensor,
    sampling: Sampling,
    generator: torch.Generator,
    vocab_size: int,
    end: int | None,
    autocast: AbstractContextManager,
    tell: Callable[[int], None] = lambda n_read: None,
) -> Iterator[int]:
    """Yield the tokens after a prompt, up to the end of the decoder's text.

    prompt [n]: token ids. vocab_size: ids beyond it stand for no text. end: a token that ends the
    text, and is not yielded. tell: called with the number of tokens read so far. Diverged if a
    logit is not finite.
    """
    head = decoder.model.head
    new = prompt
    while True:
        with torch.inference_mode():
            with autocast:
                hidden = decoder.read_last(new[None], tell)
            # Outside of autocast: in bfloat16 the likeliest tokens would often tie.
            logits = head(hidden.to(head.weight.dtype))[0, :vocab_size]
        if not logits.isfinite().all():
            raise Diverged(
                f"the prediction after {decoder.n_read} tokens is not finite; use "
                "precision=float32, or a shorter text"
            )
        token = sampling.choose(logits, generator)
        if token == end:
            return
        yield token
        if decoder.n_read + 1 >= decoder.seq_len:
            return
        new = torch.tensor([token], device=prompt.device)


def greedy_text(
    decoder: Decoder, prompt: list[int], tokenizer: Tokenizer, autocast: AbstractContextManager
) -> str:
    """Return the greedy continuation of a prompt's ids, up to the end of the decoder's text."""
    device = next(decoder.model.parameters()).device
    ids = torch.tensor(prompt, device=device)
    new = generate(
        decoder, ids, Sampling(), torch.Generator(), tokenizer.vocab_size, tokenizer.end, autocast
    )
    stream = TextStream(tokenizer, prompt)
    return "".join(map(stream.push, new)) + stream.finish()
