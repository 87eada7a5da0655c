"""Texts made here, the same on every machine."""

import random

COMMON = "the of and to in is that it was for on are with as his they at be this from or one"


def make_text(seed: int, n_words: int) -> str:
    """Text with some structure, the same on every machine."""
    rng = random.Random(seed)
    words = [rng.choice(COMMON.split()) for _ in range(n_words)]
    return " ".join(words) + f"\nünïcode {seed} ✓ 中文\n"
