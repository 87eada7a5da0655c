"""Where the time of training steps goes: torch.profiler on some steps, a table and a trace."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from lexp.system.errors import ConfigError
from lexp.system.files import new_folder, write_bytes

SKIPPED = 2  # steps before the recorded ones: they allocate memory and compile kernels
TRACE = "trace.json"


def check_profile(n_recorded: int | None, n_steps: int) -> None:
    """Raise ConfigError if a run of n_steps steps has not so many to record."""
    most = n_steps - SKIPPED
    if n_recorded is not None and not 1 <= n_recorded <= most:
        raise ConfigError(f"profile_steps={n_recorded} (from 1 to {most}: steps - {SKIPPED})")


@dataclass(frozen=True)
class Operator:
    """The time that an operator took itself, without those it calls, over all recorded steps."""

    name: str
    n_calls: int
    seconds: float


class Profile:
    """Records `n_steps` steps after the first SKIPPED of this start; call `step` after each."""

    def __init__(self, n_steps: int, device: torch.device):
        self._on_gpu = device.type == "cuda"
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self._on_gpu
        self._profiler = profile(activities=activities)
        self._first, self._last, self._n_done = SKIPPED, SKIPPED + n_steps, 0

    def step(self) -> None:
        """Count a finished step; start or stop recording."""
        self._n_done += 1
        if self._n_done == self._first:
            self._profiler.start()
        elif self._n_done == self._last:
            self._profiler.stop()

    @property
    def is_complete(self) -> bool:
        """Return whether all steps were recorded."""
        return self._n_done >= self._last

    def close(self) -> None:
        """Stop recording if training ends earlier."""
        if self._first <= self._n_done < self._last:
            self._profiler.stop()

    def operators(self) -> list[Operator]:
        """Return the operators by time: on the GPU if there is one, else on the CPU."""
        found = [
            Operator(
                event.key,
                event.count,
                (event.self_device_time_total if self._on_gpu else event.self_cpu_time_total) / 1e6,
            )
            for event in self._profiler.key_averages()
        ]
        return sorted(found, key=lambda operator: -operator.seconds)

    def save_trace(self, folder: Path) -> Path:
        """Write the trace, which https://ui.perfetto.dev shows; return its path."""
        with new_folder(folder / TRACE) as scratch:
            written = scratch / TRACE  # torch would follow a link in the run folder
            self._profiler.export_chrome_trace(str(written))
            write_bytes(folder / TRACE, written.read_bytes())
        return folder / TRACE
