"""Where numbers go: metrics.jsonl is the truth, the console shows it, wandb may mirror it."""

from lexp.record.console import Console
from lexp.record.metrics import Metrics
from lexp.record.mirror import Mirror, start_mirror

__all__ = ["Console", "Metrics", "Mirror", "start_mirror"]
