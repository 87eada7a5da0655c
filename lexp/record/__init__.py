"""Where numbers go: metrics.jsonl is the truth, the console shows it, wandb may mirror it."""

from lexp.record.console import Console
from lexp.record.metrics import Metrics
from lexp.record.null import Silent
from lexp.record.wandb_log import Label, Line, Mirror, NoMirror, start_mirror

__all__ = ["Console", "Label", "Line", "Metrics", "Mirror", "NoMirror", "Silent", "start_mirror"]
