"""The command in a process of its own."""

import os
import resource
import subprocess
import sys
from pathlib import Path

from support import ROOT


def lexp(
    *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "lexp", *arguments],
        cwd=cwd or ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


def timed(*arguments: str, cwd: Path) -> tuple[subprocess.CompletedProcess, float, set[str]]:
    """`lexp` in a process of its own, its CPU seconds, and the packages it has imported."""
    code = (
        "import sys, atexit; sys.argv[0] = 'lexp'\n"
        "from lexp.cli.main import main\n"
        "atexit.register(lambda: print(*sys.modules, file=open('imported', 'w')))\n"
        "main()"
    )
    path = f"{ROOT}{os.pathsep}{cwd}"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True,
        timeout=100, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    loaded = {name.partition(".")[0] for name in (cwd / "imported").read_text().split()}
    return result, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, loaded
