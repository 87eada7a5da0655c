"""Requests about texts, as lm-evaluation-harness makes them, answered from a model's likelihoods.

A continuation's log-likelihood given a context, a whole text's, and the greedy continuation of a
context. A text longer than the length loses its beginning; a whole text is cut into windows of the
length, each token being predicted once, with one token of the window before as context.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from lexp.attention import Attend, MakeAttend, make_attend
from lexp.data.tokenizer import Tokenizer
from lexp.model.decoder import Decoder
from lexp.model.transformer import Transformer
from lexp.pattern import Pattern
from lexp.scoring.scorer import Partial
from lexp.system.errors import NotDefined

# What is computed: likelihoods of continuations and of windows of whole texts, and greedy texts.
CONTINUATIONS, WINDOWS, TEXTS = KINDS = ("continuations", "windows", "texts")
# Tokens in one forward pass.
BATCH_TOKENS = 16384
# Rows are filled up to a multiple of this, so that most texts share a pass with others. What
# follows a token changes nothing for a causal model.
ROUND = 32


@dataclass(frozen=True)
class Continuation:
    """Asks for log p(text | context), and whether the text is the greedy continuation."""

    context: str
    text: str


@dataclass(frozen=True)
class WholeText:
    """Asks for log p(text)."""

    text: str


@dataclass(frozen=True)
class Completion:
    """Asks for the greedy continuation, up to the first of some strings or so many tokens."""

    context: str
    until: tuple[str, ...]
    max_tokens: int


Request = Continuation | WholeText | Completion


@dataclass(frozen=True)
class Likelihood:
    """The answer to a Continuation or a WholeText. greedy: each token is the likeliest one."""

    log_prob: float
    greedy: bool


Response = Likelihood | str


class TokenPair(NamedTuple):
    """Tokens whose likelihood is asked for, and those before them, at least one."""

    context: list[int]
    target: list[int]


@dataclass(frozen=True)
class ReadRow:
    """A text that is read once, and the targets at its end that are asked for: (request, ids)."""

    tokens: tuple[int, ...]
    targets: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class RequestScorer:
    """A model that answers requests.

    prepare: returns the model and its pattern for texts of so many tokens. length: tokens read at
    most. is_exact: rows must not be filled up, as the model depends on the length of the text.
    autocast: the precision. advance: told of requests that are answered. partial: returns where the
    numbers of a kind are kept between starts, by the kind and their count; of likelihoods they are
    float64, of texts int32.
    """

    prepare: Callable[[int], tuple[Transformer, Pattern]]
    tokenizer: Tokenizer
    length: int
    is_exact: bool
    autocast: AbstractContextManager
    advance: Callable[[int], None] = lambda n_requests: None
    make_attend: MakeAttend = make_attend
    batch_tokens: int = BATCH_TOKENS
    partial: Callable[[str, int], Partial] | None = None

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Return the answer to each request; NotDefined if one cannot be asked at this length."""
        answers: dict[int, Response] = {}
        by_kind: dict[type, list[int]] = {}
        for n, request in enumerate(requests):
            by_kind.setdefault(type(request), []).append(n)
        continuations = by_kind.get(Continuation, [])
        pairs = self._pairs([requests[n] for n in continuations])  # type: ignore[misc]
        answers |= dict(zip(continuations, self._likelihoods(pairs, CONTINUATIONS), strict=True))
        of_texts = by_kind.get(WholeText, [])
        wholes = self._wholes([requests[n].text for n in of_texts])  # type: ignore[union-attr]
        answers |= dict(zip(of_texts, wholes, strict=True))
        completions = by_kind.get(Completion, [])
        texts = self._complete([requests[n] for n in completions])  # type: ignore[misc]
        answers |= dict(zip(completions, texts, strict=True))
        return [answers[n] for n in range(len(requests))]

    @cached_property
    def first(self) -> int:
        """Return the token that stands before a text that has nothing before it."""
        if self.tokenizer.begin:
            return self.tokenizer.begin[0]
        if self.tokenizer.end is None:
            raise NotDefined("the tokenizer has no token that begins or ends a text")
        return self.tokenizer.end

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Return ids, with what the vocabulary puts before a text."""
        begin = list(self.tokenizer.begin)
        return [begin + row.ids.tolist() for row in self.tokenizer.encode(texts)]

    def _pairs(self, requests: Sequence[Continuation]) -> list[TokenPair]:
        """Cut contexts and continuations; white space at a context's end goes to what follows it.

        Both are cut as one text, of which the continuation has what the context alone has not.
        """
        bare = [request.context.rstrip() for request in requests]
        # Of a context that is all white space nothing would be left.
        contexts = [b or request.context for b, request in zip(bare, requests, strict=True)]
        wholes = self._encode([request.context + request.text for request in requests])
        distinct = list(dict.fromkeys(contexts))
        ids = dict(zip(distinct, self._encode(distinct), strict=True))
        pairs = []
        for request, context, whole in zip(requests, contexts, wholes, strict=True):
            before = ids[context]
            if not request.context:
                target = whole[len(self.tokenizer.begin) :]
                pair = TokenPair([self.first], target)
                if target[:1] == [self.first]:
                    pair = TokenPair(target[:1], target[1:])
            else:
                pair = TokenPair(before or [self.first], whole[len(before) :])
            self._check(pair, request)
            pairs.append(pair)
        return pairs

    def _check(self, pair: TokenPair, request: Continuation) -> None:
        if not pair.target:
            raise NotDefined(f"the answer {request.text[:40]!r} has no token of its own")
        if len(pair.target) > self.length:
            raise NotDefined(
                f"an answer has {len(pair.target)} tokens, the length is {self.length}"
            )

    def _windows(self, text: str) -> Iterator[TokenPair]:
        """Yield windows that predict each token of a text once, the last with all the context."""
        tokens = [self.first, *self._encode([text])[0]]
        n_tokens = len(tokens) - 1
        for begin in range(0, n_tokens, self.length):
            end = min(begin + self.length, n_tokens)
            first = max(0, end - self.length)
            yield TokenPair(tokens[first : begin + 1], tokens[begin + 1 : end + 1])

    def _wholes(self, texts: list[str]) -> list[Likelihood]:
        """Return the likelihoods of texts, whose windows share passes."""
        windows = [list(self._windows(text)) for text in texts]
        quiet = replace(self, advance=lambda n_windows: None)
        of_all = [window for of_text in windows for window in of_text]
        parts = iter(quiet._likelihoods(of_all, WINDOWS))
        wholes = []
        for of_text in windows:
            own = list(itertools.islice(parts, len(of_text)))
            log_prob = sum(part.log_prob for part in own)
            wholes.append(Likelihood(log_prob, all(part.greedy for part in own)))
        self.advance(len(texts))
        return wholes

    def _rows(self, pairs: Sequence[TokenPair]) -> list[ReadRow]:
        """Return the rows to read: requests that differ in their last token alone share one."""
        targets: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
        for n, pair in enumerate(pairs):
            read = (*pair.context, *pair.target)[-self.length - 1 :][:-1]
            targets.setdefault(read, []).append((n, tuple(pair.target)))
        return [ReadRow(tokens, tuple(asked)) for tokens, asked in targets.items()]

    def _size(self, n_tokens: int) -> int:
        """Return the tokens of a row in a pass."""
        if self.is_exact:
            return n_tokens
        return min(-(-n_tokens // ROUND) * ROUND, max(self.length, n_tokens))

    def _likelihoods(self, pairs: Sequence[TokenPair], kind: str) -> list[Likelihood]:
        """Return the likelihood of each pair; an earlier start's passes are not made again."""
        by_size: dict[int, list[ReadRow]] = {}
        for row in self._rows(pairs):
            by_size.setdefault(self._size(len(row.tokens)), []).append(row)
        partial = self.partial(kind, 2 * len(pairs)) if self.partial and pairs else None
        begun = partial.load() if partial else None
        numbers, n_done = begun or (np.repeat([0.0, 1.0], len(pairs)), 0)
        log_probs, greedy = numbers.reshape(2, -1)  # greedy: 1 or 0
        n_passes = 0
        # The largest first: what runs out of memory does so at once.
        for size in sorted(by_size, reverse=True):
            rows, each = by_size[size], max(1, self.batch_tokens // size)
            model, attend = self._ready(size)
            for begin in range(0, len(rows), each):
                batch = rows[begin : begin + each]
                n_passes += 1
                if n_passes > n_done:
                    request, log_prob, likeliest = self._pass(model, attend, batch, size)
                    np.add.at(log_probs, request, log_prob)
                    np.minimum.at(greedy, request, likeliest.astype(float))
                    if partial:
                        partial.save(numbers, n_passes)
                self.advance(sum(len(row.targets) for row in batch))
        return [Likelihood(float(x), bool(g)) for x, g in zip(log_probs, greedy, strict=True)]

    def _ready(self, size: int) -> tuple[Transformer, Attend]:
        """Return the model and attention for rows of so many tokens."""
        model, pattern = self.prepare(size)
        device = next(model.parameters()).device
        return model, self.make_attend(pattern, size, model.schemes, device)

    def _pass(
        self, model: Transformer, attend: Attend, rows: Sequence[ReadRow], size: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the request of each target token, its log-likelihood, and if it is likeliest.

        Arrays [N].
        """
        asked = [
            (n, len(row.tokens) - len(ids) + k, request, token)
            for n, row in enumerate(rows)
            for request, ids in row.targets
            for k, token in enumerate(ids)
        ]
        row_of, place, request, target = (np.array(column) for column in zip(*asked, strict=True))
        hidden = self._hidden(model, attend, [row.tokens for row in rows], size)
        log_prob, likeliest = [], []
        n_at_once = max(1, model.max_logits // model.head.out_features)
        for begin in range(0, len(target), n_at_once):
            piece = slice(begin, begin + n_at_once)
            log_probs = self._logits(model, hidden, row_of[piece], place[piece]).log_softmax(-1)
            wanted = torch.from_numpy(target[piece]).to(log_probs.device)
            log_prob.append(log_probs.gather(1, wanted[:, None])[:, 0].double().cpu().numpy())
            likeliest.append((log_probs.argmax(-1) == wanted).cpu().numpy())
        return request, np.concatenate(log_prob), np.concatenate(likeliest)

    def _hidden(
        self, model: Transformer, attend: Attend, rows: Sequence[Sequence[int]], size: int
    ) -> torch.Tensor:
        """Return hidden states [n, size, d_model] of rows, filled up at their ends."""
        tokens: np.ndarray = np.zeros((len(rows), size), dtype=np.int64)
        for n, row in enumerate(rows):
            tokens[n, : len(row)] = row
        device = next(model.parameters()).device
        with torch.inference_mode(), self.autocast:
            return model.hidden(torch.from_numpy(tokens).to(device), attend)

    def _logits(
        self, model: Transformer, hidden: torch.Tensor, row: np.ndarray, place: np.ndarray
    ) -> torch.Tensor:
        """Return logits [N, V] at places of rows, the head in its full precision."""
        at = hidden[torch.from_numpy(row), torch.from_numpy(place)]
        with torch.inference_mode():
            return model.head(at.to(model.head.weight.dtype)).float()

    def _complete(self, requests: Sequence[Completion]) -> list[str]:
        """Return greedy continuations, cut before the first string that ends them."""
        contexts = self._encode([request.context for request in requests])
        begun = []
        for request, context in zip(requests, contexts, strict=True):
            room = self.length - request.max_tokens
            if room < 1:
                raise NotDefined(
                    f"{request.max_tokens} new tokens leave no room for the text before them, the "
                    f"length is {self.length}"
                )
            begun.append((context or [self.first])[-room:])
        alike: dict[tuple[int, int], list[int]] = {}
        for n, (context, request) in enumerate(zip(begun, requests, strict=True)):
            alike.setdefault((len(context), request.max_tokens), []).append(n)
        # The new tokens of all requests in a row, and where each request's end; -1: no token.
        ends = np.cumsum([request.max_tokens for request in requests], dtype=np.int64)
        n_tokens = int(ends[-1]) if requests else 0
        partial = self.partial(TEXTS, n_tokens) if self.partial and requests else None
        earlier = partial.load() if partial else None
        new, n_done = earlier or (np.full(n_tokens, -1, dtype=np.int32), 0)
        n_batches = 0
        for n_context, n_new in sorted(alike, reverse=True):
            same, size = alike[n_context, n_new], n_context + n_new
            each = max(1, self.batch_tokens // size)
            for begin in range(0, len(same), each):
                batch = same[begin : begin + each]
                n_batches += 1
                if n_batches > n_done:
                    asked = [requests[n] for n in batch]
                    grown = self._grow([begun[n] for n in batch], asked, size)
                    for n, tokens in zip(batch, grown, strict=True):
                        first = ends[n] - n_new
                        new[first : first + len(tokens)] = tokens
                    if partial:
                        partial.save(new, n_batches)
                self.advance(len(batch))
        of_requests = np.split(new, ends[:-1]) if requests else []
        return [
            self._text(tokens[tokens >= 0].tolist(), request)
            for tokens, request in zip(of_requests, requests, strict=True)
        ]

    def _grow(
        self, contexts: list[list[int]], requests: Sequence[Completion], size: int
    ) -> list[list[int]]:
        """Return the new tokens of contexts of one length, in a text of `size` tokens."""
        model, pattern = self.prepare(size)
        read = self._reader(model, pattern, size)
        rows = [list(context) for context in contexts]
        n_context = len(contexts[0])
        ended: dict[int, list[int]] = {}
        while len(ended) < len(rows):
            last = read(rows)
            with torch.inference_mode():
                # In its full precision: in bfloat16 the likeliest tokens would often tie.
                logits = model.head(last.to(model.head.weight.dtype))
            for n, token in enumerate(logits.argmax(-1).tolist()):
                rows[n].append(token)
                if n not in ended and self._is_over(rows[n][n_context:], requests[n]):
                    ended[n] = rows[n][n_context:]
        return [ended[n] for n in range(len(rows))]

    def _reader(
        self, model: Transformer, pattern: Pattern, size: int
    ) -> Callable[[list[list[int]]], torch.Tensor]:
        """Return what reads rows of one length, each time longer, in a text of `size` tokens.

        It returns the hidden states of their last tokens [n, d_model]. Keys of what was read are
        kept, but for models that need all of a text at once.
        """
        device = next(model.parameters()).device
        try:
            decoder = Decoder(model, pattern, size)
        except NotDefined:

            def read(rows: list[list[int]]) -> torch.Tensor:
                n_tokens = len(rows[0])
                attend = self.make_attend(pattern, n_tokens, model.schemes, device)
                return self._hidden(model, attend, rows, n_tokens)[:, -1]

            return read

        def read_new(rows: list[list[int]]) -> torch.Tensor:
            new = torch.tensor([row[decoder.n_read :] for row in rows], device=device)
            with torch.inference_mode(), self.autocast:
                return decoder.read_last(new)

        return read_new

    def _is_over(self, tokens: list[int], request: Completion) -> bool:
        if tokens[-1] == self.tokenizer.end or len(tokens) >= request.max_tokens:
            return True
        (text,) = self.tokenizer.decode([tokens])
        return any(stop in text for stop in request.until)

    def _text(self, tokens: list[int], request: Completion) -> str:
        """Return the text of new tokens up to what ends it."""
        ended = tokens[:-1] if tokens[-1] == self.tokenizer.end else tokens
        (text,) = self.tokenizer.decode([ended])
        for stop in request.until:
            text = text.split(stop)[0]
        return text
