"""Sentences on what a text and its tokens are not: copies, lost text, bytes that are no text."""

import numpy as np

from lexp.data.corpus import SPLITS, Split
from lexp.data.lost_text import MOST_LOST
from lexp.data.store import SplitFacts, Store
from lexp.system.text import counted

# Documents that two splits share and that are a smaller part of the tokens move no number: empty
# packages, licence headers.
LEAST_COMMON = 0.001
# So many hashes are looked at together.
AT_ONCE = 1 << 16


def remarks(store: Store, vocabulary: str, splits: tuple[Split, ...] = SPLITS) -> list[str]:
    """Return what a user should know of a store, a line each. vocabulary: the tokenizer's name."""
    facts = {split: store.facts[split] for split in splits}
    lines = lost_text(facts, vocabulary)
    for split, of_split in facts.items():
        n, name = len(of_split.hashes), f"dataset.{split}"
        if of_split.n_vanished:
            lines.append(f"{_some(of_split.n_vanished, n, name, 'has', 'have')} no token")
        if of_split.n_nul:
            lines.append(
                f"{_some(of_split.n_nul, n, name)} NUL characters to a tenth or more "
                f"({of_split.first_nul} first): is that UTF-16?"
            )
    train = store.facts["train"].hashes
    for split in splits:
        if split != "train" and "train" in splits:
            lines += common_documents(store, split, train, "dataset.train")
    if "test" in splits:
        lines += copies(store.facts["test"].hashes, "dataset.test")
        if "validation" in splits:
            validation = store.facts["validation"].hashes
            lines += common_documents(store, "test", validation, "dataset.validation")
    return lines


def _some(n: int, total: int, name: str, one: str = "is", more: str = "are") -> str:
    """Return how many of the documents of a split there are, with the verb of that number."""
    return f"{n} of {counted(total, 'document')} of {name} {one if n == 1 else more}"


def lost_text(facts: dict[Split, SplitFacts], vocabulary: str) -> list[str]:
    """Say which share of the text the tokens cannot give back, if they lose any."""
    shares = [
        f"{percent(of_split.lost_share)} of the bytes of dataset.{split}"
        for split, of_split in facts.items()
        if of_split.n_lost
    ]
    if not shares:
        return []
    is_lossy = any(of_split.lost_share > MOST_LOST for of_split in facts.values())
    end = "; bits per byte is not compared" if is_lossy else ""
    return [
        f"tokenizer={vocabulary} cannot give back {', '.join(shares)} (unknown, dropped or "
        f"changed characters){end}"
    ]


def common_documents(store: Store, split: Split, others: np.ndarray, other: str) -> list[str]:
    """Say how many documents of one split are in another one too; nothing for a trifle.

    others: hashes of the other split's documents. other: its name.
    """
    hashes, lengths = store.facts[split].hashes, store.splits[split].lengths
    common = (hashes != 0) & among(hashes, others)
    if not common.any() or lengths[common].sum() < LEAST_COMMON * lengths.sum():
        return []
    name = f"dataset.{split}"
    return [f"{_some(int(common.sum()), len(hashes), name)} in {other} too"]


def among(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which of the hashes are among others, bool [n]; quick where the others are millions.

    Of the others only those are compared whose low bits one of the hashes has.
    """
    n_bits = max(10, len(hashes).bit_length() + 4)
    low = np.uint64((1 << n_bits) - 1)
    is_low: np.ndarray = np.zeros(1 << n_bits, dtype=bool)
    is_low[hashes & low] = True
    likely = [hashes[:0]]
    for first in range(0, len(others), AT_ONCE):
        part = np.asarray(others[first : first + AT_ONCE])
        likely.append(part[is_low[part & low]])
    return np.isin(hashes, np.concatenate(likely))


def copies(hashes: np.ndarray, name: str) -> list[str]:
    """Say how many documents of a split are copies of an earlier one."""
    texts = hashes[hashes != 0]
    n_copies = len(texts) - len(np.unique(texts))
    if not n_copies:
        return []
    return [
        f"{_some(n_copies, len(hashes), name)} copies of others in it; intervals take documents as "
        "independent"
    ]


def percent(share: float) -> str:
    """Return a share in percent, with as many digits as it needs not to be 0."""
    return f"{100 * share:.1f} %" if share >= 0.0005 else f"{100 * share:.1g} %"
