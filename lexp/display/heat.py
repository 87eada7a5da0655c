"""The colours of cells by a ratio: blue below 1, white around it, orange to brown above."""

import bisect
import itertools

# The ratios at which one colour ends and the next begins.
EDGES = (0.8, 0.95, 1.02, 1.1, 1.3, 2.0, 5.0, 20.0)
# Ground and letters: readable on each other, and ever darker away from 1, for any colour vision.
# assets/page.css has the same.
HEAT = (
    ("#1f5f9e", "#ffffff"), ("#a9cfe8", "#000000"), ("#f6f4ee", "#000000"),
    ("#fde3bf", "#000000"), ("#fbc58a", "#000000"), ("#f09c4d", "#000000"),
    ("#d8741f", "#000000"), ("#963a06", "#ffffff"), ("#4f1a03", "#ffffff"),
)  # fmt: skip
HEAT_STYLES = tuple(f"heat{n}" for n in range(len(HEAT)))


def heat_style(ratio: float) -> str:
    """Return the style of a cell that shows a ratio."""
    return HEAT_STYLES[bisect.bisect_right(EDGES, ratio)]


def heat_scale() -> list[tuple[str, str]]:
    """Return each style with the ratios that it stands for, ascending."""
    ends = [f"{edge:g}" for edge in EDGES]
    between = [f"{a} to {b}" for a, b in itertools.pairwise(ends)]
    words = [f"below {ends[0]}", *between, f"{ends[-1]} and more"]
    return [*zip(HEAT_STYLES, words, strict=True)]
