"""The generated part of docs/studies/zoo.md and its picture: ranking, methods, what may be read."""

import math
import re
import statistics
from collections import Counter
from dataclasses import dataclass

from page_parts import (
    NONE,
    WINDOW,
    items,
    made_by,
    missing,
    named,
    printed,
    shown,
    table,
    wrapped,
)
from result_cells import DELTA, Cell, PlannedStudy, Results, difference, is_sure
from zoo_claims import claims

from lexp.display.heat import RATIOS
from lexp.display.heat_png import heat_map_png
from lexp.display.table import Table, TableCell
from lexp.system.text import counted

BCA = "blockwise"
PATTERNS = (
    BCA, "blockwise_sinks", WINDOW, "window_sinks", "window_sinks_in_place", "wider_window",
    "lm_infinite", "chunked", "self_extend", "rerope", "leaky_rerope", "string", "dual_chunk",
    "reattention", "moba",
)  # fmt: skip


@dataclass(frozen=True)
class Zoo:
    """The results at 1x and at the longest length. order: schemes with both, the best first."""

    results: Results
    order: tuple[str, ...]
    methods: tuple[str, ...]
    longest: int

    @property
    def factor(self) -> str:
        """Return the longest length in trained ones, such as 4x."""
        return f"{self.longest / self.results.train_len:g}x"

    def at(self, scheme: str, length: int, method: str = "") -> Cell | None:
        """Return a cell under `fixed`; method "": as trained."""
        return self.results.cell(scheme, method, length)

    def trained(self, scheme: str) -> Cell:
        """Return a scheme as it was trained, at its trained length."""
        cell = self.at(scheme, self.results.train_len)
        assert cell is not None  # those of `order` have one
        return cell


@dataclass(frozen=True)
class Spread:
    """How much seeds of one scheme differ in a quantity, standard deviations in nats.

    by_scheme: of the schemes with several seeds. pooled: root of the sum of squares over the sum of
    degrees of freedom.
    """

    by_scheme: dict[str, float]
    pooled: float

    @property
    def readable(self) -> float:
        """Return the least difference of two schemes, of one seed each, that may be read."""
        return 2 * math.sqrt(2) * self.pooled


def generated(results: Results, study: PlannedStudy) -> str:
    """Return the generated part of the page."""
    if not results.cells:
        return "\n".join(missing(results, study))
    zoo = zoo_of(results, study)
    spreads = spreads_of(zoo)
    lines = [*_conclusions(zoo, spreads), f"![scheme by method]({study.name}.png)", ""]
    lines += [*made_by(results), *missing(results, study)]
    lines += [*_readable(zoo, spreads), *_ranking(zoo, spreads), *_methods(zoo), *_best(zoo)]
    lines += claims(results, {at: s.readable for at, s in spreads.items()}, zoo.longest)
    return "\n".join([*lines, *printed(results, study.expected)])


def zoo_of(results: Results, study: PlannedStudy) -> Zoo:
    """Return the results in order of their loss at the longest length, those without one last."""
    longest = max(results.lengths("fixed"))

    def loss(scheme: str) -> float:
        cell = results.cell(scheme, "", longest)
        return cell.nll if cell else math.inf

    there = [s for s in study.schemes if results.cell(s, "", results.train_len)]
    found = {method for _, method, protocol, _ in results.cells if protocol == "fixed"}
    extensions = sorted(found - {*PATTERNS, "full", "trained"})
    methods = (*(method for method in PATTERNS if method in found), *extensions)
    return Zoo(results, tuple(sorted(there, key=loss)), methods, longest)


def spreads_of(zoo: Zoo) -> dict[str, Spread]:
    """Return the spread over seeds of the loss at 1x and at the longest length, and of the rise."""
    at = {"1x": zoo.results.train_len, zoo.factor: zoo.longest}
    values: dict[str, dict[str, list[float]]] = {name: {} for name in (*at, "rise")}
    for scheme in zoo.order:
        cells = [zoo.at(scheme, length) for length in at.values()]
        near, far = (cell.each if cell else {} for cell in cells)
        seeds = sorted(near.keys() & far.keys())
        if len(seeds) > 1:
            columns = (near, far, {s: far[s] - near[s] for s in seeds})
            for name, column in zip(values, columns, strict=True):
                values[name][scheme] = [column[seed] for seed in seeds]
    return {name: spread(by_scheme) for name, by_scheme in values.items()}


def spread(values: dict[str, list[float]]) -> Spread:
    """Return the standard deviations of several values each; nan if there are none."""
    by_scheme = {scheme: statistics.stdev(own) for scheme, own in values.items()}
    freedom = sum(len(own) - 1 for own in values.values())
    squares = sum((len(own) - 1) * by_scheme[scheme] ** 2 for scheme, own in values.items())
    return Spread(by_scheme, math.sqrt(squares / freedom) if freedom else math.nan)


