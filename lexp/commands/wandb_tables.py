"""What wandb is shown of an evaluation: its cells as a table, its curves as charts."""

import math
from typing import Any

from lexp.evaluate import COLUMNS, EvalResult
from lexp.record import ChartLine, NullLogger, RunLabel, WandbLogger
from lexp.report.perplexity_table import Grid
from lexp.system.files import digest

# What an evaluation's numbers do not depend on.
APART = ("outputs", "plan", "workers", "wandb", "allow_partial", "device")


def make_label(settings: dict[str, Any]) -> RunLabel:
    """What an evaluation is called: the same question, asked again, goes on as the same run."""
    asked = digest({key: value for key, value in settings.items() if key not in APART})
    return RunLabel(settings["name"], f"eval-{asked[:6]}", "eval")


def show_evaluation(
    wandb: WandbLogger | NullLogger, results: list[EvalResult], grids: list[Grid]
) -> None:
    """The results as they stand in results.csv, and a chart of every grid, one line a row."""
    rows = [[_plain(result.row()[column]) for column in COLUMNS] for result in results]
    wandb.table("results", list(COLUMNS), rows)
    for grid in grids:
        lines = []
        for row in grid.rows:
            points = {n: e.value for n, e in row.entries.items() if math.isfinite(e.value)}
            name = " ".join(filter(None, (label(row) for label in grid.labels.values())))
            if points:
                lines.append(ChartLine(name, list(points), list(points.values())))
        if lines:
            wandb.chart(grid.title, "length", lines)


def _plain(value: Any) -> Any:
    """A number that is not finite as none: wandb has no other sign for it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
