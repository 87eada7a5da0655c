"""Loss on the tokens that a short context cannot predict: LongPPL's idea, for small models.

A judge chooses the tokens (lexp.statistics.key_tokens): another seed of the same variant, so that
its luck is not the judged run's, or any run that the user names.
"""

import math
from collections.abc import Sequence

from lexp.display.table import Table, TableCell
from lexp.evaluate import EvalResult
from lexp.report.study_results import DocumentIds, ResultSeries
from lexp.statistics import BETA, TokenLosses, key_tokens


def long_range_table(
    all_series: Sequence[ResultSeries], alpha: float, judge: str | None
) -> Table | None:
    """Make a table of the mean loss on long-range tokens by length.

    None where no judge has a short and a long context, or no token is long-range.

    alpha: nats that a token must gain between the shortest length and the trained one.
    """
    ids, rows, is_own_judge, n_chosen = DocumentIds(), [], False, 0
    judges = _judges(all_series)
    lengths = sorted({length for series in all_series for length in series.lengths})
    for series in all_series:
        counts: list[int] = []
        sums: dict[int, list[float]] = {}
        for seed in series.seeds:
            chosen = _judge_of(series, seed, judges, judge)
            if chosen is None:
                continue
            by, run = chosen
            is_own_judge |= run == _run(series, seed)
            keys = _keys(by, run, alpha, ids)
            counts.append(len(keys))
            for length in series.lengths if len(keys) else []:
                result = series.results[length].get(seed)
                if result is not None and result.ok:
                    sums.setdefault(length, []).append(_mean_at(result, keys, ids))
        n_chosen += sum(counts)
        if not counts:
            continue
        shown = [TableCell(_value(sums.get(length, []), len(counts))) for length in lengths]
        labels = map(TableCell, (series.name, series.method, ", ".join(map(str, counts))))
        rows.append((*labels, *shown))
    if not n_chosen:
        return None
    warning = (
        " A run that judged itself shows a gain where there is none; train a second seed."
        if is_own_judge
        else ""
    )
    note = (
        f"Nats per token, mean over seeds, on targets whose loss falls by more than {alpha:g} nats "
        "for the judge between the shortest length and the trained one, to less than "
        f"{-BETA:g} (LongPPL, arXiv 2410.23771). Judge: {judge or 'another seed of the variant'}."
        f"{warning}"
    )
    heads = ("model", "method", "tokens", *map(str, lengths))
    return Table(
        f"Long-range tokens (LongPPL), {all_series[0].protocol.label}",
        heads,
        tuple(rows),
        2,
        (note,),
    )


def judging_runs(all_series: Sequence[ResultSeries]) -> list[str]:
    """Return the runs that can choose tokens: with results at the trained length and a shorter."""
    return sorted({run for series in _judges(all_series) for run in _runs(series)})


def _judges(all_series: Sequence[ResultSeries]) -> list[ResultSeries]:
    return [series for series in all_series if series.is_plain and _contexts(series)]


def _contexts(series: ResultSeries) -> tuple[int, int] | None:
    """Return the shortest length and the trained one, if there are two, of the same tokens."""
    if not series.has_number(series.train_len):
        return None
    below = [
        n for n in series.lengths
        if n < series.train_len and not series.failure(n)
    ]  # fmt: skip
    return (min(below), series.train_len) if below else None


def _judge_of(
    series: ResultSeries, seed: int, judges: list[ResultSeries], named: str | None
) -> tuple[ResultSeries, str] | None:
    """Return the series and the run whose losses choose the tokens for a seed."""
    for candidate in judges:
        if named is not None:
            if named in _runs(candidate) and candidate.scored == series.scored:
                return candidate, named
        elif (candidate.variant, candidate.scored) == (series.variant, series.scored):
            others = [s for s in candidate.seeds if s != seed] or [seed]
            return candidate, _run(candidate, others[0])
    return None


def _keys(series: ResultSeries, run: str, alpha: float, ids: DocumentIds) -> set[tuple[int, int]]:
    """Return (document, position) of the tokens that a run's losses choose."""
    contexts = _contexts(series)
    assert contexts is not None, "judges have both"
    short, long = (_of_run(series, length, run, ids) for length in contexts)
    mask = key_tokens(short, long, alpha)
    return set(zip(long.document[mask].tolist(), long.position[mask].tolist(), strict=True))


def _of_run(series: ResultSeries, length: int, run: str, ids: DocumentIds) -> TokenLosses:
    result = next(r for r in series.results[length].values() if r.run.name == run)
    return ids.scored(result.losses())


def _mean_at(result: EvalResult, keys: set[tuple[int, int]], ids: DocumentIds) -> float:
    scored = ids.scored(result.losses())
    places = zip(scored.document.tolist(), scored.position.tolist(), strict=True)
    chosen = [n for n, place in enumerate(places) if place in keys]
    if len(chosen) < len(keys):  # scored on fewer tokens
        return math.nan
    return float(scored.nats[chosen].mean(dtype="float64"))


def _run(series: ResultSeries, seed: int) -> str:
    return next(by_seed[seed].run.name for by_seed in series.results.values() if seed in by_seed)


def _runs(series: ResultSeries) -> set[str]:
    return {result.run.name for result in series.every_result}


def _value(values: list[float], wanted: int) -> str:
    """Format the mean, where every seed has a number."""
    good = len(values) == wanted and all(math.isfinite(v) for v in values)
    return f"{sum(values) / len(values):.3f}" if good else ""
