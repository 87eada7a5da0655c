"""Where numbers go: metrics.jsonl is the truth, the console shows it, wandb may mirror it."""

from lexp.record.console import Console
from lexp.record.metrics import Metrics
from lexp.record.mirror import Label, Line, Mirror, NoMirror, start_mirror
from lexp.record.silent import Silent

__all__ = ["Console", "Label", "Line", "Metrics", "Mirror", "NoMirror", "Silent", "start_mirror"]
