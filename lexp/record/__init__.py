"""Logs of a run: metrics.jsonl is the record; the console and wandb show it."""

from lexp.record.console import Console
from lexp.record.metrics import Metrics
from lexp.record.null import NullLogger
from lexp.record.wandb_log import ChartLine, RunLabel, WandbLogger, start_wandb

__all__ = [
    "ChartLine",
    "Console",
    "Metrics",
    "NullLogger",
    "RunLabel",
    "WandbLogger",
    "start_wandb",
]
