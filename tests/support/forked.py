"""The command in a forked child: as a user would type it, without another start of Python."""

import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot  # noqa: F401  (slow to import: once, not in every fork)
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins

import lexp.cli.overrides
import lexp.commands.evaluate
import lexp.commands.harness_files
import lexp.commands.report
import lexp.commands.study.file
import lexp.commands.train
import lexp.config.comments
import lexp.config.generation
import lexp.config.sweep
from lexp.cli import main as cli
from support.children import Child, Ended, start
from support.config import TINY, compose_by_hydra, dataset

Plugins.instance()  # what is installed is looked through once
# And the parser of command lines builds its tables once, of which a fork inherits what it needs.
compose_by_hydra("train", *TINY, "name=warm")
GlobalHydra.instance().clear()


def words_for(texts: Path) -> list[str]:
    """A tiny training on the made texts, its outputs in the current folder."""
    return [*TINY, *dataset(texts)]


def lexp(*words: str, cwd: Path, setup=lambda: None, **environment: str) -> Ended:
    """`lexp WORDS` in a folder; setup: done in the child before."""
    return begin(*words, cwd=cwd, setup=setup, **environment).end()


def begin(*words: str, cwd: Path, setup=lambda: None, **environment: str) -> Child:
    """Start what `lexp` waits for."""

    def action() -> None:
        GlobalHydra.instance().clear()
        os.chdir(cwd)
        sys.path.insert(0, "")  # as `python -m lexp` has it: modules of the folder can be found
        os.environ.update(environment)
        sys.argv = ["lexp", *words]
        warnings.simplefilter("default")  # pytest makes errors of them
        setup()
        cli.main()

    return start(action, cwd / "said.log")


def completed(
    *words: str, cwd: Path, setup=lambda: None, **environment: str
) -> subprocess.CompletedProcess:
    """Run `lexp WORDS` in a folder and return what `support.cli.lexp` does, ten times sooner."""
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder) / "stderr"

        def prepare() -> None:
            os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
            setup()

        ended = lexp(*words, cwd=cwd, setup=prepare, **environment)
        return subprocess.CompletedProcess(words, ended.code, ended.said, errors.read_text())
