"""Examples as rows of tokens: prompt, answer, end token, padding."""

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
