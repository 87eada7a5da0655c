"""What the tasks share: checks of lengths, random words and numbers, counts of problems."""

import math

import numpy as np
from numpy.random import Generator

from lexp.data.tasks.base import Length, Task

LETTERS = "abcdefghijklmnopqrstuvwxyz"
CAPITALS = LETTERS.upper()
DIGITS = "0123456789"


def one_length(task: Task, length: Length) -> int:
    """Return a length of a task whose problems have one. ValueError for two, or one too small."""
    if not isinstance(length, int):
        raise ValueError(f"{task.name}: length={length} (one number)")
    if length < task.shortest:
        raise ValueError(f"{task.name}: length={length} (at least {task.shortest})")
    return length


def operand_lengths(task: Task, length: Length, n: int, rng: Generator) -> list[int]:
    """Return the digits of n operands, of which the longest has `length`.

    A pair is taken as it is. For a number, one operand of which each is as likely has that many
    digits, and every other one 1 to that many, each number as likely. ValueError for a pair where
    n is not 2, or for less than one digit.
    """
    if isinstance(length, int):
        longest = one_length(task, length)
        *shares, which = rng.random(n + 1).tolist()
        digits = [1 + int(share * longest) for share in shares]
        digits[int(which * n)] = longest
        return digits
    if n != 2 or len(length) != 2:
        raise ValueError(f"{task.name}: length={length} (one number for {n} operands)")
    if min(length) < task.shortest:
        raise ValueError(f"{task.name}: length={length} (each at least {task.shortest})")
    return list(length)


def draw_word(symbols: str, length: int, rng: Generator) -> str:
    """Draw a word of ASCII symbols, each as likely."""
    numbers = rng.integers(len(symbols), size=length, dtype=np.uint8)
    return numbers.tobytes().translate(symbols.encode().ljust(256)).decode()


def draw_numbers(digits: list[int], rng: Generator) -> list[int]:
    """Draw a number for each of some numbers of digits, each number as likely; 0 has one digit.

    All come from one draw, as numbers in a mixed base: numpy draws no integers of any size, and
    one at a time takes longer. rng: of numpy.random.default_rng, whose words have 64 bits; as at
    least one word more is drawn than needed, the bias of the remainder is below 2^-64.
    """
    lows = [least_number(n) for n in digits]
    spans = [10**n - low for n, low in zip(digits, lows, strict=True)]
    end = math.prod(spans)
    words = rng.bit_generator.random_raw(end.bit_length() // 64 + 2)
    rest = int.from_bytes(words.astype("<u8").tobytes(), "little") % end
    numbers = []
    for low, span in zip(lows, spans, strict=True):
        rest, above = divmod(rest, span)
        numbers.append(low + above)
    return numbers


def least_number(n_digits: int) -> int:
    """Return the least number of so many digits; 0 has one digit."""
    return 10 ** (n_digits - 1) if n_digits > 1 else 0


def n_tuples(n_operands: int, longest: int) -> int:
    """Count the tuples of numbers of which the longest has so many digits."""
    shorter = 10 ** (n_operands * (longest - 1)) if longest > 1 else 0
    return 10 ** (n_operands * longest) - shorter


def as_count(number: int) -> float:
    """Return a count as a float, math.inf beyond the largest float."""
    try:
        return float(number)
    except OverflowError:
        return math.inf
