"""The contents of a page before it is drawn: sections of tables, charts and pictures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lexp.display.table import Table


@dataclass(frozen=True)
class Point:
    """A value and its interval. A y that is NaN or infinite is a failure; note says why.

    x, y in the units of the chart's axes; low and high NaN where there is no interval. each: the
    values that y stands for, such as those of seeds; they are drawn as faint dots.
    """

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan
    note: str = ""
    each: tuple[float, ...] = ()


@dataclass(frozen=True)
class Curve:
    """Points under one name (its colour and marker) and group (its line style).

    The line has a gap at a failure, and wherever other curves of the chart have a point and this
    curve has none. own_x: it has x values of its own, and only failures are gaps.
    """

    name: str
    group: str
    points: tuple[Point, ...]
    note: str = ""
    own_x: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves on one pair of axes; log_x is base 2. marks: vertical lines at x with a label.

    absolute: intervals are of single curves, which overlap where differences are certain. They are
    drawn around the curve pointed at alone, and not in pictures. label: what the numbers are called
    elsewhere, shown small below the title. linear_to: where it is not 0, the y axis shows values of
    both signs and many sizes, nearly linear up to linear_to and logarithmic beyond. decimals: of
    the values in tooltips, as tables have them; None for seven digits. y_ends: the least and the
    largest value that there can be, between which the y axis always reaches; None: as values need.
    """

    title: str
    x_label: str
    y_label: str
    log_x: bool
    log_y: bool
    curves: tuple[Curve, ...]
    marks: tuple[tuple[float, str], ...] = ()
    note: str = ""
    absolute: bool = False
    label: str = ""
    linear_to: float = 0.0
    decimals: int | None = None
    y_ends: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        xs = [point.x for curve in self.curves for point in curve.points]
        xs += [x for x, _ in self.marks]
        if any(not math.isfinite(x) or (self.log_x and x <= 0) for x in xs):
            raise ValueError(f"{self.title}: x must be finite, and positive on a log axis")


@dataclass(frozen=True)
class Picture:
    """A PNG image, embedded in the page."""

    title: str
    png: bytes
    note: str = ""


@dataclass(frozen=True)
class UnitTables:
    """The same numbers as one table in each of several units, of which a page shows one at a time.

    units: by name, in the order of the tables; the first is shown where only one can be.
    """

    title: str
    units: tuple[str, ...]
    tables: tuple[Table, ...]

    def __post_init__(self) -> None:
        if not self.units or len(self.units) != len(self.tables):
            raise ValueError(f"{self.title}: {len(self.tables)} tables of {len(self.units)} units")


Item = Table | UnitTables | Chart | Picture


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs (separated by an empty line) and the items below them.

    label: what the numbers of the section are called elsewhere, shown small below the heading.
    """

    title: str
    text: str = ""
    items: tuple[Item, ...] = ()
    label: str = ""

    @property
    def tables(self) -> tuple[Table, ...]:
        """Return the tables, those of several units in their first unit alone."""
        tables = [n.tables[0] if isinstance(n, UnitTables) else n for n in self.items]
        return tuple(table for table in tables if isinstance(table, Table))

    @property
    def tables_of_every_unit(self) -> tuple[Table, ...]:
        """Return the tables, those of several units once in each."""
        tables: list[Table] = []
        for item in self.items:
            tables += item.tables if isinstance(item, UnitTables) else ()
            tables += [item] if isinstance(item, Table) else []
        return tuple(tables)


@dataclass(frozen=True)
class Page:
    """A whole page.

    summary: paragraphs that a reader sees first. provenance: nested mappings, shown folded at the
    end of the page. facts: one line on what the numbers were made from, shown small.
    """

    title: str
    summary: str
    sections: tuple[Section, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    facts: str = ""
