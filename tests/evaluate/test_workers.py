"""Runs evaluated by several processes: the same numbers, and no process's death costs another's."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from support import ROOT
from support.children import Child
from support.forked import begin, completed
from support.spawned import warm_workers
from support.training import flip_a_bit

pytestmark = pytest.mark.slow
EVAL = ("lengths=[8,16,32]", "attention=[full,blockwise]", "device=cpu", "precision=float32")
N_CELLS = 6  # of a run
KEPT = "lexp: interrupted; results so far are kept, the same command continues"

# The main module of a forked `lexp eval`, which the processes that it spawns read first as well; of
# forks it is done before. In the process that has kept its first cell of a run named in WHERE, it
# does what HOW says.
SCRIPT = """
import os, signal, time
import lexp.evaluate.run as run
from lexp.result_store import path_of
whole = run.write

def write(folder, spec, *rest):
    result = whole(folder, spec, *rest)
    if os.environ["WHERE"] in str(path_of(folder, spec)):
        with open(os.path.join(os.environ["PIDS"], str(os.getpid())), "w"):
            pass
        if os.environ["HOW"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(100)
    return result

run.write = write
"""


@pytest.fixture
def runs(trained_once, tmp_path) -> Path:
    """A study of three trained runs."""
    shutil.copytree(trained_once(("rope", "alibi", "learned")), tmp_path / "outputs")
    return tmp_path / "outputs" / "default"


def evaluated(
    study: Path, *overrides: str, clean: bool = True, setup=warm_workers
) -> subprocess.CompletedProcess:
    words = ("eval", f"outputs={study.parent}", *EVAL, *overrides)
    result = completed(*words, cwd=study.parent, setup=setup)
    assert not clean or result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    return result


def cells_of(study: Path, model: str) -> list[str]:
    return sorted(path.name for path in study.glob(f"{model}-*/eval/*.json"))


def numbers(study: Path) -> dict:
    """Every cell's row but for its seconds, and its losses as they lie in the file."""
    with (study / "results.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    losses = {}
    for path in study.glob("*/eval/*.npz"):
        with np.load(path) as stored:
            losses[path.parent.parent.name, path.name] = {k: stored[k].tobytes() for k in stored}
    return {"rows": rows, "losses": losses}


def slowed(study: Path, where: str, how: str, warm: bool) -> Child:
    """Start `lexp eval workers=2` whose processes do what SCRIPT says. warm: they are forks."""
    folder = study.parent.parent / "pids"
    folder.mkdir(exist_ok=True)
    script = folder.parent / "slowed.py"
    script.write_text(SCRIPT)

    def with_script() -> None:
        if warm:
            exec(SCRIPT, {})
            warm_workers()
            return
        main = ModuleType("__main__")
        main.__file__, main.__spec__ = str(script), None
        sys.modules["__main__"] = main

    return begin(
        "eval", f"outputs={study.parent}", *EVAL, "workers=2", cwd=folder.parent,
        setup=with_script, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT), WHERE=where, HOW=how,
        PIDS=str(folder),
    )  # fmt: skip


def pids(study: Path, n: int) -> list[int]:
    """Of n processes that are in the middle of a run, once there are so many."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        found = [int(path.name) for path in (study.parent.parent / "pids").iterdir()]
        if len(found) >= n:
            return found
        time.sleep(0.05)
    raise AssertionError("no process came to its first cell")


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def all_gone(processes: list[int]) -> bool:
    end = time.monotonic() + 30
    while any(map(alive, processes)) and time.monotonic() < end:
        time.sleep(0.1)
    return not any(map(alive, processes))


def test_two_processes_give_the_very_numbers_of_one(runs):
    alone = evaluated(runs, "workers=1")
    one = numbers(runs)
    assert len(one["rows"]) == 3 * N_CELLS and len(one["losses"]) == 3 * N_CELLS - 2
    for path in runs.glob("*/eval/*"):
        path.unlink()
    both = evaluated(runs, "workers=2", setup=lambda: None)  # which spawns them
    assert "3 runs, 2 at once" in both.stderr and "at once" not in alone.stderr
    assert numbers(runs) == one
    assert both.stdout == alone.stdout  # rows in the same order, whoever was first
    known = {path: path.stat().st_mtime_ns for path in runs.glob("*/eval/*")}
    assert evaluated(runs, "workers=2").stdout == alone.stdout
    assert {path: path.stat().st_mtime_ns for path in runs.glob("*/eval/*")} == known


@pytest.mark.parametrize("victim", ["alibi", "rope"])  # the first to be scored, and the last
def test_a_killed_process_costs_the_run_it_was_at_and_no_other(runs, victim):
    process = slowed(runs, f"/{victim}-", "die", warm=True)
    ended = process.end(240)
    said = ended.said
    assert ended.code == 9 and "Traceback" not in said, said
    (folder,) = runs.glob(f"{victim}-*")
    last = said.strip().splitlines()[-1]
    assert last.startswith(f"lexp: {folder.name}: its process was killed"), said
    assert len(pids(runs, 1)) == 1 and len(cells_of(runs, victim)) == 1
    for model in {"rope", "alibi", "learned"} - {victim}:
        assert len(cells_of(runs, model)) == N_CELLS and f"│ {model}" in said
    evaluated(runs, "workers=1")
    assert len(cells_of(runs, victim)) == N_CELLS


def test_a_damaged_run_does_not_hide_the_others(runs):
    for path in runs.glob("learned*/checkpoints/*/model.safetensors"):
        flip_a_bit(path)
    result = evaluated(runs, "workers=2", clean=False)
    assert result.returncode == 4 and "no usable checkpoint" in result.stderr.splitlines()[-1]
    assert "│ rope" in result.stdout and "│ alibi" in result.stdout
    assert [len(cells_of(runs, m)) for m in ("rope", "alibi", "learned")] == [6, 6, 0]


@pytest.mark.parametrize("workers", ["1", "2", "auto"])
def test_a_study_of_damaged_runs_alone_is_a_line_for_each(runs, workers):
    for path in runs.glob("*/config.json"):
        path.write_text(path.read_text().replace('"seed": 0', '"seed": "x"'))
    result = evaluated(runs, f"workers={workers}", clean=False)
    assert result.returncode == 4
    told = [line for line in result.stderr.splitlines() if line.startswith("lexp: ")]
    assert len(told) == 3 and all("config.json" in line for line in told), result.stderr


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_no_process_stays_when_the_command_is_ended(runs, how):
    process = slowed(runs, "/eval/", "sleep", warm=how == "SIGINT")
    children = pids(runs, 2)
    assert len(children) == 2 and all(map(alive, children))
    os.kill(process.pid, getattr(signal, how))
    ended = process.end(60)
    assert all_gone(children)
    if how == "SIGINT":
        assert ended.code == 130 and ended.said.splitlines()[-1] == KEPT, ended.said
        assert "Traceback" not in ended.said
    evaluated(runs, "workers=1")  # what was there is whole
    assert all(len(cells_of(runs, m)) == N_CELLS for m in ("rope", "alibi", "learned"))


@pytest.mark.parametrize("workers", ["0", "-1", "x", "1.5", "true", "[2]"])
def test_workers_that_are_no_number_are_refused_in_a_line(workers, tmp_path):
    result = completed("eval", f"workers={workers}", cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("lexp: ") and "auto, or a whole number from 1" in line
