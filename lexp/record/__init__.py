"""Logs of a run: metrics.jsonl is the record; the console, TensorBoard and wandb show it."""

from lexp.record.console import Console
from lexp.record.event_file import EventFile, start_event_file
from lexp.record.metrics import Metrics
from lexp.record.null import NullLogger
from lexp.record.wandb_log import ChartLine, RunLabel, WandbLogger, log_rows, start_wandb

__all__ = [
    "ChartLine",
    "Console",
    "EventFile",
    "Metrics",
    "NullLogger",
    "RunLabel",
    "WandbLogger",
    "log_rows",
    "start_event_file",
    "start_wandb",
]
