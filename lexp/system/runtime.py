"""The machine: device, precision, and the signals that ask a run to stop."""

import contextlib
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any, TypeVar

import torch
from torch.backends import mps

from lexp.system import malloc
from lexp.system.errors import ConfigError, first_line, is_out_of_memory

T = TypeVar("T")


def prepare_process() -> None:
    """Apply process-wide settings; must be called before the first parallel operation."""
    # Decaying biases (ALiBi) make exp() produce denormals, which cost up to 2x on a CPU.
    torch.set_flush_denormal(True)
    malloc.keep()


def choose_device(name: str) -> torch.device:
    """Return the device for device=auto|cpu|cuda|mps; ConfigError if this machine lacks it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": mps.is_available()}
    if not available[name]:
        raise ConfigError(f"device={name}: this machine has none; allowed here: auto, cpu")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> str:
    """Return the precision; auto means bfloat16 on hardware with bfloat16 products."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    # AMX or AVX-512 BF16: products are 4 times as fast, a training step takes 0.45 of the time.
    if device.type == "cpu" and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    ):
        return "bfloat16"
    return "float32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Return the autocast context to run the model in."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


class StopRequest:
    """The number of the signal that asked to stop, or None; signal handlers only set this."""

    number: int | None = None


@contextlib.contextmanager
def stop_signals(request: StopRequest | None = None) -> Iterator[StopRequest]:
    """Record SIGTERM, SIGUSR1, SIGUSR2 or Ctrl-C in the block; a second signal acts as usual.

    Schedulers send a signal before they kill; the work then stops after the current step.
    request: where to record the signal, if it is read afterwards too.
    """
    request = request or StopRequest()
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        request.number = number
        for other, handler in before.items():
            signal.signal(other, handler)

    names = [n for n in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2") if hasattr(signal, n)]
    try:
        for name in names:
            number = getattr(signal, name)
            before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread (a notebook, a test): signals stay as they are
        pass
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def hand_back(request: StopRequest) -> None:
    """Pass a recorded SIGUSR2 to the handler that was installed before, such as submitit's.

    Call it when all files of the run are closed: submitit asks SLURM to queue the job again, and
    SLURM kills the process. Not for SIGTERM: then SLURM queues the job again by itself.
    """
    number = getattr(signal, "SIGUSR2", None)
    if number is None or request.number != number:
        return
    handler = signal.getsignal(number)
    if callable(handler):
        handler(number, None)


def missing_memory(error: BaseException) -> str:
    """Return in words what memory was missing; for other words than torch's on a CPU, the error's.

    torch says where in its code it failed, and the bytes of the one block that it asked for.
    """
    line = first_line(error)
    asked = re.search(r"can't allocate memory: you tried to allocate (\d+) bytes", line)
    if asked is None:
        return line
    return f"not enough memory: {int(asked[1]) / 2**30:,.1f} GiB were asked for at once"


def catch_out_of_memory(compute: Callable[[], T]) -> tuple[T | None, str]:
    """Compute a value and return it with ""; or None and what was missing if memory ran out.

    Memory that torch keeps for later is then given back to the device.
    """
    try:
        return compute(), ""
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = missing_memory(error)
    # Outside the except block: the exception's frames would keep the tensors alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None, reason
