"""Child processes: they find this lexp, and take no module from the current folder.

Python started with `-m` or `-c` looks for modules in the current folder first, so a `torch.py` or
`multiprocessing/` in a folder of somebody else would run as soon as a child starts there.
"""

import os
import sys

# The folder in which the package lexp is: site-packages, or the checkout.
PACKAGE_FOLDER = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def protect_children() -> None:
    """Keep the current folder off the module path of every Python that this process starts.

    Also of those that libraries start: workers of multiprocessing, of torch.compile, of submitit.
    PYTHONPATH keeps what the user has put there; only empty entries, as in `PYTHONPATH=:/mine`,
    which mean the current folder too, are left out.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    if "PYTHONPATH" in os.environ:
        os.environ["PYTHONPATH"] = os.pathsep.join(_module_folders())


def lexp_command(*words: str) -> list[str]:
    """Return the command line of a child that runs `lexp WORDS`."""
    return [sys.executable, "-P", "-m", "lexp", *words]


def child_environment() -> dict[str, str]:
    """Return the environment of a child that runs lexp: protected, and it finds this lexp."""
    paths = os.pathsep.join([PACKAGE_FOLDER, *_module_folders()])
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": paths}


def _module_folders() -> list[str]:
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


def leave_current_folder() -> None:
    """Take the current folder off this process's module path, where `python -m lexp` put it.

    It stays if lexp itself is there, as in a checkout.
    """
    here = os.getcwd()
    is_first = bool(sys.path) and sys.path[0] in ("", here)
    if is_first and not sys.flags.safe_path and os.path.realpath(here) != PACKAGE_FOLDER:
        del sys.path[0]
