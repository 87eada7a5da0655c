"""Paired differences of whole rows at one length, their tests, and the tables that show them."""

from collections.abc import Sequence
from dataclasses import dataclass

from lexp.display.table import Table, TableCell
from lexp.report.claims import seed_losses
from lexp.report.numbers import LABELS, interval_text, labels, p_text, smallest_p_text
from lexp.report.study_results import DocumentIds, ResultSeries, is_alike
from lexp.statistics import Estimate, SignFlips, average, difference, holm, mean, sign_flips
from lexp.system.text import counted

SURE = 0.05


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
    unlike: names of rows that were not compared, because they were scored on other tokens.
    """

    length: int
    against: str
    words: str
    differences: tuple[PairedDifference, ...]
    unlike: tuple[str, ...]


def against_baseline(all_series: Sequence[ResultSeries], length: int, baseline: str) -> Comparisons:
    """Compare models with a baseline at a length, by method."""
    pairs = [
        (series, base)
        for base in all_series
        for series in all_series
        if base.name == baseline and series.method == base.method and series is not base
    ]
    return _family(pairs, length, baseline, f"models against {baseline} at {length}, every method")


def against_plain(all_series: Sequence[ResultSeries], length: int) -> Comparisons:
    """Compare each model's methods with its plain attention at a length."""
    pairs = [
        (series, base)
        for base in all_series
        for series in all_series
        if base.is_plain
        and series is not base
        and (series.variant, series.where) == (base.variant, base.where)
    ]
    plain = pairs[0][1].pattern.label if pairs else ""
    return _family(pairs, length, plain, f"methods against {plain} attention at {length}")


def _family(
    pairs: Sequence[tuple[ResultSeries, ResultSeries]], length: int, against: str, words: str
) -> Comparisons:
    """Test what the first of each pair loses above the second, where both have a number."""
    ids, unlike = DocumentIds(), []
    tested: list[tuple[ResultSeries, Estimate, SignFlips]] = []
    for series, base in pairs:
        if not (series.has_number(length) and base.has_number(length)):
            continue
        if not (is_alike(series, base) and series.same_targets(length, base, length)):
            unlike.append(f"{series.name} {series.method}")
            continue
        ours, theirs = (average(seed_losses(n, length, ids)) for n in (series, base))
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
        *[f"Not compared, scored on other tokens: {', '.join(family.unlike)}."]
        * bool(family.unlike),
    )
    heads = (*LABELS, f"minus {family.against}", "p", "p (Holm)")
    return Table(f"{title} at {family.length}, {protocol}", heads, tuple(rows), 2, notes)
