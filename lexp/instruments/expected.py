"""Values that papers printed for an instrument, beside those found."""

from collections.abc import Sequence

from lexp.display.table import Table, TableCell
from lexp.instruments.base import LabelledMeasurement
from lexp.instruments.over_seeds import finite_mean
from lexp.report.expected import Findings


def findings_sheet(block: Findings, found: Sequence[LabelledMeasurement]) -> Table:
    """A row for each model and method: printed, ours (mean over rows and seeds), of how many rows.

    found: of the block's instrument.
    """
    rows = []
    for model, printed in block.rows.items():
        shown = printed if isinstance(printed, str) else f"{printed:.4g}"
        own = [one for one in found if (one.variant, one.state) == (model, block.state)]
        last = max((one.checkpoint.step for one in own), default=0)
        longest = max((one.length for one in own if one.checkpoint.step == last), default=0)
        then = [one for one in own if (one.length, one.checkpoint.step) == (longest, last)]
        if not then:
            rows.append(tuple(map(TableCell, (model, "", shown, "", "0", ""))))
        for method in sorted({one.method for one in then}, key=lambda m: (m != "full", m)):
            values = [
                float(row[block.column])
                for one in then
                if one.method == method
                for row in one.measurement.rows
                if block.column in row and all(row.get(k) == v for k, v in block.where.items())
            ]
            ours = f"{finite_mean(values):.4g}" if values else ""
            line = (model, method, shown, ours, str(len(values)), str(longest))
            rows.append(tuple(map(TableCell, line)))
    where = ", ".join(f"{key} {value}" for key, value in block.where.items())
    return Table(
        f"{block.instrument}, expected and ours: {block.source}",
        ("model", "method", "expected", "ours", "values", "at length"), tuple(rows), 2,
        (f"Of {block.state} models: {where or 'all rows'}; ours is the mean over seeds and rows "
         "at the longest length.", *filter(None, [block.note])),
    )  # fmt: skip
