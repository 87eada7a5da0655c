"""Children of lexp take no module from the current folder: real children, a trap for each name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lexp.commands.launch import SweepJob, SweepLines, hold_signals, make_slots, run_processes
from lexp.commands.study.command import _sweep
from support import ROOT
from support.forked import lexp, words_for

# Modules that the children import for certain; each would be found first in the current folder.
TRAPS = (
    "sitecustomize.py", "usercustomize.py", "torch.py", "numpy/__init__.py", "logging/__init__.py",
    "multiprocessing/__init__.py", "subprocess.py", "lexp/__init__.py", "lexp/__main__.py",
    "hydra/__init__.py", "hydra_plugins/evil.py", "yaml.py", "submitit/__init__.py", "pkgutil.py",
)  # fmt: skip


@pytest.fixture
def trapped(tmp_path, monkeypatch) -> Path:
    """The current folder, full of modules that each make a file in ../caught."""
    folder, caught = tmp_path / "desk", tmp_path / "caught"
    caught.mkdir()
    for name in TRAPS:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(caught / name.replace('/', '.'))!r}, 'w')\n")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    # An empty entry is the current folder, too.
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}{ROOT}")
    return folder


def caught(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder.parent / "caught").iterdir())


def test_the_traps_work(trapped):
    subprocess.run([sys.executable, "-c", "import numpy, torch, yaml"], check=True)
    assert {"sitecustomize.py", "torch.py", "yaml.py"} <= set(caught(trapped))


def test_jobs_of_launchers_and_studies_and_of_slurm(trapped, capfd):
    """Each is a child that imports Hydra and its plugins and, as quickly as it can, ends."""
    job = SweepJob(0, (), None)
    words = ["train", "--cfg", "job"]
    shown = SweepLines([job], 1)
    assert run_processes([job], make_slots(1, 1), lambda _: words, trapped, shown) == {0: None}
    assert "batch_tokens" in (trapped / "job-0.txt").read_text()
    assert _sweep(["model=none_such"]) == 2  # found out when Hydra composes
    assert "none_such" in capfd.readouterr().err
    code = "import sys, subprocess, logging, yaml; print(sys.path[0])"
    held = [sys.executable, "-I", "-S", hold_signals.__file__, "-c", code]
    assert subprocess.run(held, capture_output=True, env={}, check=True).stdout.strip()
    assert caught(trapped) == []


def test_python_m_finds_lexp_and_no_more_in_the_current_folder(trapped, monkeypatch):
    """The `lexp/` of the folder runs, as Python has it; without one, nothing of the folder does.

    Nor does it under `-P`, or where the command `lexp` is a script in another folder.
    """
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    script = trapped.parent / "lexp"
    script.write_text("from lexp.cli.main import main\nmain()\n")
    for words in (["-P", "-m", "lexp"], [str(script)]):
        shown = subprocess.run([sys.executable, *words, "version"], capture_output=True, text=True)
        assert shown.stdout.startswith("lexp ") and caught(trapped) == [], shown.stderr
    command = [sys.executable, "-m", "lexp", "train", "--cfg", "job"]
    subprocess.run(command, capture_output=True)
    assert "lexp.__init__.py" in caught(trapped)
    for path in trapped.parent.glob("caught/*"):
        path.unlink()
    shutil.rmtree(trapped / "lexp")
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "batch_tokens" in shown.stdout and caught(trapped) == []


def test_processes_that_evaluate(trapped, texts):
    """Started by multiprocessing, with `python -c`; each imports torch and does its work."""
    desk = texts.parent
    ended = lexp("train", *words_for(texts), cwd=desk)
    assert ended.code == 0, ended
    (run,) = (desk / "outputs" / "default").glob("rope-*")
    shutil.copytree(run, run.with_name("rope-copy"))
    shutil.copytree(desk / "outputs", trapped / "outputs")
    words = ("eval", "lengths=[8]", "attention=[full]", "workers=2", f"outputs={trapped}/outputs")

    ended = lexp(*words, cwd=trapped, setup=lambda: sys.path.remove(""))
    assert "2 runs, 2 at once" in ended.said
    assert "│ rope" in ended.said and "saved by the run rope-" in ended.said, ended.said
    assert caught(trapped) == []