def _conclusions(zoo: Zoo, spreads: dict[str, Spread]) -> list[str]:
    """Say in sentences who holds, what repairs the others, who is best, and what uses length."""
    far = {s: cell for s in zoo.order if (cell := zoo.at(s, zoo.longest))}
    rises = {s: difference(cell, zoo.trained(s)) for s, cell in far.items()}
    holds = [s for s, d in rises.items() if d and d[0] + d[1] <= DELTA]
    breaks = [s for s, d in rises.items() if d and d[0] - d[1] > DELTA]
    repaired = {method: _held(zoo, breaks, method) for method in (BCA, WINDOW)}
    least, *_ = far.values()
    tied = [s for s, cell in far.items() if not cell.nll - least.nll > spreads[zoo.factor].readable]
    beats = _beats_window(zoo)
    by_method = Counter(method for _, method in beats)
    won = ", ".join(f"`{method}` {n}" for method, n in by_method.most_common())
    alike = "; these cannot be told apart, as seeds of one scheme differ" * (len(tied) > 1)
    return items([
        f"{len(holds)} of {len(far)} schemes {_s('hold', holds)} at {zoo.factor} by themselves "
        f"(at most {DELTA:g} nats above 1x, interval included): {named(holds)}.",
        f"{len(breaks)} {_s('break', breaks)}: {named(breaks)}. BCA brings "
        f"{len(repaired[BCA])} of them to within {DELTA:g} nats, a plain window "
        f"{len(repaired[WINDOW])}.",
        f"Best at {zoo.factor}: {named(tied)}{alike}.",
        f"A lower loss than the plain window of the same model: {len(beats)} of "
        f"{_n_against_window(zoo)} cells at {zoo.factor}"
        + f" ({won}); by chance one in forty is expected." * bool(beats)
        + "." * (not beats),
    ])  # fmt: skip


def _s(verb: str, subjects: list[str]) -> str:
    """Return a verb as it follows the number of its subjects: 1 breaks, 2 break."""
    return f"{verb}s" if len(subjects) == 1 else verb


def _held(zoo: Zoo, schemes: list[str], method: str) -> list[str]:
    """Return which schemes a method keeps within DELTA of their loss at the trained length."""
    rises = {s: difference(zoo.at(s, zoo.longest, method), zoo.trained(s)) for s in schemes}
    return [s for s, d in rises.items() if d and d[0] <= DELTA]


def _against_window(zoo: Zoo) -> dict[tuple[str, str], tuple[float, float]]:
    """Return every (scheme, method) minus the scheme's plain window, at the longest length.

    Methods other than the window; method "": as trained.
    """
    found = {}
    for scheme in zoo.order:
        window = zoo.at(scheme, zoo.longest, WINDOW)
        for method in ("", *zoo.methods):
            d = difference(zoo.at(scheme, zoo.longest, method), window)
            if d and method != WINDOW:
                found[scheme, method] = d
    return found


def _n_against_window(zoo: Zoo) -> int:
    return len(_against_window(zoo))


def _beats_window(zoo: Zoo) -> list[tuple[str, str]]:
    """Return the (scheme, method) that are better than the scheme's window, interval below 0."""
    named_cells = _against_window(zoo).items()
    return [(s, method or "as trained") for (s, method), d in named_cells if d[0] + d[1] < 0]


def _readable(zoo: Zoo, spreads: dict[str, Spread]) -> list[str]:
    """Say which differences between schemes may be read."""
    several = list(dict.fromkeys(s for own in spreads.values() for s in own.by_scheme))
    if not several:
        return []
    seeds = [len(zoo.results.runs[scheme]) for scheme in several]
    rows = [
        [name, *(f"{own.by_scheme[s]:.4f}" if s in own.by_scheme else NONE for s in several),
         f"{own.pooled:.4f}", f"{own.readable:.4f}"]
        for name, own in spreads.items()
    ]  # fmt: skip
    heads = ["nats per token", *(f"`{s}`" for s in several), "pooled", "may be read from"]
    return [
        "### Which differences may be read", "",
        *wrapped(
            f"Standard deviations over seeds ({', '.join(map(str, seeds))} of {named(several)}). A "
            "difference between two schemes of one seed each may be read from 2 x sqrt(2) x the "
            "pooled standard deviation (root of the mean variance) on; a smaller one may be luck "
            "of the seed."
        ),
        *table(heads, rows),
    ]  # fmt: skip


def _ranking(zoo: Zoo, spreads: dict[str, Spread]) -> list[str]:
    """Rank the schemes, as they were trained, at 1x and at the longest length."""
    train_len, rows = zoo.results.train_len, []
    near = sorted(zoo.order, key=lambda scheme: zoo.trained(scheme).nll)
    far_best = zoo.at(zoo.order[0], zoo.longest)
    for place, scheme in enumerate(zoo.order, 1):
        at_1x, far = zoo.trained(scheme), zoo.at(scheme, zoo.longest)
        rows.append([
            f"`{scheme}`", str(len(zoo.results.runs[scheme])),
            str(near.index(scheme) + 1), _loss(at_1x),
            _behind(at_1x, zoo.trained(near[0]), spreads["1x"]),
            str(place) if far else NONE, _loss(far),
            _behind(far, far_best, spreads[zoo.factor]), shown(difference(far, at_1x)),
        ])  # fmt: skip
    heads = ("scheme", "seeds", "rank at 1x", f"loss at {train_len}", "behind the first",
             f"rank at {zoo.factor}", f"loss at {zoo.longest}", "behind the first",
             "rise")  # fmt: skip
    return ["### As trained, ranked", "", *table(heads, rows)]


