"""The paired t-test over seeds that KERPLE reports (Chi et al. 2022, arXiv 2205.09921)."""

import math
from collections.abc import Sequence

from lexp.display.table import Table, TableCell
from lexp.report.claims import seed_losses
from lexp.report.numbers import p_text
from lexp.report.study_results import DocumentIds, ResultSeries
from lexp.statistics import holm, paired_by_seed
from lexp.system.text import counted

# Two seeds give a t interval with one degree of freedom, too wide to be of use.
LEAST_SEEDS = 3


def paired_table(all_series: Sequence[ResultSeries], baseline: str) -> Table | None:
    """Compare each model with the baseline at every length, by seed; None below LEAST_SEEDS."""
    ids = DocumentIds()
    differences: dict[tuple[str, str], dict[int, tuple[float, float]]] = {}
    for base in (series for series in all_series if series.name == baseline):
        for series in all_series:
            if series is base or not _pairs(series, base):
                continue
            for length in sorted(set(series.lengths) & set(base.lengths)):
                if series.failure(length) or base.failure(length):
                    continue
                d = paired_by_seed(
                    seed_losses(series, length, ids), seed_losses(base, length, ids), draws=2
                )
                differences.setdefault((series.name, series.method), {})[length] = d.mean, d.p
    if not differences:
        return None
    p_values = {
        f"{key} {length}": p
        for key, by_length in differences.items()
        for length, (_, p) in by_length.items()
    }
    family = f"models against {baseline}, every method and length"
    adjusted = {test.name: test.adjusted for test in holm(p_values, family)}
    lengths = sorted({length for by_length in differences.values() for length in by_length})
    rows = []
    for key, by_length in differences.items():
        fields = []
        for length in lengths:
            value, p = by_length.get(length, (math.nan, math.nan))
            sure = adjusted.get(f"{key} {length}", 1.0) < 0.05
            text = f"{value:+.4f} (p {p_text(p)})" if math.isfinite(p) else ""
            fields.append(TableCell(text, "best" if sure and value < 0 else ""))
        rows.append((*map(TableCell, key), *fields))
    note = (
        f"Nats per token above {baseline}, with p of the paired t-test over seeds of equal number "
        "(two-sided, not corrected, as KERPLE reports it; texts held fixed). Bold: below 0 "
        f"also after Holm's correction over {counted(len(p_values), 'comparison')}. Runs of the "
        "same seed share the order of the training texts and nothing else."
    )
    title = f"Paired t-test over seeds, {all_series[0].protocol.label}"
    return Table(title, ("model", "method", *map(str, lengths)), tuple(rows), 2, (note,))


def _pairs(series: ResultSeries, base: ResultSeries) -> bool:
    """Return True if both have one method, the same seeds, enough of them, and the same tokens."""
    is_alike = (series.plain_method, series.scored) == (base.plain_method, base.scored)
    return is_alike and series.seeds == base.seeds and len(series.seeds) >= LEAST_SEEDS
