"""Memory that was freed: kept for the next to come, or given back to the system.

Of the GNU C library; elsewhere nothing happens.
"""

import contextlib
import ctypes
from collections.abc import Iterator

# Parameters of mallopt(3), what keeps memory, and glibc's defaults.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
KEEPING = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 << 20}
DEFAULTS = {M_MMAP_MAX: 65536, M_TRIM_THRESHOLD: 128 << 10, M_TOP_PAD: 128 << 10}


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Within: large blocks come from what was freed, not from new pages.

    A training step asks for the same blocks again and again, and the system clears every new page:
    4 to 20 % of a step's time, for no more memory at its peak. Not for what grows (`give_back`).
    """
    _set(KEEPING)
    try:
        yield
    finally:
        _set(DEFAULTS)
        give_back()


def give_back() -> None:
    """Ask the C library to return what it holds in pieces; nothing where it has no such call.

    Tiles against ever more keys ask for ever larger blocks, into which no freed one fits: at 64k
    tokens glibc held 5 GiB for tiles of 60 MiB.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _set(values: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for parameter, value in values.items():
        if mallopt is not None:
            mallopt(parameter, value)
