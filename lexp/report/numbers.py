"""Numbers and labels as every table of a report writes them."""

import math

from lexp.display.table import TableCell
from lexp.report.study_results import ResultSeries
from lexp.statistics import Estimate, PairedMean

LABELS = ("model", "method")
# The smallest p that is printed as a number.
LEAST_P = 0.0001


def labels(series: ResultSeries) -> tuple[TableCell, TableCell]:
    """Return what names a row in every table."""
    return TableCell(series.name), TableCell(series.method)


def interval_text(estimate: Estimate | PairedMean) -> str:
    """Return an estimate with its sign, and its interval if it has one."""
    if not math.isfinite(estimate.low):
        return f"{estimate.value:+.4f}"
    return f"{estimate.value:+.4f} [{estimate.low:+.4f}, {estimate.high:+.4f}]"


def p_text(p: float) -> str:
    """Format a p-value: four decimals, `< 0.0001` below them, "" for NaN."""
    if math.isnan(p):
        return ""
    return f"{p:.4f}" if p >= LEAST_P else f"< {LEAST_P}"


def smallest_p_text(p: float) -> str:
    """Format the least p that a test can return: four decimals, or its first digit; "" for NaN."""
    if math.isnan(p):
        return ""
    return f"{p:.4f}" if p >= LEAST_P else f"{p:.{-math.floor(math.log10(p))}f}"
