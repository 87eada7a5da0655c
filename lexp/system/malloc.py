"""Memory that was freed: kept for the next to come, or given back to the system.

Of the GNU C library; elsewhere nothing happens.
"""

import ctypes

# Parameters of mallopt(3): nothing is returned by itself, large blocks come from the heap.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
KEEPING = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 << 20}


def keep() -> None:
    """From here on large blocks come from what was freed, not from new pages.

    Steps and passes ask for the same blocks again and again, and the system clears every new page:
    3 to 20 % of a training step, 25 % of a pass under blockwise attention.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in KEEPING.items():
            mallopt(parameter, value)


def give_back() -> None:
    """Ask the C library to return what it holds in pieces; nothing where it has no such call.

    Tiles against ever more keys ask for ever larger blocks, into which no freed one fits: at 64k
    tokens glibc held 5 GiB for tiles of 60 MiB.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
