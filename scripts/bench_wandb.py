"""What logging to wandb costs a training step: CPU time, in the loop and beside it.

    python scripts/bench_wandb.py [STEPS]

offline: into a folder. mute: online, to a server that takes calls and does not answer. CPU time,
not the clock's: it is the same on a busy machine. "beside" is wandb's thread and its own process,
which cost a run nothing where a core is free.
"""

import os
import socket
import sys
import tempfile
import time
import warnings
from pathlib import Path

from lexp.record import RunLabel, start_wandb

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def children_s() -> float:
    """CPU seconds so far of the processes that this one has started."""
    total = 0.0
    for listed in Path("/proc/self/task").glob("*/children"):
        for pid in listed.read_text().split():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) * TICK_S
    return total


def measure(mode: str, n_steps: int, folder: Path) -> tuple[float, float]:
    """CPU microseconds a step in the loop, and beside it."""
    logger = start_wandb(
        mode, folder, RunLabel("bench", f"{mode}-{n_steps}", "train"), {"lr": 1e-3}
    )
    time.sleep(20)  # the start is not a step's
    loop_s, all_s, beside_s = 0.0, time.process_time(), children_s()
    for step in range(1, n_steps + 1):
        values = {"loss": 2.0 / step, "lr": 1e-3, "grad_norm": 0.5, "tokens": step * 2048}
        started = time.thread_time()
        logger.log(step, {f"train/{key}": value for key, value in values.items()})
        loop_s += time.thread_time() - started
        time.sleep(0.005)
    time.sleep(3)
    beside_s = children_s() - beside_s + time.process_time() - all_s - loop_s
    logger.finish()
    return 1e6 * loop_s / n_steps, 1e6 * beside_s / n_steps


def main() -> None:
    """Print a line for each mode."""
    n_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    warnings.simplefilter("ignore")
    with socket.socket() as listener, tempfile.TemporaryDirectory() as folder:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        os.environ["WANDB_BASE_URL"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
        os.environ["WANDB_API_KEY"] = "0" * 40
        for name, mode in (("off", "off"), ("offline", "offline"), ("mute", "online")):
            loop_us, beside_us = measure(mode, n_steps, Path(folder))
            print(f"{name:8} {loop_us:6.1f} us a step in the loop, {beside_us:6.1f} us beside it")


if __name__ == "__main__":
    main()