def _loss(cell: Cell | None) -> str:
    return NONE if cell is None else f"{cell.nll:.3f} ±{cell.half:.3f}"


def _behind(cell: Cell | None, best: Cell | None, spread: Spread) -> str:
    """Return how far a scheme is behind the first; `=` where the difference may not be read."""
    d = difference(cell, best)
    if d is None:
        return NONE
    may_be_read = d[0] > spread.readable and is_sure(d)
    return f"{d[0]:.3f}" if may_be_read else f"{d[0]:.3f} ="


def _methods(zoo: Zoo) -> list[str]:
    """Sum up each method over the schemes for which it is defined."""
    rises, best = {}, Counter(_best_method(zoo, scheme)[0] for scheme in zoo.order)
    for method in ("", *zoo.methods):
        found = {s: difference(zoo.at(s, zoo.longest, method), zoo.trained(s)) for s in zoo.order}
        rises[method] = {s: d for s, d in found.items() if d}
    against = _against_window(zoo)
    breaks = {s for s, d in rises[""].items() if d[0] - d[1] > DELTA}
    rows = []
    for method, own in rises.items():
        compared = [d for (_, name), d in against.items() if name == method]
        held = [s for s in breaks & own.keys() if own[s][0] <= DELTA]
        rows.append([
            f"`{method}`" if method else "as trained", str(len(own)),
            f"{statistics.median(d[0] for d in own.values()):+.4f}" if own else NONE,
            f"{len(held)} of {len(breaks & own.keys())}",
            NONE if method == WINDOW else str(sum(d[0] + d[1] < 0 for d in compared)),
            NONE if method == WINDOW else str(sum(d[0] - d[1] > 0 for d in compared)),
            str(best[method]),
        ])  # fmt: skip
    heads = ("method", "schemes", "median rise", "broken schemes held", "better than the window",
             "worse than the window", "best of its scheme")  # fmt: skip
    return [f"### Methods at {zoo.factor}", "", *table(heads, rows)]


def _best_method(zoo: Zoo, scheme: str) -> tuple[str, Cell | None]:
    """Return the method with the least loss of a scheme at the longest length; "": as trained."""
    cells = {m: cell for m in ("", *zoo.methods) if (cell := zoo.at(scheme, zoo.longest, m))}
    return min(cells.items(), key=lambda item: item[1].nll) if cells else ("none", None)


def _best(zoo: Zoo) -> list[str]:
    """Name the best method of each scheme, and what is no worse than it."""
    rows = []
    for scheme in zoo.order:
        method, best = _best_method(zoo, scheme)
        others = [
            difference(zoo.at(scheme, zoo.longest, m), best)
            for m in ("", *zoo.methods)
            if m != method
        ]
        found = [d for d in others if d]
        rows.append([
            f"`{scheme}`", f"`{method}`" if method else "as trained", _loss(best),
            shown(difference(best, zoo.trained(scheme))),
            shown(difference(best, zoo.at(scheme, zoo.longest, WINDOW))),
            f"{sum(not is_sure(d) for d in found)} of {len(found)}",
        ])  # fmt: skip
    heads = ("scheme", "best method", f"loss at {zoo.longest}", "minus as trained at 1x",
             "minus its window", "others no worse")  # fmt: skip
    return [f"### Best method of each scheme at {zoo.factor}", "", *table(heads, rows, 2)]


def picture(results: Results, study: PlannedStudy) -> bytes:
    """Return the map of all cells: perplexity at the longest length over that at 1x as trained."""
    zoo = zoo_of(results, study)

    def cell(scheme: str, method: str) -> TableCell:
        d = difference(zoo.at(scheme, zoo.longest, method), zoo.trained(scheme))
        if d is None:
            return TableCell("")
        ratio = math.exp(d[0])
        return TableCell(f"{ratio:.2f}", RATIOS.style(ratio))

    methods = ("", *zoo.methods)
    rows = tuple((TableCell(s), *(cell(s, method) for method in methods)) for s in zoo.order)
    heads = ["as trained", *zoo.methods]
    schemes = counted(len(zoo.order), "scheme")
    return heat_map_png(Table(
        f"Perplexity at {zoo.longest} tokens over that at {results.train_len}: {schemes}",
        ("scheme", *(re.sub("[_ ]", "\n", head) for head in heads)), rows, 1,
        ("Divided by the perplexity of the scheme as it was trained, at its trained length; sorted "
         f"by perplexity at {zoo.longest} as trained. Empty: not defined.",),
    ))  # fmt: skip
