"""The paired t-test over seeds that KERPLE reports (Chi et al. 2022, arXiv 2205.09921)."""

import math
from collections.abc import Sequence

from lexp.display.table import Table, TableCell
from lexp.report.claims import seed_losses
from lexp.report.study_results import DocumentIds, ResultSeries, same_text
from lexp.statistics import holm, paired_by_seed

# Two seeds make a t interval with one degree of freedom, which is as good as none.
LEAST_SEEDS = 3


def paired_table(all_series: Sequence[ResultSeries], baseline: str) -> Table | None:
    """Each model minus the baseline at every length, by seed; None below LEAST_SEEDS seeds."""
    ids = DocumentIds()
    found: dict[tuple[str, str], dict[int, tuple[float, float]]] = {}
    for base in (series for series in all_series if series.name == baseline):
        for series in all_series:
            if series is base or series.method != base.method or not _pairs(series, base):
                continue
            for length in sorted(set(series.lengths) & set(base.lengths)):
                if series.failure(length) or base.failure(length):
                    continue
                if not series.same_amount(length, base, length):
                    continue
                d = paired_by_seed(
                    seed_losses(series, length, ids), seed_losses(base, length, ids), draws=2
                )
                found.setdefault((series.name, series.method), {})[length] = d.mean, d.p
    if not found:
        return None
    p_values = {
        f"{key} {length}": p for key, own in found.items() for length, (_, p) in own.items()
    }
    family = f"models against {baseline}, every method and length"
    adjusted = {one.name: one.adjusted for one in holm(p_values, family)}
    lengths = sorted({length for own in found.values() for length in own})
    rows = []
    for key, own in found.items():
        fields = []
        for length in lengths:
            value, p = own.get(length, (math.nan, math.nan))
            sure = adjusted.get(f"{key} {length}", 1.0) < 0.05
            text = f"{value:+.4f} (p {p:.2g})" if math.isfinite(p) else ""
            fields.append(TableCell(text, "best" if sure and value < 0 else ""))
        rows.append((*map(TableCell, key), *fields))
    note = (
        f"Nats per token above {baseline}, with p of the paired t-test over seeds of equal number "
        "(two-sided, not corrected, as KERPLE reports it; these texts held fixed). Bold: below 0 "
        f"also after Holm's correction over {len(p_values)} comparisons. The same number means the "
        "same order of the training texts, and nothing else in common."
    )
    title = f"Paired t-test over seeds, {all_series[0].protocol.label}"
    return Table(title, ("model", "method", *map(str, lengths)), tuple(rows), 2, (note,))


def _pairs(series: ResultSeries, base: ResultSeries) -> bool:
    """Whether both have the same seeds, enough of them, and the same tokens."""
    return (
        series.seeds == base.seeds and len(series.seeds) >= LEAST_SEEDS and same_text(series, base)
    )
