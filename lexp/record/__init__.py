"""Where numbers go: metrics.jsonl is the truth, the console shows it, wandb may mirror it."""

from lexp.record.console import Console
from lexp.record.metrics import Metrics
from lexp.record.null import NullLogger
from lexp.record.wandb_log import ChartLine, Mirror, NoMirror, RunLabel, start_mirror

__all__ = [
    "ChartLine",
    "Console",
    "Metrics",
    "Mirror",
    "NoMirror",
    "NullLogger",
    "RunLabel",
    "start_mirror",
]
