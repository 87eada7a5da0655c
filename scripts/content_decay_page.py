"""The generated part of docs/studies/content_decay.md and its picture."""

from page_parts import (
    BASE,
    NONE,
    WINDOW,
    curves_by_length,
    items,
    made_by,
    missing,
    named,
    perplexity,
    shown,
    table,
)
from result_cells import (
    DELTA,
    Difference,
    PlannedStudy,
    Results,
    difference,
    gain_within,
    reach_of,
)

BCA = "blockwise"
BY_DISTANCE = ("rope", "alibi")


def generated(results: Results, study: PlannedStudy) -> str:
    """Return the generated part of the page."""
    order = [scheme for scheme in study.schemes if scheme in results.runs]
    if not order:
        return "\n".join(missing(results, study))
    lines = [*_conclusions(results, order), *made_by(results), *missing(results, study)]
    return "\n".join([*lines, *_reach_and_gain(results, order), *_methods(results, order)])


def picture(results: Results, study: PlannedStudy) -> bytes:
    """Return the chart: each scheme as it was trained, and RoPE under BCA."""
    lines = [(s, results.plain(s)) for s in study.schemes if s in results.runs]
    return curves_by_length(results, [*lines, (BASE, BCA)])


def _gain_beyond(results: Results, scheme: str) -> Difference | None:
    """Return what a scheme gains from the trained length to the longest one."""
    trained, longest = results.train_len, max(results.lengths("fixed"))
    return difference(results.cell(scheme, "", trained), results.cell(scheme, "", longest))


def _minus(results: Results, scheme: str, other: str, method: str) -> Difference | None:
    """Return a scheme as trained minus another one under a method, at the longest length."""
    longest = max(results.lengths("fixed"))
    return difference(results.cell(scheme, "", longest), results.cell(other, method, longest))


def _conclusions(results: Results, order: list[str]) -> list[str]:
    """Say in sentences who holds, who uses what is further back, and who is best."""
    longest = max(results.lengths("fixed"))
    reaches = {scheme: reach_of(results, scheme) for scheme in order}
    holds = [scheme for scheme, own in reaches.items() if own.censored]
    breaks = [f"`{s}` at {r.length}" for s, r in reaches.items() if r.length and not r.censored]
    beyond = {scheme: _gain_beyond(results, scheme) for scheme in order}
    against = {scheme: _minus(results, scheme, scheme, WINDOW) for scheme in order}
    gains = [s for s, d in beyond.items() if d and d[0] > d[1]]
    uses = [s for s, d in against.items() if d and -d[0] > d[1] and s in gains]
    base = {s: _minus(results, s, BASE, BCA) for s in order if s not in BY_DISTANCE}
    better = [s for s, d in base.items() if d and -d[0] > d[1]]
    worse = [s for s, d in base.items() if d and d[0] > d[1]]
    texts = [
        f"Reach: to all {longest} tokens: {named(holds)}"
        + f"; not further than: {', '.join(breaks)}" * bool(breaks) + ".",
        f"Gain beyond the trained length, interval above 0: {named(gains)}. Of these better than "
        f"in their own plain window of {results.train_len} tokens, so by a use of longer context: "
        f"{named(uses)}.",
        f"At {longest} tokens, schemes that read the tokens, against RoPE under BCA: better "
        f"{named(better)}, worse {named(worse)}. {_spread(results)}",
    ]  # fmt: skip
    return items(texts)


def _spread(results: Results) -> str:
    """Say by how much the seeds of one scheme differ, as intervals are over texts alone."""
    ranges = {}
    for scheme in results.runs:
        cell = results.cell(scheme, "", results.train_len)
        if cell and len(cell.each) > 1:
            ranges[scheme] = max(cell.each.values()) - min(cell.each.values())
    if not ranges:
        return "One seed each: no difference between schemes is safe."
    each = " and ".join(f"{value:.3f} nats (`{scheme}`)" for scheme, value in ranges.items())
    return (
        f"Seeds of one scheme differ by up to {each} at {results.train_len} tokens; a smaller "
        "difference between schemes is not safe."
    )


def _reach_and_gain(results: Results, order: list[str]) -> list[str]:
    trained, lengths = results.train_len, results.lengths("fixed")
    longest = max(lengths)
    heads = [f"{n} (trained)" if n == trained else str(n) for n in lengths]
    rows = []
    for scheme in order:
        own = reach_of(results, scheme)
        rows.append([
            f"`{scheme}`", str(len(results.runs[scheme])),
            *(perplexity(results.cell(scheme, "", n)) for n in lengths),
            NONE if own.length is None else f"{'≥ ' * own.censored}{own.length}",
            shown(gain_within(results, scheme)), shown(_gain_beyond(results, scheme)),
        ])  # fmt: skip
    heads = ["scheme", "seeds", *heads, "reach", f"gain {trained // 4} to {trained}",
             f"gain {trained} to {longest}"]  # fmt: skip
    return [f"### Reach (at most {DELTA:g} nats worse) and gain, as trained", "",
            *table(heads, rows)]  # fmt: skip


def _methods(results: Results, order: list[str]) -> list[str]:
    """Compare at the longest length with the own window, and with RoPE under BCA."""
    longest = max(results.lengths("fixed"))
    rows = []
    for scheme in order:
        window, bca = (results.cell(scheme, m, longest) for m in (WINDOW, BCA))
        rows.append([
            f"`{scheme}`", shown(_minus(results, scheme, scheme, WINDOW)),
            shown(difference(bca, window)), shown(_minus(results, scheme, BASE, BCA)),
            "" if scheme == BASE else shown(difference(bca, results.cell(BASE, BCA, longest))),
        ])  # fmt: skip
    heads = ("scheme", "as trained minus its window", "BCA minus its window",
             "as trained minus RoPE + BCA", "BCA minus RoPE + BCA")  # fmt: skip
    return [f"### Differences at {longest} tokens", "", *table(heads, rows)]
