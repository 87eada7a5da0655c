"""The chart of paired differences to a baseline at every length, on the same tokens."""

import math
from collections.abc import Iterator, Sequence

from lexp.display.document import Chart, Curve, Point
from lexp.report.claims import seed_losses
from lexp.report.study_results import DocumentIds, ResultSeries, do_compare
from lexp.statistics import average, difference, mean
from lexp.system.output import Tally

BASELINE = "baseline"
# In nats per token: what separates methods that hold is smaller, what a broken one loses is larger.
LINEAR_TO = 0.01


def differences_chart(all_series: Sequence[ResultSeries], baseline: str) -> Chart | str:
    """Draw the loss of every series above its baseline, with 95 % intervals; or say why not.

    Models are compared with the model `baseline` under the same method; the methods of one model
    with its plain attention. Both must have scored the same tokens of the same text.
    """
    several = len({series.name for series in all_series}) > 1
    pairs = _of_models(all_series, baseline) if several else _of_methods(all_series)
    ids, curves = DocumentIds(), []
    tally = Tally("differences", sum(len(series.lengths) for series, _ in pairs))
    for series, base in pairs:
        points = tuple(_points(series, base, ids, tally))
        if any(math.isfinite(point.y) for point in points):
            curves.append(Curve(series.name, series.method, points))
    if not curves:
        none = "nothing was scored under the same method on the same tokens as " + baseline
        alone = "only plain attention was scored, and one model alone"
        return f"No differences are drawn: {none if several else alone}."
    lengths = sorted({point.x for curve in curves for point in curve.points})
    base = pairs[0][1]
    zero = tuple(Point(length, 0.0, note="the baseline itself") for length in lengths)
    curves.insert(0, Curve(base.name, BASELINE if several else base.plain_method, zero))
    against = f"{base.name}, method by method" if several else f"{base.plain_method} attention"
    return Chart(
        f"Difference to {against}, on the same tokens",
        "context length (tokens)",
        f"nats per token above {base.name if several else base.plain_method}", True, False,
        tuple(curves), tuple((float(n), "trained") for n in _train_lens(all_series)),
        "Below 0: better than the baseline. Paired on the same tokens, mean over seeds; bands are "
        f"95 % intervals over documents. Beyond {LINEAR_TO:g} the axis is logarithmic.",
        linear_to=LINEAR_TO, decimals=4,
    )  # fmt: skip


def _of_models(
    all_series: Sequence[ResultSeries], baseline: str
) -> list[tuple[ResultSeries, ResultSeries]]:
    """Return every series with the baseline's under the same method."""
    return [
        (series, base)
        for base in all_series
        for series in all_series
        if base.name == baseline and series.name != baseline
        and (series.plain_method, series.scored) == (base.plain_method, base.scored)
    ]  # fmt: skip


def _of_methods(
    all_series: Sequence[ResultSeries],
) -> list[tuple[ResultSeries, ResultSeries]]:
    """Return every series with the same model's under plain attention."""
    return [
        (series, base)
        for base in all_series
        for series in all_series
        if base.is_plain and series is not base
        and (series.variant, series.scored) == (base.variant, base.scored)
    ]  # fmt: skip


def _points(
    series: ResultSeries, base: ResultSeries, ids: DocumentIds, tally: Tally
) -> Iterator[Point]:
    """Yield the difference at each length that both were scored at, with its interval."""
    for length in series.lengths:
        tally.advance()
        if length not in base.results:
            continue
        failure = series.failure(length) or base.failure(length)
        if failure:
            yield Point(length, math.nan, note=failure)
        elif not do_compare(series, base, length):
            yield Point(length, math.nan, note="of other seeds than the baseline")
        else:
            ours, theirs = (average(seed_losses(n, length, ids)) for n in (series, base))
            d = difference(ours, theirs)
            estimate = mean(d.nats, d.document)
            yield Point(length, estimate.value, estimate.low, estimate.high, estimate.reason)


def _train_lens(all_series: Sequence[ResultSeries]) -> list[int]:
    return sorted({series.train_len for series in all_series})
