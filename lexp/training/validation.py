"""Validation while training: perplexity of texts, or exact match of a task, at several lengths."""

import contextlib
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol as Interface

import numpy as np
import torch

from lexp.attention import make_attend
from lexp.data import Tokens
from lexp.data.tasks.dataset import TaskDataset, held_out_examples
from lexp.data.tasks.rows import TaskRows, make_rows
from lexp.model.transformer import Transformer
from lexp.pattern import Pattern
from lexp.scoring.answers import score_answers
from lexp.scoring.losses import perplexity
from lexp.scoring.protocol import Protocol, Span
from lexp.training.objective import Objective

# A validation of a task asks at most so many problems of each length.
MOST_EXAMPLES = 128


class Validation(Interface):
    """What a training run measures at intervals."""

    def measure(
        self, model: Transformer, pattern: Pattern, autocast: AbstractContextManager
    ) -> dict[str, float]:
        """Return the numbers of a model in evaluation mode, by name as metrics.jsonl has them."""
        ...

    def in_words(self, values: Mapping[str, float]) -> str:
        """Return the numbers as the console shows them."""
        ...


@dataclass(frozen=True)
class TextValidation:
    """The validation loss of a text at 1x, 2x and 4x the trained length, the same tokens at each.

    spans: what is scored, see `validation_spans`.
    """

    objective: Objective
    tokens: Tokens
    spans: tuple[Span, ...]
    train_len: int

    def measure(
        self, model: Transformer, pattern: Pattern, autocast: AbstractContextManager
    ) -> dict[str, float]:
        """Return nll@LENGTH in nats per token."""
        protocol, values = self.objective.protocol, {}
        scorer = self.objective.scorer(model, pattern, autocast, protocol)
        for length in (self.train_len, 2 * self.train_len, 4 * self.train_len):
            if length > self.spans[0].n_tokens or is_beyond(model, length):
                continue
            windows = [w for span in self.spans for w in protocol.windows(span, length)]
            nats = scorer.score(self.tokens, windows)
            values[f"nll@{length}"] = float(nats.mean(dtype=np.float64))
        return values

    def in_words(self, values: Mapping[str, float]) -> str:
        """Return perplexities by length."""
        by_length = ", ".join(f"{perplexity(v):.2f} at {k[4:]}" for k, v in values.items())
        return f"validation perplexity {by_length}"


@dataclass(frozen=True)
class TaskValidation:
    """The exact match of a task at half, once and twice the longest trained problem length.

    rows: by problem length; none of them is trained on, where a length has enough problems.
    """

    rows: Mapping[int, TaskRows]

    @classmethod
    def of(cls, dataset: TaskDataset, max_tokens: int, seed: int) -> "TaskValidation":
        """Draw the problems: about max_tokens tokens of each length."""
        task, longest = dataset.task, dataset.max_length
        rows = {}
        for length in sorted({max(task.shortest, longest // 2), longest, 2 * longest}):
            with contextlib.suppress(ValueError):  # a length that no problem has
                n_tokens = dataset.row_len(length)
                n = max(1, min(MOST_EXAMPLES, max_tokens // n_tokens))
                rows[length] = make_rows(held_out_examples(task, length, n, seed), n_tokens + 1)
        return cls(rows)

    def measure(
        self, model: Transformer, pattern: Pattern, autocast: AbstractContextManager
    ) -> dict[str, float]:
        """Return exact_match@LENGTH, the share of answers that are right in every token."""
        device, values = next(model.parameters()).device, {}
        for length, rows in self.rows.items():
            row_len = rows.tokens.shape[1] - 1
            if is_beyond(model, row_len):
                continue
            with torch.inference_mode():
                attend = make_attend(pattern, row_len, model.schemes, device)
            scores = score_answers(model, rows, attend, autocast)
            values[f"exact_match@{length}"] = float(scores.exact.mean())
        return values

    def in_words(self, values: Mapping[str, float]) -> str:
        """Return shares by problem length."""
        by_length = ", ".join(f"{100 * v:.0f} % at {k[12:]}" for k, v in values.items())
        return f"validation exact match by problem length: {by_length}"


def is_beyond(model: Transformer, length: int) -> bool:
    """Return True if the model's scheme ends before a length."""
    return model.position.max_len is not None and length > model.position.max_len


def validation_spans(
    protocol: Protocol, validation: Tokens, train_len: int, max_tokens: int
) -> tuple[Span, ...]:
    """Return what validations score: 4x, 2x or 1x train_len tokens, as the documents allow.

    DataError if no document has train_len tokens.
    """
    longest = int(validation.lengths.max(initial=0)) - 1
    multiple = max([m for m in (1, 2, 4) if m * train_len <= longest], default=1)
    return protocol.spans(validation, [multiple * train_len], max_tokens)


def as_json(values: Mapping[str, float]) -> dict[str, float | str]:
    """Return numbers that are not finite as text: JSON has no other sign for them."""
    return {key: value if math.isfinite(value) else str(value) for key, value in values.items()}
