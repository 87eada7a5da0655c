"""The colours of cells by their number: a ratio around 1, a share in percent, a gain in nats."""

import bisect
import itertools
from dataclasses import dataclass


@dataclass(frozen=True)
class HeatScale:
    """Colours for numbers, each a style of cells: the name of the scale with a number behind.

    edges: the numbers at which one colour ends and the next begins. colours: ground and letters,
    readable on each other for any colour vision; assets/page.css has the same.
    """

    name: str
    edges: tuple[float, ...]
    colours: tuple[tuple[str, str], ...]

    @property
    def styles(self) -> tuple[str, ...]:
        """Return the styles, that of the least numbers first."""
        return tuple(f"{self.name}{n}" for n in range(len(self.colours)))

    def style(self, number: float) -> str:
        """Return the style of a cell that shows a number."""
        return self.styles[bisect.bisect_right(self.edges, number)]

    def words(self) -> list[tuple[str, str]]:
        """Return each style with the numbers that it stands for, ascending."""
        ends = [f"{edge:g}" for edge in self.edges]
        between = [f"{a} to {b}" for a, b in itertools.pairwise(ends)]
        words = [f"below {ends[0]}", *between, f"{ends[-1]} and more"]
        return [*zip(self.styles, words, strict=True)]


# Blue below 1, white around it, orange to brown above: ever darker away from 1.
RATIOS = HeatScale(
    "heat",
    (0.8, 0.95, 1.02, 1.1, 1.3, 2.0, 5.0, 20.0),
    (
        ("#1f5f9e", "#ffffff"), ("#a9cfe8", "#000000"), ("#f6f4ee", "#000000"),
        ("#fde3bf", "#000000"), ("#fbc58a", "#000000"), ("#f09c4d", "#000000"),
        ("#d8741f", "#000000"), ("#963a06", "#ffffff"), ("#4f1a03", "#ffffff"),
    ),
)  # fmt: skip
# White for no right answer to dark blue for all; at 90 % a seed counts as one that generalises.
SHARES = HeatScale(
    "share",
    (10, 50, 90, 99),
    (
        ("#f6f4ee", "#000000"), ("#d9e8f2", "#000000"), ("#a9cfe8", "#000000"),
        ("#5b9bd0", "#000000"), ("#1f5f9e", "#ffffff"),
    ),
)  # fmt: skip
# Orange below 0, white around it, ever darker blue above: ln 10 = 2.3 nats are a digit's worth.
GAINS = HeatScale(
    "gain",
    (-0.1, 0.1, 0.3, 1.0, 2.0),
    (
        ("#fbc58a", "#000000"), ("#f6f4ee", "#000000"), ("#d9e8f2", "#000000"),
        ("#a9cfe8", "#000000"), ("#5b9bd0", "#000000"), ("#1f5f9e", "#ffffff"),
    ),
)  # fmt: skip
SCALES = (RATIOS, SHARES, GAINS)
COLOURS = {
    style: colours
    for scale in SCALES
    for style, colours in zip(scale.styles, scale.colours, strict=True)
}


def scale_of(styles: set[str]) -> HeatScale | None:
    """Return the scale that some cells are coloured by; None for cells without colours."""
    return next((s for s in SCALES if not styles.isdisjoint(s.styles)), None)
