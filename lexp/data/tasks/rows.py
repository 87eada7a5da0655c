"""Examples as rows of tokens: prompt, answer, end token, padding; or several in a row."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexp.data.tasks.base import Example

# The byte that ends an answer. The padding after it is the same byte, and is never a target.
END = 0


class TaskRows(NamedTuple):
    """Rows of tokens int64 [B, T], and which of them are the answer, end token included, [B, T]."""

    tokens: Tensor
    is_answer: Tensor


def make_rows(examples: Sequence[Example], n_tokens: int) -> TaskRows:
    """Return examples as rows of n_tokens bytes, padded at the right."""
    texts = [(example.prompt + example.answer).encode("ascii") for example in examples]
    starts = np.array([len(example.prompt) for example in examples])[:, None]
    ends = np.array([len(text) for text in texts])[:, None]  # where the end token stands
    if int(ends.max()) >= n_tokens:
        raise ValueError(f"a row of {int(ends.max()) + 1} tokens, room for {n_tokens}")
    padded = b"".join(text.ljust(n_tokens, b"\0") for text in texts)
    tokens = np.frombuffer(padded, dtype=np.uint8).reshape(len(texts), n_tokens).astype(np.int64)
    places = np.arange(n_tokens)
    is_answer = (places >= starts) & (places <= ends)
    return TaskRows(torch.from_numpy(tokens), torch.from_numpy(is_answer))


class PackedRows(NamedTuple):
    """Rows that hold several examples, and padding at the end; [B, T] each.

    inputs: int64, the bytes of problems and answers. following: the byte after each in its example.
    is_answer: where that byte belongs to an answer, end token included. starts: where an example
    begins.
    """

    inputs: Tensor
    following: Tensor
    is_answer: Tensor
    starts: Tensor


def pack_rows(examples: Sequence[Example], n_tokens: int, multiple: int = 1) -> PackedRows:
    """Return examples in rows of n_tokens bytes, as many in a row as first-fit finds room for.

    multiple: the number of rows is a multiple of it; the last rows may be empty. ValueError for an
    example that is longer than a row.
    """
    chosen = first_fit([example.n_chars for example in examples], n_tokens)
    shape = math.ceil(len(chosen) / multiple) * multiple, n_tokens
    tokens: np.ndarray = np.zeros((2, *shape), dtype=np.int64)
    marks: np.ndarray = np.zeros((2, *shape), dtype=bool)
    (inputs, following), (is_answer, starts) = tokens, marks
    for row, numbers in enumerate(chosen):
        first = 0
        for number in numbers:
            example = examples[number]
            text = (example.prompt + example.answer).encode("ascii") + bytes([END])
            codes = np.frombuffer(text, dtype=np.uint8)
            end = first + example.n_chars
            inputs[row, first:end], following[row, first:end] = codes[:-1], codes[1:]
            is_answer[row, first + len(example.prompt) - 1 : end] = True
            starts[row, first] = True
            first = end
    return PackedRows(*map(torch.from_numpy, (inputs, following, is_answer, starts)))


def first_fit(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Return which items share a row: the largest first, each in the first row with room for it.

    ValueError for an item that is larger than a row.
    """
    if max(sizes) > room:
        raise ValueError(f"an item of {max(sizes)}, room for {room}")
    rows: list[list[int]] = []
    left: list[int] = []
    for number in sorted(range(len(sizes)), key=lambda n: -sizes[n]):
        size = sizes[number]
        row = next((n for n, free in enumerate(left) if free >= size), len(rows))
        if row == len(rows):
            rows.append([])
            left.append(room)
        rows[row].append(number)
        left[row] -= size
    return rows
