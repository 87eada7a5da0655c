"""What comes out of an evaluation: results.csv, tables and curves."""

from lexp.report.plot import plot_curves
from lexp.report.results import write_results
from lexp.report.table import METRICS, caption, make_grid, to_markdown, to_rich

__all__ = [
    "METRICS", "caption", "make_grid", "plot_curves", "to_markdown", "to_rich", "write_results",
]  # fmt: skip
