"""Answers to examples, scored in one pass: is every token of an answer the likeliest one?

A model's greedy answer is the right one, end token included, if and only if under teacher forcing
every token of the right answer is the argmax: up to the first that is not, both have read the same
tokens. So nothing has to be generated.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch

from lexp.attention import Attend
from lexp.data.tasks.rows import TaskRows
from lexp.model.transformer import Transformer

# Tokens in one forward pass.
BATCH_TOKENS = 16384


@dataclass(frozen=True)
class AnswerScores:
    """Scores of N answer tokens of n examples, end tokens included, in order.

    example [N]: whose token it is. place [N]: its place in its answer, from 0. right [N]: whether
    it is the likeliest token; of equally likely ones none is. nats [N]: minus its log-likelihood.
    """

    example: np.ndarray
    place: np.ndarray
    right: np.ndarray
    nats: np.ndarray

    @property
    def exact(self) -> np.ndarray:
        """Return which examples are answered right in every token, bool [n]."""
        return np.bincount(self.example, ~self.right) == 0


def score_answers(
    model: Transformer,
    rows: TaskRows,
    attend: Attend,
    autocast: AbstractContextManager,
    advance: Callable[[int], None] = lambda n_tokens: None,
) -> AnswerScores:
    """Score the answers of rows [n, T + 1]; attend is prepared for T. advance: told of tokens."""
    n_rows, row_len = rows.tokens.shape
    per_batch = max(1, BATCH_TOKENS // row_len)
    device = next(model.parameters()).device
    right, nats = [], []
    for first in range(0, n_rows, per_batch):
        tokens = rows.tokens[first : first + per_batch].to(device)
        chosen = rows.is_answer[first : first + per_batch, 1:].to(device)
        with torch.inference_mode():
            with autocast:
                logits = model.logits_at(tokens[:, :-1], chosen, attend).double()
            targets = tokens[:, 1:][chosen]
            wanted = logits.gather(1, targets[:, None])
            right.append(((logits >= wanted).sum(1) == 1).cpu().numpy())
            nats.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none").cpu())
        advance(tokens[:, :-1].numel())
    example, place = np.nonzero(rows.is_answer.numpy())
    starts = np.searchsorted(example, np.arange(n_rows))
    return AnswerScores(
        example=example,
        place=place - place[starts][example],
        right=np.concatenate(right),
        nats=torch.cat(nats).numpy(),
    )
