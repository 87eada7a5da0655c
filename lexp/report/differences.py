"""Paired differences of whole rows at one length, their tests, and the tables that show them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lexp.display.table import Table, TableCell
from lexp.report.claims import seed_losses
from lexp.report.numbers import LABELS, interval_text, labels, p_text, smallest_p_text
from lexp.report.study_results import DocumentIds, ResultSeries, do_compare
from lexp.statistics import Estimate, SignFlips, average, difference, holm, mean, sign_flips
from lexp.system.text import counted

SURE = 0.05
UNLIKE = "Not compared, because text, tokens, vocabulary, precision or seeds differ"


@dataclass(frozen=True)
class PairedDifference:
    """The loss of a series minus another's on the same tokens, mean over seeds, and its test.

    adjusted: p after Holm's correction over the family.
    """

    series: ResultSeries
    estimate: Estimate
    test: SignFlips
    adjusted: float

    @property
    def is_sure(self) -> bool:
        """Return True if the difference is significant after the correction."""
        return self.adjusted < SURE


@dataclass(frozen=True)
class Comparisons:
    """Differences that are corrected together.

    length: of the texts. against: what each is compared with. words: what was compared, for notes.
    unlike: names of rows that were not compared, because nothing was scored on their tokens that
    they could be compared with.
    """

    length: int
    against: str
    words: str
    differences: tuple[PairedDifference, ...]
    unlike: tuple[str, ...]


def against_baseline(all_series: Sequence[ResultSeries], length: int, baseline: str) -> Comparisons:
    """Compare models with a baseline at a length, by method."""

    def is_base(base: ResultSeries, series: ResultSeries) -> bool:
        return base.name == baseline and base.plain_method == series.plain_method

    models = [series for series in all_series if series.name != baseline]
    words = f"models against {baseline} at {length}, every method"
    return _family(models, all_series, is_base, length, baseline, words)


def against_plain(all_series: Sequence[ResultSeries], length: int) -> Comparisons:
    """Compare each model's methods with its plain attention at a length."""

    def is_base(base: ResultSeries, series: ResultSeries) -> bool:
        return base.is_plain and base.variant == series.variant

    methods = [series for series in all_series if not series.is_plain]
    plain = next((series.pattern.label for series in all_series if series.is_plain), "")
    words = f"methods against {plain} attention at {length}"
    return _family(methods, all_series, is_base, length, plain, words)


def _family(
    compared: Sequence[ResultSeries],
    all_series: Sequence[ResultSeries],
    is_base: Callable[[ResultSeries, ResultSeries], bool],
    length: int,
    against: str,
    words: str,
) -> Comparisons:
    """Test what each series loses above its base on the same tokens, where both have a number."""
    ids, unlike = DocumentIds(), []
    tested: list[tuple[ResultSeries, Estimate, SignFlips]] = []
    for series in (one for one in compared if one.has_number(length)):
        bases = [n for n in all_series if n.has_number(length) and is_base(n, series)]
        alike = [base for base in bases if do_compare(series, base, length)]
        if bases and not alike:
            unlike.append(f"{series.name} {series.method}")
        if not alike:
            continue
        ours, theirs = (average(seed_losses(n, length, ids)) for n in (series, alike[0]))
        d = difference(ours, theirs)
        tested.append((series, mean(d.nats, d.document), sign_flips(d)))
    corrected = holm({str(n): test.p for n, (_, _, test) in enumerate(tested)}, words)
    by_number = {test.name: test.adjusted for test in corrected}
    differences = [PairedDifference(*one, by_number[str(n)]) for n, one in enumerate(tested)]
    return Comparisons(length, against, words, tuple(differences), tuple(unlike))


def differences_table(family: Comparisons, title: str, protocol: str) -> Table | None:
    """Show a family of differences with intervals and p; None if nothing could be compared."""
    if not family.differences:
        return None
    rows = []
    for one in family.differences:
        is_better = one.is_sure and one.estimate.value < 0
        rows.append(
            (
                *labels(one.series),
                TableCell(interval_text(one.estimate), "best" if is_better else ""),
                TableCell(p_text(one.test.p)),
                TableCell(p_text(one.adjusted)),
            )
        )
    test = family.differences[0].test
    flips = f"all {test.n_flips}" if test.exact else f"{test.n_flips:,} random"
    least = smallest_p_text(test.smallest_p)
    least = f", so p is at least {least}" if least else ""
    notes = (
        f"Nats per token above {family.against} on the same tokens, mean over seeds, with a 95 % "
        f"interval over documents. p: permutation test ({flips} flips of the signs of whole "
        f"documents{least}); Holm: corrected for "
        f"{counted(len(family.differences), 'comparison')} ({family.words}). Seeds are held fixed.",
        *[f"{UNLIKE}: {', '.join(family.unlike)}."] * bool(family.unlike),
    )
    heads = (*LABELS, f"minus {family.against}", "p", "p (Holm)")
    return Table(f"{title} at {family.length}, {protocol}", heads, tuple(rows), 2, notes)
