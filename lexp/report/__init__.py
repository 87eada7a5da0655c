"""What comes out of an evaluation: results.csv, tables and curves, and a study's report."""

from lexp.report.plot import results_chart
from lexp.report.results import write_results
from lexp.report.sheet import Sheet, to_markdown, to_rich
from lexp.report.table import METRICS, caption, make_grid, to_sheet

__all__ = [
    "METRICS", "Sheet", "caption", "make_grid", "results_chart", "to_markdown", "to_rich",
    "to_sheet", "write_results",
]  # fmt: skip
