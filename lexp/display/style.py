"""Choose colours, lines and markers that tell the curves of a chart apart, in PNG and on the page.

A name (a model) has a colour, and another marker when the colours have been used up; a group (a
method) has a line style, and another filling of its markers when the styles have been used up.
Where a chart has one name alone its groups have the colours. assets/page.css draws what is here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lexp.display.document import Chart, Curve

# Okabe and Ito's palette and three darker ones: told apart by readers of any colour vision.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
    "#5B2A86", "#800000", "#005F56",
)  # fmt: skip
N_STYLES, N_SHAPES, N_FILLS = 6, 6, 3
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
            numbered([names_of(chart) for chart in charts], {}),
            numbered([groups_of(chart) for chart in charts], KEPT),
        )

    def style(self, chart: Chart, curve: Curve) -> CurveStyle:
        """Return a style no other curve of the chart has: up to 60 names, 18 groups (10 in 108)."""
        name, group = self.names[curve.name], self.groups[curve.group]
        return CurveStyle(
            (group if is_alone(chart) else name) % len(COLOURS),
            group % N_STYLES,
            (name // len(COLOURS) + group // (N_STYLES * N_FILLS)) % N_SHAPES,
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


def numbered(lists: Sequence[Sequence[str]], kept: Mapping[str, int]) -> dict[str, int]:
    """Give each key the smallest number that no key beside it in a list has.

    kept: numbers of certain keys, which others leave free where one of these is beside them.
    """
    beside: dict[str, set[str]] = {}
    for keys in lists:
        for key in keys:
            beside.setdefault(key, set()).update(keys)
    numbers: dict[str, int] = {}
    first_free = max(kept.values(), default=-1) + 1
    for key in sorted(beside, key=lambda key: key not in kept):
        taken = {numbers[other] for other in beside[key] if other in numbers}
        number = kept.get(key, first_free if beside[key] & set(kept) else 0)
        while number in taken:
            number = max(number + 1, first_free if key in kept else 0)
        numbers[key] = number
    return numbers
