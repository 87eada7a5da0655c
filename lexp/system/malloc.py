"""Freed memory: kept by the process for reuse, or returned to the system.

For the GNU C library; elsewhere these functions do nothing.
"""

import ctypes

# Parameters of mallopt(3): return nothing automatically, take large blocks from the heap.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
KEEPING = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 << 20}


def keep() -> None:
    """Make the process reuse freed memory for large blocks instead of asking for new pages.

    Training steps and forward passes allocate the same blocks again and again, and the system
    clears each new page: 3 to 20 % of a training step, 25 % of a pass under blockwise attention.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in KEEPING.items():
            mallopt(parameter, value)


def give_back() -> None:
    """Return freed memory to the system.

    Tiles against more and more keys need larger and larger blocks, and no freed block is large
    enough: at 64k tokens glibc held 5 GiB for tiles of 60 MiB.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
