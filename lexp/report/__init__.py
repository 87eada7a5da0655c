"""Tables, charts and claims made from a study's results."""

from lexp.report.perplexity_table import (
    METRICS,
    caption,
    make_grid,
    metrics_in_order,
    to_table,
)
from lexp.report.ratio_map import results_picture
from lexp.report.results import append_probes, append_results, write_probes, write_results

__all__ = [
    "METRICS",
    "append_probes",
    "append_results",
    "caption",
    "make_grid",
    "metrics_in_order",
    "results_picture",
    "to_table",
    "write_probes",
    "write_results",
]
