"""The generated part of docs/results.md and its picture: study=reference."""

import math

from page_parts import (
    BASE,
    WINDOW,
    curves_by_length,
    made_by,
    missing,
    perplexity,
    printed,
    shown,
    table,
    wrapped,
)
from result_cells import PlannedStudy, Results, difference, gain_within

METHODS = ("full", "trained", "blockwise", "window", "window_sinks", "self_extend", "ntk", "yarn")


def generated(results: Results, study: PlannedStudy) -> str:
    """Return the generated part of the page."""
    order = [scheme for scheme in study.schemes if scheme in results.runs]
    lines = missing(results, study)
    if order:
        lines = [*made_by(results), *lines, *_criterion(results), *_by_length(results, order)]
        lines += [*_methods(results, order), *_far(results, order)]
        lines += printed(results, study.expected)
    return "\n".join(lines)


def picture(results: Results, study: PlannedStudy) -> bytes:
    """Return the chart: each scheme as it was trained, and RoPE under BCA and in a window."""
    lines = [(s, results.plain(s)) for s in study.schemes if s in results.runs]
    return curves_by_length(results, [*lines, *((BASE, m) for m in ("blockwise", WINDOW))])


def _criterion(results: Results) -> list[str]:
    """Say whether RoPE uses its context: the gain from a quarter of the trained length."""
    d = gain_within(results, BASE)
    if d is None:
        return []
    verdict = "met" if d[0] > d[1] else "NOT met: the budget is too small"
    return wrapped(
        f"Criterion: from {results.train_len // 4} to {results.train_len} tokens of context RoPE "
        f"gains {d[0]:.4f} nats per token, [{d[0] - d[1]:.4f}, {d[0] + d[1]:.4f}]: {verdict}."
    )


def _by_length(results: Results, order: list[str]) -> list[str]:
    train_len, lengths = results.train_len, results.lengths("fixed")
    longest = max(lengths)
    heads = [f"{n} (trained)" if n == train_len else str(n) for n in lengths]
    heads = ["scheme", "seeds", *heads, f"gain {train_len // 4} to {train_len}",
             f"gain {train_len} to {longest}", f"minus `{BASE}` at {train_len}"]  # fmt: skip
    base = results.cell(BASE, "", train_len)
    rows = []
    for scheme in order:
        trained = results.cell(scheme, "", train_len)
        rows.append([
            f"`{scheme}`", str(len(results.runs[scheme])),
            *(perplexity(results.cell(scheme, "", n)) for n in lengths),
            shown(gain_within(results, scheme)),
            shown(difference(trained, results.cell(scheme, "", longest))),
            "" if scheme == BASE else shown(difference(trained, base)),
        ])  # fmt: skip
    return ["### As trained, by length", "", *table(heads, rows)]


def _methods(results: Results, order: list[str]) -> list[str]:
    longest = max(results.lengths("fixed"))
    methods = [m for m in METHODS if any(key[1] == m for key in results.cells)]
    rows = []
    for scheme in order:
        cells = [results.cell(scheme, m, longest) for m in methods]
        best = min((cell.nll for cell in cells if cell), default=math.nan)
        texts = [
            f"**{perplexity(cell)}**" if cell and cell.nll < best + 5e-4 else perplexity(cell)
            for cell in cells
        ]
        rows.append([f"`{scheme}`", *texts])
    title = f"### Methods at {longest} tokens"
    return [title, "", *table(["scheme", *methods], rows)]


def _far(results: Results, order: list[str]) -> list[str]:
    """Compare at the longest length: with the own window, and with the baseline's."""
    longest = max(results.lengths("fixed"))
    base = results.cell(BASE, WINDOW, longest)
    rows = []
    for scheme in order:
        own, window = results.cell(scheme, "", longest), results.cell(scheme, WINDOW, longest)
        rows.append([
            f"`{scheme}`",
            shown(difference(own, window)),
            shown(difference(results.cell(scheme, "blockwise", longest), window)),
            shown(difference(own, base)),
            "" if scheme == BASE else shown(difference(window, base)),
        ])  # fmt: skip
    heads = ("scheme", "as trained minus its window", "BCA minus its window",
             f"as trained minus `{BASE}` in its window",
             f"its window minus `{BASE}` in its window")  # fmt: skip
    return [f"### Differences at {longest} tokens", "", *table(heads, rows)]
