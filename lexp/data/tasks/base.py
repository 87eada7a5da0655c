"""The base of algorithmic tasks: problems of a length, each with one right answer."""

from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple

from numpy.random import Generator

# The length of a problem: a number, or one for each of two operands.
Length = int | tuple[int, int]
# Problem spaces of at least this size are divided between training and test.
SMALLEST_DIVIDED = 1000


def spelled(length: Length) -> str:
    """Return a length as tables and messages show it: 5, or 5x10 for two operands."""
    return str(length) if isinstance(length, int) else f"{length[0]}x{length[1]}"


class Example(NamedTuple):
    """A problem as text, and the text that is its one right answer; both ASCII.

    asked: what is asked, where the same can be asked in several prompts: it is the same for other
    formats and other orders of what has none. Empty where the prompt says it.
    """

    prompt: str
    answer: str
    asked: str = ""

    @property
    def n_chars(self) -> int:
        """Count the characters of problem and answer."""
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Task:
    """A kind of problem; its fields are the format.

    shortest: the least length that a problem can have. longest: no problem is longer; tasks with
    fewer problems say so themselves. n_lengths: 2 if a problem has two lengths, such as those of
    two operands.
    """

    name: ClassVar[str]
    shortest: ClassVar[int] = 1
    longest: ClassVar[int] = 100_000
    n_lengths: ClassVar[int] = 1

    @property
    def label(self) -> str:
        """Return the name in tables, with the values that are not the defaults."""
        words = [self.name]
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                words.append(field.name if value is True else f"{field.name}={value}")
        return "-".join(words)

    def sample(self, length: Length, rng: Generator) -> Example:
        """Draw a problem of a length. ValueError for a length that no problem has."""
        raise NotImplementedError

    def longest_row(self, length: int) -> int:
        """Return the most characters that problem and answer have together at a length."""
        raise NotImplementedError

    def longest_pair(self, first: int, second: int) -> int:
        """Return the most characters of problem and answer where two operands have lengths."""
        raise NotImplementedError

    def n_problems(self, length: int) -> float:
        """Return the number of problems of a length; math.inf where it is beyond counting.

        One problem in several formats is one; operands and parts in another order are another.
        """
        raise NotImplementedError

    def refuse_too_long(self, length: Length) -> None:
        """Raise ValueError for a length at which drawing a problem would take forever."""
        if (length if isinstance(length, int) else max(length)) > self.longest:
            raise ValueError(f"{self.name}: length={spelled(length)} (at most {self.longest})")

    def is_divided(self, length: int) -> bool:
        """Return True if no problem of this length is both trained on and tested."""
        return self.n_problems(length) >= SMALLEST_DIVIDED
