"""The machine: device, precision, and the signals that ask a run to stop."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any, TypeVar

import torch
from torch.backends import mps

from lexp.system import malloc as heap
from lexp.system.errors import ConfigError, first_line

T = TypeVar("T")


def prepare_process() -> None:
    """Process-wide settings; called before the first parallel operation, without effect later."""
    # Decaying biases (ALiBi) make exp() produce denormals, which cost up to 2x on a CPU.
    torch.set_flush_denormal(True)
    heap.keep()


def choose_device(name: str) -> torch.device:
    """The device for device=auto|cpu|cuda|mps; ConfigError if this machine has none such."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": mps.is_available()}
    if not available[name]:
        raise ConfigError(f"device={name}: this machine has none; allowed here: auto, cpu")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> str:
    """The precision for precision=auto: bfloat16 autocast where the hardware multiplies in it."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    # AMX, or AVX-512 with products of bfloat16: 4 times float32's there, a training step 0.45.
    if device.type == "cpu" and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    ):
        return "bfloat16"
    return "float32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The context to run the model in."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


class StopRequest:
    """Whether a signal has asked to stop, and which; the handler only sets this."""

    number: int | None = None


@contextlib.contextmanager
def stop_signals(request: StopRequest | None = None) -> Iterator[StopRequest]:
    """Within: SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C are noted; a second one acts as before.

    Schedulers send the first before they kill; the work then stops at its next whole step.
    request: where to note them, if it is to be read afterwards too.
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
    """After a run has saved: give SIGUSR2 to whoever waited for it before, such as submitit.

    Called when nothing of the run is open any more: submitit asks SLURM to queue the job again,
    and SLURM kills what is left of it. Not for SIGTERM: then SLURM queues it again by itself.
    """
    number = getattr(signal, "SIGUSR2", None)
    if number is None or request.number != number:
        return
    handler = signal.getsignal(number)
    if callable(handler):
        handler(number, None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def catch_out_of_memory(compute: Callable[[], T]) -> tuple[T | None, str]:
    """Compute a value and return it with ""; or None and the error's first line if memory ran out.

    Memory that torch keeps for later is then given back to the device.
    """
    try:
        return compute(), ""
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error)
    # Outside the except block: the exception's frames would keep the tensors alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None, reason
