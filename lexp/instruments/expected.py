"""Values that papers printed for an instrument, beside those measured here."""

from collections.abc import Sequence

from lexp.display.table import Table, TableCell
from lexp.instruments.base import LabelledMeasurement
from lexp.instruments.over_seeds import finite_mean
from lexp.report.expected import Findings


def measured_table(block: Findings, results: Sequence[LabelledMeasurement]) -> Table:
    """Make a row for each model and method: printed, ours (mean of rows and seeds), of how many.

    results: of the block's instrument.
    """
    rows = []
    for model, printed in block.rows.items():
        shown = printed if isinstance(printed, str) else f"{printed:.4g}"
        of_model = [r for r in results if (r.variant, r.state) == (model, block.state)]
        last = max((r.checkpoint.step for r in of_model), default=0)
        longest = max((r.length for r in of_model if r.checkpoint.step == last), default=0)
        compared = [r for r in of_model if (r.length, r.checkpoint.step) == (longest, last)]
        if not compared:
            rows.append(tuple(map(TableCell, (model, "", shown, "", "0", ""))))
        for method in sorted(
            {result.method for result in compared}, key=lambda m: (m != "full", m)
        ):
            values = [
                float(row[block.column])
                for result in compared
                if result.method == method
                for row in result.measurement.rows
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
