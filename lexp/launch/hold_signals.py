"""Runs Python with SIGUSR2 held back: `python held.py ARGUMENTS`, for jobs of SLURM.

SLURM sends it before a time limit; until submitit waits for it, it would end the job for good.
Python and the imports of a job take seconds, tens of them on a busy node: what comes in that time
is held back, by this process and the one it becomes, and taken when the job begins.
"""

import os
import signal
import sys

HELD = {signal.SIGUSR2}


def take_signals() -> None:
    """From now on they arrive, one that was held back at once."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
