"""The batches of a run: a pure function of (seed, step), so that resuming needs the step alone."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from lexp.data.reading import Batches
from lexp.data.tasks.dataset import TaskDataset
from lexp.data.tasks.rows import make_rows, pack_rows
from lexp.model.chunked_cross_entropy import IGNORED
from lexp.training.objective import Batch, Objective

# Rows of tasks are cut to multiples of this many tokens, or of more where otherwise more than
# MOST_LENGTHS lengths could occur: attention is prepared for each, and libraries keep kernels.
MULTIPLE, MOST_LENGTHS = 8, 8


class BatchSource(Protocol):
    """Where a training run takes its batches from."""

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0."""
        ...

    def in_words(self, n_tokens: int) -> list[str]:
        """Return what a run of n_tokens reads, in words: the end of a line, and lines after it."""
        ...


@dataclass(frozen=True)
class TextBatches:
    """Windows of texts, of which the objective makes inputs and targets."""

    windows: Batches
    objective: Objective
    seed: int
    vocab_size: int

    def batch(self, step: int) -> Batch:
        """Return the windows of a step as inputs and targets."""
        windows = self.windows.batch(step)
        return self.objective.make_batch(windows, step, self.seed, self.vocab_size)

    def in_words(self, n_tokens: int) -> list[str]:
        """Return the epochs, and what is to be said of the tokens."""
        windows = self.windows
        epochs = n_tokens / (windows.n_windows * windows.length)
        return [f"{epochs:.2f} epochs", *(f"  {line}" for line in windows.remarks())]


@dataclass(frozen=True)
class GrowingBatches:
    """Windows that grow: the sources of each length in turn, for equal shares of the steps.

    A batch has as many tokens at every length.
    """

    sources: tuple[TextBatches, ...]
    n_steps: int

    def batch(self, step: int) -> Batch:
        """Return the windows of a step."""
        return self.sources[step * len(self.sources) // self.n_steps].batch(step)

    def in_words(self, n_tokens: int) -> list[str]:
        """Return what there is to say of the longest windows, and the lengths before."""
        lengths = [str(source.windows.length) for source in self.sources]
        first = (
            f"  windows of {', then '.join(lengths)} tokens, each for an equal share of the steps"
        )
        epochs, *lines = self.sources[-1].in_words(n_tokens)
        return [epochs, first, *lines]


@dataclass(frozen=True)
class TaskBatches:
    """Problems of a task with their answers; a row's targets are its answer and the end token.

    Rows are padded at the right to the longest that training can have, and each micro-batch is cut
    to the longest of its own rows; rows are sorted, so that those of a micro-batch have similar
    lengths. Attention is causal, so no token of a problem sees the padding, and the padding is no
    target.
    """

    dataset: TaskDataset
    batch_size: int
    seed: int
    n_steps: int

    def batch(self, step: int) -> Batch:
        """Return inputs and targets [B, train_len] of a step, IGNORED where no answer is.

        Rows are in the order of their lengths.
        """
        examples = self.dataset.training_examples(self.seed, step, self.n_steps, self.batch_size)
        examples.sort(key=lambda example: example.n_chars)
        rows = make_rows(examples, self.dataset.train_len + 1)
        is_target = rows.is_answer[:, 1:]
        targets = rows.tokens[:, 1:].masked_fill(~is_target, IGNORED)
        # The last input of a row is its last character: the end token is a target alone.
        row_lens = torch.tensor([example.n_chars for example in examples])
        multiple = MULTIPLE * math.ceil(self.dataset.train_len / MOST_LENGTHS / MULTIPLE)
        return Batch((rows.tokens[:, :-1], targets), int(is_target.sum()), row_lens, multiple)

    def in_words(self, n_tokens: int) -> list[str]:
        """Return the number of problems and their lengths."""
        n_problems = self.n_steps * self.batch_size
        task, longest = self.dataset.task, self.dataset.max_length
        return [f"{n_problems} problems of lengths {task.shortest} to {longest}"]


@dataclass(frozen=True)
class PackedTaskBatches(TaskBatches):
    """The same problems with several in a row, each as if it stood alone.

    Attention is kept within a problem and positions count from its first token, so a step has the
    loss of the padded rows. n_parts: the rows of a batch are divided into so many equal parts.
    """

    n_parts: int = 1

    def batch(self, step: int) -> Batch:
        """Return inputs and targets [B, train_len] of a step, where B is a multiple of n_parts."""
        examples = self.dataset.training_examples(self.seed, step, self.n_steps, self.batch_size)
        rows = pack_rows(examples, self.dataset.train_len, self.n_parts)
        targets = rows.following.masked_fill(~rows.is_answer, IGNORED)
        return Batch((rows.inputs, targets), int(rows.is_answer.sum()), starts=rows.starts)

    def in_words(self, n_tokens: int) -> list[str]:
        """Return the number of problems and their lengths, and that they share rows."""
        first, *lines = super().in_words(n_tokens)
        return [f"{first}, packed into fewer rows", *lines]
