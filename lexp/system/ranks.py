"""The rank of this process among those that train one model, from torchrun or a SLURM step.

The command line imports this before torch, so it must stay light.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lexp.system.errors import ConfigError, LexpError

# Ports where the ranks of a SLURM step meet, by job and step; below the ephemeral ports.
PORTS = range(15000, 30000)


@dataclass(frozen=True)
class Rank:
    """The rank of a process, the number of ranks, and both on its own machine.

    address, port: where rank 0, or torchrun for it, keeps the store; unused by a single process.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = "127.0.0.1"
    port: int = 0

    @property
    def n_threads(self) -> int:
        """Return the number of CPU threads: those of the SLURM task, or a share of the machine."""
        per_task = os.environ.get("SLURM_CPUS_PER_TASK", "")
        if per_task.isdigit():
            return int(per_task)
        return max(1, (os.cpu_count() or 1) // self.local_size)


def place(environment: Mapping[str, str] = os.environ) -> Rank:
    """Return this process's rank; ConfigError if an environment variable is malformed.

    The SLURM step decides, not the job: a batch script is one process, whatever its steps are.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return Rank(
            rank=_number(environment, "RANK"),
            size=_number(environment, "WORLD_SIZE"),
            local_rank=_number(environment, "LOCAL_RANK"),
            local_size=_number(environment, "LOCAL_WORLD_SIZE"),
            address=environment.get("MASTER_ADDR", "127.0.0.1"),
            port=_number(environment, "MASTER_PORT"),
        )
    if "SLURM_PROCID" not in environment or "SLURM_STEP_NUM_TASKS" not in environment:
        return Rank()
    job, step = _number(environment, "SLURM_JOB_ID"), _number(environment, "SLURM_STEP_ID")
    own_port = "MASTER_PORT" in environment
    return Rank(
        rank=_number(environment, "SLURM_PROCID"),
        size=_number(environment, "SLURM_STEP_NUM_TASKS"),
        local_rank=_number(environment, "SLURM_LOCALID"),
        local_size=_number(environment, "SLURM_STEP_TASKS_PER_NODE"),
        address=environment.get("MASTER_ADDR") or _first_host(environment),
        port=_number(environment, "MASTER_PORT") if own_port else PORTS[(job * 31 + step) % 15000],
    )


def _number(environment: Mapping[str, str], name: str) -> int:
    """Return the number a variable begins with: SLURM writes 4(x2) for two nodes of four tasks."""
    digits = re.match(r"\d+", environment.get(name, ""))
    if digits is None:
        raise ConfigError(f"{name}={environment.get(name, '')!r} in the environment: not a number")
    return int(digits[0])


def _first_host(environment: Mapping[str, str]) -> str:
    """Return the machine of rank 0: `gpu003` of a list such as gpu[003-007,9],other."""
    hosts = environment.get("SLURM_STEP_NODELIST", "")
    if environment.get("SLURM_STEP_NUM_NODES") == "1":
        return "127.0.0.1"
    first = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?(?:,|$)", hosts)
    if first is None:
        raise ConfigError(f"SLURM_STEP_NODELIST={hosts!r}: set MASTER_ADDR to the host of rank 0")
    return "".join(part or "" for part in first.groups())


def refuse_several(what: str) -> None:
    """Raise ConfigError if several ranks were started. what: the command, for the message."""
    size = place().size
    if size > 1:
        raise ConfigError(
            f"{what} is for one process, here are {size} ranks (torchrun or a SLURM step): "
            "several ranks train one model by `lexp train`, of a sweep by "
            "hydra/launcher=slurm hydra.launcher.tasks_per_node="
        )


@contextlib.contextmanager
def report_on_rank_zero() -> Iterator[None]:
    """Report an error that all ranks share, such as a mistyped value, on rank 0 only."""
    try:
        yield
    except LexpError as error:
        if error.reported is None:
            error.reported = place().rank > 0
        raise
