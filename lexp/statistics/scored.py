"""Scored of single tokens, and which tokens of two evaluations are the same ones."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class TokenLosses:
    """What a model lost on each target: nats float [n], document int [n], position int [n].

    position is the target's index in its document, so that (document, position) names a token
    whatever model, method or length scored it. ValueError if shapes or types do not fit.
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
        """The tokens that a boolean mask [n] or an index array picks."""
        return TokenLosses(self.nats[chosen], self.document[chosen], self.position[chosen])


def check(nats: np.ndarray, labels: np.ndarray) -> None:
    """ValueError unless both are one-dimensional, of one length, losses floats and labels ints."""
    if nats.ndim != 1 or nats.shape != labels.shape:
        raise ValueError(
            f"one loss and one label a token, got shapes {nats.shape} and {labels.shape}"
        )
    if nats.dtype.kind != "f" or labels.dtype.kind not in "iu":
        raise ValueError(f"losses are floats and labels ints, not {nats.dtype} and {labels.dtype}")


def aligned(a: TokenLosses, b: TokenLosses, common: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Indices into a and into b of the same tokens, in the order of a.

    ValueError if a token is scored twice, or, unless only the common ones are asked for, if one
    of the two has tokens that the other lacks.
    """
    codes_a, codes_b = _codes(a, b)
    order = np.argsort(codes_b, kind="stable")
    known = codes_b[order]
    place = np.asarray(np.searchsorted(known, codes_a))
    inside: np.ndarray = place < len(known)
    inside[inside] = known[place[inside]] == codes_a[inside]
    if not common and not (inside.all() and len(a) == len(b)):
        n_common = int(inside.sum())
        raise ValueError(
            f"not the same tokens: {len(a)} and {len(b)}, of which {n_common} are common"
        )
    return np.flatnonzero(inside), order[place[inside]]


def same_tokens(a: TokenLosses, b: TokenLosses) -> bool:
    """Whether both hold exactly the same tokens, in any order."""
    codes_a, codes_b = _codes(a, b)
    return len(codes_a) == len(codes_b) and bool((np.sort(codes_a) == np.sort(codes_b)).all())


def difference(a: TokenLosses, b: TokenLosses, common: bool = False) -> TokenLosses:
    """a - b token by token, in the order of a; ValueError as for `aligned`."""
    in_a, in_b = aligned(a, b, common)
    with np.errstate(invalid="ignore"):  # inf - inf is nan, and `mean` says so
        nats = a.nats[in_a].astype(np.float64) - b.nats[in_b].astype(np.float64)
    return TokenLosses(nats, a.document[in_a], a.position[in_a])


def _codes(a: TokenLosses, b: TokenLosses) -> tuple[np.ndarray, np.ndarray]:
    """One int64 a token, the same for the same (document, position)."""
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
