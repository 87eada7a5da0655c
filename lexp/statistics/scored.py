"""Losses of single tokens, and the tokens that two evaluations have in common."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class TokenLosses:
    """A model's loss on each target: nats float [n], document int [n], position int [n].

    position is the target's index in its document, so that (document, position) identifies a token
    for every model, method and length. ValueError if shapes or types do not fit.
    """

    nats: np.ndarray
    document: np.ndarray
    position: np.ndarray

    def __post_init__(self) -> None:
        check(self.nats, self.document)
        check(self.nats, self.position)

    def __len__(self) -> int:
        return len(self.nats)

    def where(self, chosen: np.ndarray) -> "TokenLosses":
        """Return the tokens that a boolean mask [n] or an index array selects."""
        return TokenLosses(self.nats[chosen], self.document[chosen], self.position[chosen])


def check(nats: np.ndarray, labels: np.ndarray) -> None:
    """Raise ValueError unless losses are floats [n] and labels ints [n]."""
    if nats.ndim != 1 or nats.shape != labels.shape:
        raise ValueError(
            f"one loss and one label a token, got shapes {nats.shape} and {labels.shape}"
        )
    if nats.dtype.kind != "f" or labels.dtype.kind not in "iu":
        raise ValueError(f"losses are floats and labels ints, not {nats.dtype} and {labels.dtype}")


def aligned(a: TokenLosses, b: TokenLosses, common: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices into a and into b of the same tokens, in the order of a.

    ValueError if a token is scored twice or, unless `common`, if a or b has tokens that the other
    lacks.
    """
    if _in_same_order(a, b):
        every = np.arange(len(a))
        return every, every
    codes_a, codes_b = _codes(a, b)
    order = np.argsort(codes_b, kind="stable")
    sorted_b = codes_b[order]
    place = np.asarray(np.searchsorted(sorted_b, codes_a))
    inside: np.ndarray = place < len(sorted_b)
    inside[inside] = sorted_b[place[inside]] == codes_a[inside]
    if not common and not (inside.all() and len(a) == len(b)):
        n_common = int(inside.sum())
        raise ValueError(
            f"not the same tokens: {len(a)} and {len(b)}, of which {n_common} are common"
        )
    return np.flatnonzero(inside), order[place[inside]]


def same_tokens(a: TokenLosses, b: TokenLosses) -> bool:
    """Return True if both hold exactly the same tokens, in any order."""
    if _in_same_order(a, b):
        return True
    codes_a, codes_b = _codes(a, b)
    return len(codes_a) == len(codes_b) and bool((np.sort(codes_a) == np.sort(codes_b)).all())


def difference(a: TokenLosses, b: TokenLosses, common: bool = False) -> TokenLosses:
    """Return a - b token by token, in the order of a; ValueError as for `aligned`."""
    in_a, in_b = aligned(a, b, common)
    with np.errstate(invalid="ignore"):  # inf - inf is nan, and `mean` says so
        nats = a.nats[in_a].astype(np.float64) - b.nats[in_b].astype(np.float64)
    return TokenLosses(nats, a.document[in_a], a.position[in_a])


def _in_same_order(a: TokenLosses, b: TokenLosses) -> bool:
    """Return True if both list the same tokens in ascending order, and so each of them once.

    Results of one protocol do, and this is found without sorting.
    """
    document, position = a.document, a.position
    if not (np.array_equal(document, b.document) and np.array_equal(position, b.position)):
        return False
    next_document = document[1:] > document[:-1]
    next_position = (document[1:] == document[:-1]) & (position[1:] > position[:-1])
    return bool((next_document | next_position).all())


def _codes(a: TokenLosses, b: TokenLosses) -> tuple[np.ndarray, np.ndarray]:
    """Return one int64 per token, equal for equal (document, position)."""
    _, document = np.unique(np.concatenate([a.document, b.document]), return_inverse=True)
    position = np.concatenate([a.position, b.position]).astype(np.int64)
    if len(position):
        position = position - position.min()
        codes = document.astype(np.int64) * (int(position.max()) + 1) + position
    else:
        codes = position
    for name, part in (("first", codes[: len(a)]), ("second", codes[len(a) :])):
        if len(np.unique(part)) != len(part):
            raise ValueError(f"the {name} losses hold a token twice")
    return codes[: len(a)], codes[len(a) :]
