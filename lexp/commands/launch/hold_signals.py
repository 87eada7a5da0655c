"""Run Python with SIGUSR2 blocked: `python hold_signals.py ARGUMENTS`, for jobs of SLURM.

SLURM sends SIGUSR2 before a time limit. Until submitit has installed its handler, the signal would
end the job for good, and Python with a job's imports takes seconds to start, tens of them on a busy
node. A signal in that time stays pending and is delivered when the job begins.
"""

import os
import signal
import sys

BLOCKED = {signal.SIGUSR2}


def take_signals() -> None:
    """Unblock the signals; a pending one is delivered at once."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    # -P: submitit, started with -m, must not look for modules in the current folder.
    os.execv(sys.executable, [sys.executable, "-P", *sys.argv[1:]])
