"""Make the chart of perplexity against length that `lexp eval` saves as a picture."""

import math
from collections.abc import Mapping, Sequence

from lexp.display.document import Chart, Curve, Point
from lexp.evaluate import LAST, EvalResult
from lexp.report.perplexity_table import SHORT
from lexp.report.row_names import row_key, row_names
from lexp.report.study_results import method_rank


def results_chart(
    results: Sequence[EvalResult], notes: Mapping[str, str], budgets: Sequence[int] = ()
) -> Chart:
    """Draw one protocol: a name per variant of a model, a group per method, a band over seeds.

    A length without a number leaves a gap: a curve that ends was not defined or failed from there
    on. notes: by variant, what tells it apart. budgets: tokens that the runs were trained on.
    """
    trained = sorted({result.run.train_len for result in results})
    return Chart(
        f"Perplexity by context length - {what_is_shown(results, budgets)}",
        "context length (tokens)", "perplexity per token", True, True,
        tuple(curve for curve, _ in length_curves(results, notes)),
        tuple((float(n), "trained") for n in trained), label=results[0].protocol.label,
    )  # fmt: skip


def what_is_shown(results: Sequence[EvalResult], budgets: Sequence[int] = ()) -> str:
    """Say what the curves have in common: size, trained length, budget, texts, a single method."""
    runs = [result.run for result in results]
    sizes = ", ".join(sorted({run.size for run in runs}))
    lengths = ", ".join(map(str, sorted({run.train_len for run in runs})))
    words = f"{sizes}, trained at {lengths} tokens"
    if budgets:
        ends = [_millions(end) for end in sorted({min(budgets), max(budgets)})]
        words += f" on {' to '.join(ends)} tokens"
    words += f", {', '.join(sorted({r.dataset for r in runs}))}"
    methods = {result.method for result in results}
    return f"{words}, {methods.pop()} attention" if len(methods) == 1 else words


def _millions(tokens: int) -> str:
    return f"{tokens / 1e6:.3g}M" if tokens >= 1e5 else f"{tokens / 1e3:.3g}k"


def length_curves(
    results: Sequence[EvalResult], notes: Mapping[str, str]
) -> list[tuple[Curve, int]]:
    """Return a curve for each variant under each method, with its trained length.

    A point without a number has the kind of failure as its note.
    """
    names = row_names(results)
    groups: dict[tuple, dict[int, list[EvalResult]]] = {}
    for result in results:
        by_length = groups.setdefault((*row_key(result), result.step), {})
        by_length.setdefault(result.length, []).append(result)
    by_name: dict[str, list[tuple[Curve, int]]] = {}
    for by_length in groups.values():
        first = next(iter(by_length.values()))[0]
        step = "" if first.step == LAST else f"step {first.step}"
        words = first.run.model, notes.get(first.run.variant), step, names.where(first)
        points = tuple(_point(n, seeds) for n, seeds in sorted(by_length.items()))
        curve = Curve(" ".join(filter(None, words)), first.method, points)
        by_name.setdefault(curve.name, []).append((curve, first.run.train_len))
    return [
        pair
        for same in by_name.values()
        for pair in sorted(same, key=lambda pair: method_rank(pair[0].group))
    ]


def _point(length: int, results: list[EvalResult]) -> Point:
    """Return the mean and range over seeds; a gap if one of them has no number."""
    values = [result.ppl for result in results]
    failed = [result for result in results if not result.ok]
    if failed:
        return Point(length, math.nan, note=SHORT[failed[0].status])
    band = (min(values), max(values)) if len(values) > 1 else (math.nan, math.nan)
    return Point(length, sum(values) / len(values), *band)
