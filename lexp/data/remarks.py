"""Sentences on what a text and its tokens are not: copies, lost text, bytes that are no text."""

import numpy as np

from lexp.data.corpus import SPLITS, Split
from lexp.data.lost_text import MOST_LOST
from lexp.data.store import SplitFacts, Store


def remarks(store: Store, vocabulary: str, splits: tuple[Split, ...] = SPLITS) -> list[str]:
    """Return what a user should know of a store, a line each. vocabulary: the tokenizer's name."""
    facts = {split: store.facts[split] for split in splits}
    lines = lost_text(facts, vocabulary)
    for split, of_split in facts.items():
        n = len(of_split.hashes)
        if of_split.n_vanished:
            lines.append(f"{of_split.n_vanished} of {n} documents of dataset.{split} have no token")
        if of_split.n_nul:
            lines.append(
                f"{of_split.n_nul} of {n} documents of dataset.{split} are NUL characters to a "
                f"tenth or more ({of_split.first_nul} first): is that UTF-16?"
            )
    for split in splits:
        if split != "train" and "train" in splits:
            lines += common_documents(
                store.facts[split].hashes,
                f"dataset.{split}",
                store.facts["train"].hashes,
                "dataset.train",
            )
    if "test" in splits:
        lines += copies(store.facts["test"].hashes, "dataset.test")
        if "validation" in splits:
            lines += common_documents(
                store.facts["test"].hashes, "dataset.test",
                store.facts["validation"].hashes, "dataset.validation",
            )  # fmt: skip
    return lines


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


def common_documents(hashes: np.ndarray, name: str, others: np.ndarray, other: str) -> list[str]:
    """Say how many documents of one split are in another one too."""
    n_common = int(np.isin(hashes[hashes != 0], others).sum())
    return [f"{n_common} of {len(hashes)} documents of {name} are in {other} too"] * (n_common > 0)


def copies(hashes: np.ndarray, name: str) -> list[str]:
    """Say how many documents of a split are copies of an earlier one."""
    texts = hashes[hashes != 0]
    n_copies = len(texts) - len(np.unique(texts))
    if not n_copies:
        return []
    return [
        f"{n_copies} of {len(hashes)} documents of {name} are copies of others in it; intervals "
        "take documents as independent"
    ]


def percent(share: float) -> str:
    """Return a share in percent, with as many digits as it needs not to be 0."""
    return f"{100 * share:.1f} %" if share >= 0.0005 else f"{100 * share:.1g} %"
