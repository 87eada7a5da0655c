"""The command in a forked child, in a folder of its own: as a user would type it."""

import os
import sys
import warnings
from pathlib import Path

from hydra.core.plugins import Plugins

import lexp.commands.evaluate
import lexp.commands.report
import lexp.commands.train
from lexp.cli import main as cli
from support.config import TINY, dataset
from support.faults.children import Ended, run

Plugins.instance()  # what is installed is looked through once


def words_for(texts: Path) -> list[str]:
    """A tiny training on the made texts, its outputs in the current folder."""
    return [*TINY, *dataset(texts)]


def lexp(*words: str, cwd: Path, setup=lambda: None, **environment: str) -> Ended:
    """`lexp WORDS` in a folder; setup: done in the child before."""

    def action() -> None:
        from hydra.core.global_hydra import GlobalHydra

        GlobalHydra.instance().clear()
        os.chdir(cwd)
        sys.path.insert(0, "")  # as `python -m lexp` has it: modules of the folder can be found
        os.environ.update(environment)
        sys.argv = ["lexp", *words]
        warnings.simplefilter("default")  # pytest makes errors of them
        setup()
        cli.main()

    return run(action, cwd / "said.log")
