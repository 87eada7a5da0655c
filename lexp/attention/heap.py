"""Memory that was freed, given back to the system."""

import ctypes


def give_back() -> None:
    """Ask the C library to return what it holds in pieces; nothing where it has no such call.

    Tiles against ever more keys ask for ever larger blocks, into which no freed one fits: at 64k
    tokens glibc held 5 GiB for tiles of 60 MiB.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
