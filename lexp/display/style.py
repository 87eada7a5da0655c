"""Choose colours, lines and markers that tell the curves of a chart apart, in PNG and on the page.

A name (a model) has a colour and a marker, so that it is never told by its hue alone; a group (a
method) has a line style, and another filling of its markers when the styles have been used up.
Well-known schemes look the same in every picture. Where a chart has one name alone its groups have
the colours. assets/page.css draws what is here.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lexp.display.document import Chart, Curve

# Near Okabe and Ito's palette, moved apart as protanopes, deuteranopes and tritanopes see it
# (Machado et al. 2009), with three darker ones.
COLOURS = (
    "#1d61b3", "#b54902", "#17985d", "#c181ab", "#e49615", "#01b5ff", "#000000",
    "#4a0864", "#761f0c", "#244541",
)  # fmt: skip
N_STYLES, N_SHAPES, N_FILLS = 6, 6, 3
# The numbers of schemes that have one colour and marker in every picture.
WELL_KNOWN = {
    "rope": 0, "alibi": 1, "xpos": 2, "t5": 3, "kerple_log": 4, "sinusoidal": 5, "nope": 6,
    "learned": 7,
}  # fmt: skip
# These groups have the same style in every picture.
KEPT = {
    "full": 0, "blockwise": 1, "window": 2,
    "bidirectional": 0, "bidirectional_blockwise": 1, "bidirectional_window": 2,
}  # fmt: skip


@dataclass(frozen=True)
class CurveStyle:
    """The indices of a curve's colour, line style, marker shape and filling."""

    colour: int
    line: int
    shape: int
    fill: int


@dataclass(frozen=True)
class CurveStyles:
    """The numbers of names and groups, the same in all charts that belong together.

    names, groups: a number for each, unlike for any two that share a chart.
    """

    names: Mapping[str, int]
    groups: Mapping[str, int]

    @classmethod
    def of(cls, charts: Iterable[Chart]) -> "CurveStyles":
        """Number names and groups; charts that have a colour for each name choose first."""
        charts = sorted(charts, key=lambda chart: len(names_of(chart)) > len(COLOURS))
        return cls(
            numbered_names([names_of(chart) for chart in charts]),
            numbered([groups_of(chart) for chart in charts], KEPT),
        )

    def style(self, chart: Chart, curve: Curve) -> CurveStyle:
        """Return a style no other curve of the chart has: up to 60 names, 18 groups (10 in 108)."""
        name, group = self.names[curve.name], self.groups[curve.group]
        colour, turn = name % len(COLOURS), name // len(COLOURS)
        return CurveStyle(
            group % len(COLOURS) if is_alone(chart) else colour,
            group % N_STYLES,
            # The marker goes with the colour, and is another at each turn through the colours.
            (colour - turn + group // (N_STYLES * N_FILLS)) % N_SHAPES,
            group // N_STYLES % N_FILLS,
        )


def names_of(chart: Chart) -> list[str]:
    """Return each name once, in order."""
    return list(dict.fromkeys(curve.name for curve in chart.curves))


def groups_of(chart: Chart) -> list[str]:
    """Return each group once, in order."""
    return list(dict.fromkeys(curve.group for curve in chart.curves))


def is_alone(chart: Chart) -> bool:
    """Return True if one name has all curves, so that colours can tell its groups apart."""
    return len(names_of(chart)) == 1 and len(groups_of(chart)) > 1


def numbered_names(lists: Sequence[Sequence[str]]) -> dict[str, int]:
    """Give each name a number that no name beside it has, and a free colour while there is one.

    A well-known scheme has its own number, which no other name is given; one variant of a scheme
    stands for it. Other names start to look at a place that follows from their letters, so that
    they too keep their colour in most pictures.
    """
    beside = _beside(lists)
    numbers: dict[str, int] = {}
    for scheme, number in WELL_KNOWN.items():
        variants = [name for name in beside if name.split(" ")[0] == scheme]
        if variants:
            numbers[min(variants, key=lambda name: (name != scheme, name))] = number
    for name in sorted(beside.keys() - numbers.keys()):
        taken = {numbers[other] for other in beside[name] if other in numbers}
        colours = {number % len(COLOURS) for number in taken}
        free = [number for number in _candidates(name) if number not in taken]
        numbers[name] = next((n for n in free if n % len(COLOURS) not in colours), free[0])
    return numbers


def _candidates(name: str) -> list[int]:
    """Return the numbers that are no well-known scheme's, those of colours of no scheme first."""
    start, n_colours = zlib.crc32(name.encode()), len(COLOURS)
    turns = [range(n_colours * n, n_colours * (n + 1)) for n in range(N_SHAPES)]
    fixed = len(WELL_KNOWN)
    candidates: list[int] = []
    for turn in (turns[0][fixed:], turns[1][:fixed], turns[1][fixed:], *turns[2:]):
        first = start % len(turn)
        candidates += [*turn[first:], *turn[:first]]
    return [*candidates, *range(n_colours * N_SHAPES, 20 * n_colours * N_SHAPES)]


def numbered(lists: Sequence[Sequence[str]], kept: Mapping[str, int]) -> dict[str, int]:
    """Give each key the smallest number that no key beside it in a list has.

    kept: numbers of certain keys, which others leave free where one of these is beside them.
    """
    beside = _beside(lists)
    numbers: dict[str, int] = {}
    first_free = max(kept.values(), default=-1) + 1
    for key in sorted(beside, key=lambda key: key not in kept):
        taken = {numbers[other] for other in beside[key] if other in numbers}
        number = kept.get(key, first_free if beside[key] & set(kept) else 0)
        while number in taken:
            number = max(number + 1, first_free if key in kept else 0)
        numbers[key] = number
    return numbers


def _beside(lists: Sequence[Sequence[str]]) -> dict[str, set[str]]:
    """Return for each key the keys of every list that it is in."""
    beside: dict[str, set[str]] = {}
    for keys in lists:
        for key in keys:
            beside.setdefault(key, set()).update(keys)
    return beside
