"""One set of documents split into train, validation and test by a hash of each text."""

import math
from collections.abc import Sequence

import numpy as np

from lexp.data.corpus import SPLITS, Split
from lexp.system.errors import ConfigError, DataError


def check_shares(shares: Sequence[float]) -> tuple[float, ...]:
    """Return the shares of train, validation and test; ConfigError unless they are three of 1."""
    given = list(shares)
    numbers = [x for x in given if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(given) != len(numbers) or len(numbers) != len(SPLITS) or not _add_up(numbers):
        raise ConfigError(
            f"dataset.split={given} (of train, validation and test: three shares above 0 that "
            "add up to 1)"
        )
    return tuple(map(float, numbers))


def _add_up(numbers: list[float]) -> bool:
    return all(x > 0 for x in numbers) and math.isclose(sum(numbers), 1, abs_tol=1e-6)


def assign(hashes: np.ndarray, shares: tuple[float, ...]) -> np.ndarray | None:
    """Return the split of each document, as its index in SPLITS, uint8 [documents].

    hashes: of the texts, uint64 [documents]. Documents are taken in the order of their hashes,
    which neither names nor order of files change; copies of a text stay together, and each split
    gets a text. None if there are fewer than three different texts.
    """
    texts, of_document, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    n_texts = len(texts)
    if n_texts < len(SPLITS):
        return None
    so_far = np.cumsum(counts)
    wanted = np.cumsum(shares)[:-1] * len(hashes)
    # The border after the text with which the number of documents is nearest to what is wanted.
    first, second = (int(np.abs(so_far - n).argmin()) + 1 for n in wanted)
    first = min(max(first, 1), n_texts - 2)
    second = min(max(second, first + 1), n_texts - 1)
    of_text: np.ndarray = np.repeat(
        np.arange(3, dtype=np.uint8), [first, second - first, n_texts - second]
    )
    return of_text[of_document]


def piece(text: str, split: Split, shares: tuple[float, ...], name: str) -> str:
    """Return the part of a text that a split gets where there are too few texts to share out.

    DataError if nothing is left for a split.
    """
    borders = [0, *(int(len(text) * share) for share in np.cumsum(shares)[:-1]), len(text)]
    if len(set(borders)) < len(borders):
        raise DataError(f"{name} has {len(text)} characters: too few to be cut in three")
    at = SPLITS.index(split)
    return text[borders[at] : borders[at + 1]]
