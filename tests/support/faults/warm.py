"""Jobs of hydra/launcher=local forked from this warm process, in place of twelve starts of Python.

What the launcher asks of subprocess.Popen, and no more; everything else of it is real.
"""

import faulthandler
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from types import SimpleNamespace

from lexp.cli import main as cli
from lexp.commands import launch


def warm_jobs() -> None:
    """In a command that launches jobs: they are forks of it."""
    names = {name: getattr(subprocess, name) for name in ("DEVNULL", "STDOUT")}
    launch.processes.subprocess = SimpleNamespace(**names, Popen=Forked)


class Forked:
    """subprocess.Popen for `python -m lexp WORDS`: a fork that does what the words say."""

    prepare: Callable[[], None] = staticmethod(lambda: None)  # done in the job before

    def __init__(self, command, stdin, stdout, stderr, env, process_group):
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            os.setpgid(0, process_group)
            for handle in (1, 2):
                os.dup2(stdout.fileno(), handle)
            sys.stdout, sys.stderr = (os.fdopen(n, "w", 1, closefd=False) for n in (1, 2))
            os.environ.clear()
            os.environ.update(env)
            code = self._work(command)
        finally:
            os._exit(code)

    def _work(self, command: list[str]) -> int:
        from hydra.core.global_hydra import GlobalHydra

        GlobalHydra.instance().clear()
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)  # as a program that is started has them
        signal.signal(signal.SIGINT, signal.default_int_handler)
        faulthandler.disable()  # pytest's
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.argv = ["lexp", *command[command.index("lexp") + 1 :]]
        self.prepare()
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
            return 1
        return 0

    def poll(self) -> int | None:
        """How it ended, or None."""
        if self.returncode is None:
            pid, ended = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(ended)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end."""
        while self.poll() is None:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        return self.returncode or 0
