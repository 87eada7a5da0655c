"""Make the chart of perplexity against length that `lexp eval` saves as a picture."""

import math
from collections.abc import Mapping, Sequence

from lexp.display.document import Chart, Curve, Point
from lexp.evaluate import LAST, EvalResult, text_names
from lexp.report.perplexity_table import SHORT
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
    texts = text_names(r.run for r in results)
    several_precisions = len({r.run.precision for r in results}) > 1
    by_name: dict[str, dict[str, dict[int, list[EvalResult]]]] = {}
    for result in results:
        run = result.run
        name = " ".join(filter(None, (run.model, notes.get(run.variant))))
        name += "" if result.step == LAST else f" step {result.step}"
        name += f" on {texts[run.text]}" if len(texts) > 1 else ""
        name += f" in {run.precision}" if several_precisions else ""
        by_length = by_name.setdefault(name, {}).setdefault(result.method, {})
        by_length.setdefault(result.length, []).append(result)
    methods = sorted({result.method for result in results}, key=method_rank)
    curves = []
    for name, by in by_name.items():
        for method in (method for method in methods if method in by):
            points = tuple(_point(n, seeds) for n, seeds in sorted(by[method].items()))
            train_len = next(iter(by[method].values()))[0].run.train_len
            curves.append((Curve(name, method, points), train_len))
    return curves


def _point(length: int, results: list[EvalResult]) -> Point:
    """Return the mean and range over seeds; a gap if one of them has no number."""
    values = [result.ppl for result in results]
    failed = [result for result in results if not result.ok]
    if failed:
        return Point(length, math.nan, note=SHORT[failed[0].status])
    band = (min(values), max(values)) if len(values) > 1 else (math.nan, math.nan)
    return Point(length, sum(values) / len(values), *band)
