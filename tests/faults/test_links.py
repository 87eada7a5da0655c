"""Symbolic links in study and run folders of somebody else: nothing behind them is touched or read.

`outputs` itself may be a link, and so may what the user names.
"""

import os
import shutil
from pathlib import Path

import pytest

from support.forked import lexp, words_for

EVAL = ("eval", "lengths=[8]", "attention=[full]", "workers=1")
PROBE = ("probe", "probes=[copy]", "lengths=[16]", "samples=2", "attention=[full]")
ANALYZE = ("analyze", "instruments=[heads]", "lengths=[8]", "attention=[full]", "texts=1")
REPORT, STATUS, TRAIN, SWEEP = ("report",), ("status",), ("train",), ("train", "-m", "seed=0,1")
# Where the link is (RUN: the run, STEP: its last checkpoint), and a command that comes upon it.
LINKS = {
    ".": STATUS,
    "report": REPORT,
    "analysis": ANALYZE,
    "sweep/multirun.yaml": SWEEP,
    "sweep/.submitit": SWEEP,
    ".lock": REPORT,
    "study.json": REPORT,
    "results.png": EVAL,
    "report/report.html": REPORT,
    "RUN": EVAL,
    "RUN/lock": TRAIN,
    "RUN/metrics.jsonl": TRAIN,
    "RUN/config.json": REPORT,
    "RUN/done.json": EVAL,
    "RUN/tokenizer.json": EVAL,
    "RUN/wandb": (*TRAIN, "wandb=offline"),
    "RUN/eval": EVAL,
    "RUN/eval/CELL.json": REPORT,
    "RUN/eval/CELL.npz": REPORT,
    "RUN/probes": PROBE,
    "RUN/analysis": ANALYZE,
    "RUN/checkpoints": TRAIN,
    "RUN/checkpoints/STEP": EVAL,
    "RUN/checkpoints/STEP/state.json": EVAL,
    "../.cache": TRAIN,
    "../.cache/TEXT": EVAL,
    "../.cache/TEXT/train.tokens": EVAL,
}


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("place", LINKS)
def test_a_link_inside_outputs_is_refused_in_a_line(foreign_study, tmp_path, place):
    command = LINKS[place]
    desk, victim = tmp_path / "desk", tmp_path / "victim"
    shutil.copytree(foreign_study, desk)
    study = desk / "outputs" / "default"
    (run,) = study.glob("rope-*")
    (run / "done.json").unlink() if command[0] == "train" and place != "RUN/done.json" else None
    names = {
        "RUN": run.name,
        "STEP": sorted((run / "checkpoints").glob("step-*"))[-1].name,
        "CELL": sorted((run / "eval").glob("*.npz"))[0].stem,
        "TEXT": next(p.name for p in (desk / "outputs/.cache").iterdir() if p.is_dir()),
    }
    for word, name in names.items():
        place = place.replace(word, name)
    link = Path(os.path.normpath(study / place))
    # Behind the link is what was there, so that nothing but the link is wrong; and more.
    victim.mkdir()
    target = victim / "precious"
    if link.exists():
        shutil.move(link, target)
    elif "." not in link.name.lstrip(".") and link.name not in (".lock", "lock"):
        target.mkdir()
        (target / "a.csv").write_text("1,2\n")
    else:
        target.write_text("alias ll='ls -l'\n")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    before = content(victim)

    words = words_for(foreign_study / "texts") if command[0] == "train" else []
    more = ["tokenizer=bpe", "tokenizer.vocab_size=300"] if words else []
    ended = lexp(*command, *words, *more, cwd=desk)
    assert content(victim) == before
    assert ended.code in (4, 5), ended.said[-1500:]
    shown = [line for line in ended.said.splitlines() if "is a symbolic link" in line]
    assert shown and "Traceback" not in ended.said, ended.said[-1500:]
    assert str(place if place != "." else "outputs/default").removeprefix("../") in shown[-1]
    assert link.is_symlink()
