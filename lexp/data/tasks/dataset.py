"""A task as a data set: which problems are trained on, and which are only tested.

Problems are drawn while they are needed, as a pure function of seed and step; nothing is stored.
A problem belongs to the test if the hash of what it asks says so, one in sixteen: whatever its
format, so that no sum is tested that was trained on with other hints, or the other way round.
Where a length has too few problems to divide them, training and test share them.
"""

import contextlib
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.random import Generator

from lexp.data.dataset import Dataset
from lexp.data.tasks.base import Example, Length, Task
from lexp.system.errors import DataError
from lexp.system.files import digest
from lexp.system.user_code import code_digest

Part = Literal["train", "test"]
# Raised whenever other problems are drawn for the same settings.
VERSION = 2
# One problem in so many is tested and never trained on.
TEST_SHARE = 16
# Draws before it is clear that a task has no problem of the part that is asked for.
TRIES = 1000


@dataclass(frozen=True)
class TaskDataset(Dataset):
    """Problems of lengths 1 to max_length for training, and of any length for tests.

    draw: how lengths are drawn, see `DRAWS`. prime_length: a length beyond max_length of which
    prime_examples problems occur in training too, one row in each batch (Jelassi et al. 2023, arXiv
    2306.15400, section 5). tokens, batch_tokens, lr, final, matrices: of training, unless the run
    has others.
    """

    task: Task
    max_length: int = 20
    draw: str = "uniform"
    prime_length: int | None = None
    prime_examples: int = 50
    tokens: float | None = None
    batch_tokens: int | None = None
    lr: float | None = None
    final: float | None = None
    matrices: str | None = None

    def __post_init__(self) -> None:
        longest = max(self.max_length, self.prime_length or 0)
        self.task.refuse_too_long(longest)
        if self.draw not in DRAWS:
            raise ValueError(f"draw={self.draw} (one of {', '.join(DRAWS)})")
        if self.max_length < self.task.shortest:
            raise ValueError(
                f"max_length={self.max_length} (at least {self.task.shortest}: "
                f"{self.task.name} has no shorter problem)"
            )
        if self.prime_length is not None and self.prime_length <= self.max_length:
            raise ValueError(
                f"prime_length={self.prime_length} (more than max_length={self.max_length})"
            )
        if self.prime_examples < 1:
            raise ValueError(f"prime_examples={self.prime_examples} (at least 1)")
        # Tasks of which some lengths have no problem run out of them early.
        rng = np.random.default_rng(0)
        for length in {*range(self.task.shortest, min(self.max_length, 100) + 1), longest}:
            self.task.sample(length, rng)

    @property
    def train_len(self) -> int:
        """Return the tokens of the longest training row, one per character and one at the end."""
        return self.row_len(max(self.max_length, self.prime_length or 0))

    def row_len(self, length: Length) -> int:
        """Return the most tokens that a problem of a length and its answer take."""
        task = self.task
        if isinstance(length, int):
            return task.longest_row(length) + 1
        return task.longest_pair(*length) + 1

    def fingerprint(self) -> str:
        """Return a hex digest that changes whenever other problems would be drawn."""
        kind = type(self.task)
        parts = {
            "class": f"{kind.__module__}.{kind.__qualname__}",
            "code": code_digest(kind),
            "version": VERSION,
            "format": _format(self.task),
            "training": [self.max_length, self.draw, self.prime_length, self.prime_examples],
        }
        return digest(parts)

    def usual_lengths(self) -> tuple[int, ...]:
        """Return problem lengths within and beyond the trained ones, of those the task has.

        They are a quarter, a half, once, one and a half times and twice the longest trained one.
        """
        wanted = sorted({max(1, self.max_length * n // 4) for n in (1, 2, 4, 6, 8)})
        return tuple(n for n in wanted if _has_length(self.task, n))

    def training_examples(self, seed: int, step: int, n_steps: int, n_rows: int) -> list[Example]:
        """Draw the problems of a step; the same arguments give the same ones."""
        rng = np.random.default_rng([seed, step])
        shortest = self.task.shortest
        lengths = DRAWS[self.draw](shortest, self.max_length, step / n_steps, n_rows, rng)
        rows = [draw_example(self.task, length, "train", rng) for length in lengths]
        if self.prime_length is not None:
            number = int(rng.integers(self.prime_examples))
            own = np.random.default_rng([seed, number, 1])  # three numbers: no step has them
            rows[0] = draw_example(self.task, self.prime_length, "train", own)
        return rows

    def notes(self) -> list[str]:
        """Return a line about lengths whose problems are both trained on and tested; [] if none."""
        shortest, longest = self.task.shortest, self.max_length
        shared = [n for n in range(shortest, longest + 1) if not self.task.is_divided(n)]
        if not shared:
            return []
        counts = [f"{self.task.n_problems(n):.0f} of length {n}" for n in shared]
        more = f" and {len(counts) - 6} more lengths" * (len(counts) > 6)
        return [
            f"{self.task.name} has few problems ({', '.join(counts[:6])}{more}): test examples of "
            "these lengths occur in training"
        ]


def _format(task: Task) -> dict[str, object]:
    """Return a task's values that tell its problems apart.

    Values of fields without a repr count only if they are not the defaults: such a field was added
    when problems had been drawn without it.
    """
    values = [(field, getattr(task, field.name)) for field in fields(task)]
    return {field.name: value for field, value in values if field.repr or value != field.default}


def _has_length(task: Task, length: int) -> bool:
    """Return True if a task has problems of a length."""
    with contextlib.suppress(ValueError):
        return bool(task.sample(length, np.random.default_rng(0)))
    return False


def held_out_examples(task: Task, length: Length, n: int, seed: int) -> list[Example]:
    """Draw n problems that no training has seen; they depend on these arguments alone."""
    word = f"{seed} {task!r} {length}"
    rng = np.random.default_rng(list(hashlib.sha256(word.encode()).digest()))
    return [draw_example(task, length, "test", rng) for _ in range(n)]


def draw_example(task: Task, length: Length, part: Part, rng: Generator) -> Example:
    """Draw a problem of a part; DataError if the task has none of this length."""
    task.refuse_too_long(length)
    is_divided = task.is_divided(length if isinstance(length, int) else max(length))
    for _ in range(TRIES):
        example = task.sample(length, rng)
        if not is_divided or is_tested(example) == (part == "test"):
            return example
    raise DataError(f"{task.name}: {TRIES} draws of length {length} gave no problem for the {part}")


def is_tested(example: Example) -> bool:
    """Return True if a problem belongs to the test, wherever problems are divided."""
    asked = example.asked or example.prompt
    return hashlib.blake2b(asked.encode(), digest_size=1).digest()[0] % TEST_SHARE == 0


def _uniform(low: int, high: int, done: float, n_rows: int, rng: Generator) -> list[int]:
    """Draw each row's length by itself."""
    return rng.integers(low, high + 1, size=n_rows).tolist()


def _balanced(low: int, high: int, done: float, n_rows: int, rng: Generator) -> list[int]:
    """Draw lengths that are as equally frequent in a batch as its size allows."""
    lengths = np.arange(low, high + 1)
    whole, rest = divmod(n_rows, len(lengths))
    return [*np.tile(lengths, whole).tolist(), *rng.permutation(lengths)[:rest].tolist()]


def _grow(low: int, high: int, done: float, n_rows: int, rng: Generator) -> list[int]:
    """Draw up to a length that grows to the longest in the first half of training."""
    reached = low + min(1.0, 2 * done) * (high - low)
    return _uniform(low, max(low, math.ceil(reached)), done, n_rows, rng)


# How the lengths of a batch are drawn. Arguments: shortest and longest length, share of the steps
# that are done, number of rows, generator.
DRAWS: dict[str, Callable[[int, int, float, int, Generator], list[int]]] = {
    "uniform": _uniform,
    "balanced": _balanced,
    "grow": _grow,
}
