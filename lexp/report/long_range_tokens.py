"""Loss on the few tokens that a short context cannot predict: LongPPL's idea, for small models.

A judge chooses the tokens (lexp.statistics.key_tokens): another seed of the same variant, so that
its luck is not the judged run's, or any run that the user names.
"""

import math
from collections.abc import Sequence

from lexp.display.table import Table, TableCell
from lexp.report.study_results import DocumentIds, ResultSeries, StoredResult, same_text
from lexp.statistics import BETA, TokenLosses, key_tokens


def key_sheet(lines: Sequence[ResultSeries], alpha: float, judge: str | None) -> Table | None:
    """Mean loss on long-range tokens by length; None where no judge has a short and a long context.

    alpha: nats that a token must gain between the shortest length and the trained one.
    """
    numbers, rows, own_judges = DocumentIds(), [], False
    judges = _judges(lines)
    lengths = sorted({length for line in lines for length in line.lengths})
    for line in lines:
        counts: list[int] = []
        sums: dict[int, list[float]] = {}
        for seed in line.seeds:
            chosen = _judge_of(line, seed, judges, judge)
            if chosen is None:
                continue
            by, run = chosen
            own_judges |= run == _run(line, seed)
            keys = _keys(by, run, alpha, numbers)
            counts.append(len(keys))
            for length in line.lengths if len(keys) else []:
                known = line.cells[length].get(seed)
                if known is not None and known.cell.ok:
                    sums.setdefault(length, []).append(_mean_at(known, keys, numbers))
        if not counts:
            continue
        shown = [TableCell(_value(sums.get(length, []), len(counts))) for length in lengths]
        labels = map(TableCell, (line.name, line.method, ", ".join(map(str, counts))))
        rows.append((*labels, *shown))
    if not rows:
        return None
    own = (
        " A run that judged itself shows a gain where there is none; train a second seed."
        if own_judges
        else ""
    )
    note = (
        f"Nats per token, mean over seeds, on targets whose loss falls by more than {alpha:g} nats "
        "for the judge between the shortest length and the trained one, to less than "
        f"{-BETA:g} (LongPPL, arXiv 2410.23771). Judge: {judge or 'another seed of the variant'}."
        f"{own}"
    )
    heads = ("model", "method", "tokens", *map(str, lengths))
    return Table(f"Long-range tokens, {lines[0].protocol}", heads, tuple(rows), 2, (note,))


def judging_runs(lines: Sequence[ResultSeries]) -> list[str]:
    """The runs that can choose tokens: scored in full at the trained length and a shorter one."""
    return sorted({run for line in _judges(lines) for run in _runs(line)})


def _judges(lines: Sequence[ResultSeries]) -> list[ResultSeries]:
    return [line for line in lines if line.is_plain and _contexts(line)]


def _contexts(line: ResultSeries) -> tuple[int, int] | None:
    """The shortest length and the trained one, if there are two, of the same tokens."""
    if line.train_len not in line.cells or line.failure(line.train_len):
        return None
    below = [
        n for n in line.lengths
        if n < line.train_len
        and not line.failure(n)
        and line.same_amount(n, line, line.train_len)
    ]  # fmt: skip
    return (min(below), line.train_len) if below else None


def _judge_of(
    line: ResultSeries, seed: int, judges: list[ResultSeries], named: str | None
) -> tuple[ResultSeries, str] | None:
    """The line and the run whose losses choose the tokens for a seed."""
    for candidate in judges:
        if named is not None:
            if named in _runs(candidate) and same_text(line, candidate):
                return candidate, named
        elif (candidate.variant, candidate.text, candidate.precision) == (
            line.variant, line.text, line.precision,
        ):  # fmt: skip
            others = [s for s in candidate.seeds if s != seed] or [seed]
            return candidate, _run(candidate, others[0])
    return None


def _keys(line: ResultSeries, run: str, alpha: float, numbers: DocumentIds) -> set[tuple[int, int]]:
    """(document, position) of the tokens that a run's losses choose."""
    contexts = _contexts(line)
    assert contexts is not None, "judges have both"
    short, long = (_of_run(line, length, run, numbers) for length in contexts)
    mask = key_tokens(short, long, alpha)
    return set(zip(long.document[mask].tolist(), long.position[mask].tolist(), strict=True))


def _of_run(line: ResultSeries, length: int, run: str, numbers: DocumentIds) -> TokenLosses:
    known = next(k for k in line.cells[length].values() if k.cell.run == run)
    return numbers.scored(known.losses())


def _mean_at(known: StoredResult, keys: set[tuple[int, int]], numbers: DocumentIds) -> float:
    scored = numbers.scored(known.losses())
    places = zip(scored.document.tolist(), scored.position.tolist(), strict=True)
    chosen = [n for n, place in enumerate(places) if place in keys]
    if len(chosen) < len(keys):  # scored on fewer tokens
        return math.nan
    return float(scored.nats[chosen].mean(dtype="float64"))


def _run(line: ResultSeries, seed: int) -> str:
    return next(by[seed].cell.run for by in line.cells.values() if seed in by)


def _runs(line: ResultSeries) -> set[str]:
    return {known.cell.run for by in line.cells.values() for known in by.values()}


def _value(values: list[float], wanted: int) -> str:
    """The mean, where every seed has a number."""
    good = len(values) == wanted and all(math.isfinite(v) for v in values)
    return f"{sum(values) / len(values):.3f}" if good else ""
