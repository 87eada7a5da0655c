"""Launchers of sweeps: jobs one after another, side by side on this machine, or in SLURM."""

from lexp.commands.launch.plan import SweepJob, left_to_do, make_jobs, queued, refuse_unfinished
from lexp.commands.launch.processes import make_slots, run_processes
from lexp.commands.launch.sweep_lines import SweepLines, seconds_left

__all__ = [
    "SweepJob",
    "SweepLines",
    "left_to_do",
    "make_jobs",
    "make_slots",
    "queued",
    "refuse_unfinished",
    "run_processes",
    "seconds_left",
]
