"""Make the chart of perplexity against length that `lexp eval` saves as a picture."""

import math

from lexp.display.document import Chart, Curve, Point
from lexp.evaluate import LAST, EvalResult, text_names
from lexp.report.study_results import method_rank


def results_chart(results: list[EvalResult], notes: dict[str, str]) -> Chart:
    """Draw one protocol: a name per variant of a model, a group per method, a band over seeds.

    A length without a number leaves a gap: a curve that ends was not defined or failed from there
    on. notes: by variant, what tells it apart.
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
    curves = [
        Curve(name, method, tuple(_point(n, seeds) for n, seeds in sorted(by[method].items())))
        for name, by in by_name.items()
        for method in methods
        if method in by
    ]
    words = [results[0].protocol.label, *methods[: len(methods) == 1]]
    trained = sorted({result.run.train_len for result in results})
    return Chart(
        ", ".join(words), "inference length (tokens)", "perplexity per token", True, True,
        tuple(curves), tuple((float(n), "trained") for n in trained),
    )  # fmt: skip


def _point(length: int, results: list[EvalResult]) -> Point:
    """Return the mean and range over seeds; a gap if one of them has no number."""
    values = [result.ppl for result in results]
    if not all(result.ok for result in results):
        return Point(length, math.nan)
    band = (min(values), max(values)) if len(values) > 1 else (math.nan, math.nan)
    return Point(length, sum(values) / len(values), *band)
