"""Symbolic links in study and run folders of somebody else: nothing behind them is touched or read.

`outputs` itself may be a link, and so may what the user names.
"""

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from lexp.commands import launch
from lexp.data.text import TextFiles
from lexp.data.tokenizer import FileSpec, HubSpec, read_subwords, train_bpe
from lexp.runs.run import Run
from lexp.runs.status import FAILED, judge
from lexp.system.errors import DataError
from lexp.system.links import real_folder
from support.faults.warm import Forked
from support.forked import lexp, words_for

EVAL = ("eval", "lengths=[8]", "attention=[full]", "workers=1")
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
    "RUN": EVAL,
    "RUN/lock": TRAIN,
    "RUN/metrics.jsonl": TRAIN,
    "RUN/config.json": REPORT,
    "RUN/done.json": EVAL,
    "RUN/tokenizer.json": EVAL,
    "RUN/wandb": (*TRAIN, "wandb=offline"),
    "RUN/events.out.tfevents.lexp": (*TRAIN, "tensorboard=true"),
    "RUN/eval": EVAL,
    "RUN/eval/CELL.json": REPORT,
    "RUN/eval/CELL.npz": REPORT,
    "RUN/checkpoints": TRAIN,
    "RUN/checkpoints/STEP": EVAL,
    "../.cache": TRAIN,
    "../.cache/TEXT/train-00000.tokens": EVAL,
}


def placed(foreign: Path, desk: Path, place: str, command: tuple[str, ...]) -> Path:
    """Copy the study to a desk, a run to train unfinished; return where a place is in it."""
    shutil.copytree(foreign, desk)
    study = desk / "outputs" / "default"
    (run,) = study.glob("rope-*")
    if command[0] == "train":
        (run / "done.json").unlink()
    names = {
        "RUN": run.name,
        "STEP": max(path.name for path in run.glob("checkpoints/step-*")),
        "CELL": min(path.stem for path in run.glob("eval/*.npz")),
        "TEXT": next(path.name for path in study.parent.glob(".cache/*") if path.is_dir()),
    }
    for word, name in names.items():
        place = place.replace(word, name)
    return Path(os.path.normpath(study / place))


def words_of(command: tuple[str, ...]) -> list[str]:
    """The words by which `lexp train` finds the run of the study."""
    words = [*words_for(Path("texts")), "tokenizer=bpe", "tokenizer.vocab_size=300"]
    return words if command[0] == "train" else []


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_status_looks_behind_no_link_for_checkpoints(foreign_study, tmp_path):
    link = placed(foreign_study, tmp_path / "desk", "RUN/checkpoints", STATUS)
    shutil.move(link, tmp_path / "elsewhere")
    link.symlink_to(tmp_path / "elsewhere")
    status = judge(link.parent)
    assert status.state == FAILED and f"{link} is a symbolic link" in status.reason


@pytest.mark.parametrize("place", LINKS)
def test_a_link_inside_outputs_is_refused_in_a_line(foreign_study, tmp_path, place):
    command, desk, victim = LINKS[place], tmp_path / "desk", tmp_path / "victim"
    link = placed(foreign_study, desk, place, command)
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

    ended = lexp(*command, *words_of(command), cwd=desk)
    assert content(victim) == before
    assert ended.code in (4, 5), ended.said[-1500:]
    shown = [line for line in ended.said.splitlines() if "is a symbolic link" in line]
    assert shown and "Traceback" not in ended.said, ended.said[-1500:]
    assert str(link.relative_to(desk)) in shown[-1]
    assert link.is_symlink()


# What lies where a file is expected, and a command that comes upon it.
IN_PLACE_OF_FILES = {
    "RUN/config.json": REPORT,
    "RUN/lock": TRAIN,
    "RUN/checkpoints/STEP": TRAIN,
    "../.cache/TEXT/train-00000.tokens": EVAL,
}


@pytest.mark.parametrize("place", IN_PLACE_OF_FILES)
def test_a_fifo_in_the_place_of_a_file_ends_in_a_line(foreign_study, tmp_path, place):
    command, desk = IN_PLACE_OF_FILES[place], tmp_path / "desk"
    path = placed(foreign_study, desk, place, command)
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    os.mkfifo(path)

    ended = lexp(*command, *words_of(command), cwd=desk)
    assert ended.code in (3, 4, 5) and ended.is_one_line(), ended.said[-1500:]
    assert path.name in ended.said.splitlines()[-1] or path.parent.name in ended.said
    assert ended.seconds < 20


def test_what_the_user_names_is_a_file_or_said_not_to_be(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(DataError, match=r"a\.txt is a FIFO, not a file"):
        TextFiles(train=f"{tmp_path}/a.txt").files("train")
    (tmp_path / "b.txt").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"b\.txt is a device, not a file"):
        TextFiles(train=f"{tmp_path}/b.txt").files("train")
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match="is not a file"):
        FileSpec(f"{tmp_path}/tokenizer.json").load(TextFiles(), tmp_path)
    with pytest.raises(DataError, match="is a FIFO, not a file"):
        read_subwords(tmp_path / "tokenizer.json")
    assert not Run(tmp_path / "a.txt").is_done  # init_from=


def test_outputs_may_be_a_link(foreign_study, tmp_path):
    """As on clusters, where it leads to another disk."""
    desk, elsewhere = tmp_path / "desk", tmp_path / "scratch" / "mine"
    shutil.copytree(foreign_study / "outputs", elsewhere)
    shutil.copytree(foreign_study / "texts", desk / "texts")
    (desk / "outputs").symlink_to(tmp_path / "link")
    (tmp_path / "link").symlink_to(elsewhere)
    (run,) = elsewhere.glob("default/rope-*")
    (run / "done.json").unlink()
    ended = lexp("train", *words_of(TRAIN), cwd=desk)
    assert ended.code == 0 and "from step 10" in ended.said, ended.said
    assert Run(real_folder(desk / "outputs" / "default" / run.name)).is_done
    ended = lexp(*ANALYZE, "-m", "hydra/launcher=local", cwd=desk, setup=forked_jobs)
    assert (elsewhere / "default/sweep/job-0.txt").exists(), ended.said
    assert ended.code == 0 and list(elsewhere.glob("default/rope-*/analysis/*")), ended.said


def forked_jobs() -> None:
    """Have the launcher fork its jobs, which saves a start of Python."""
    names = {name: getattr(subprocess, name) for name in ("DEVNULL", "STDOUT")}
    launch.processes.subprocess = SimpleNamespace(**names, Popen=Forked)  # type: ignore[attr-defined]


def test_globs_of_texts_follow_links(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("first")
    (tmp_path / "b.txt").symlink_to(tmp_path / "real" / "a.txt")
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    for pattern in ("b.txt", "folder/*.txt", "f*/a.txt"):
        corpus = TextFiles(train=f"{tmp_path}/{pattern}")
        assert [document.text for document in corpus.documents("train")] == ["first"]


def test_links_of_the_hubs_cache_are_followed(tmp_path, monkeypatch):
    """Its snapshots are links to ../../blobs; made by hand here, without a network."""
    import huggingface_hub

    from lexp.hf.source import find_source, read_config

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    texts = {
        "config.json": '{"model_type": "llama"}',
        "model.safetensors": "weights",
        "tokenizer.json": train_bpe(["a few words"], 300),
    }
    repository, commit = tmp_path / "models--org--name", "0" * 40
    snapshot = repository / "snapshots" / commit
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for name, text in texts.items():
        blob = repository / "blobs" / f"blob-{name}"
        blob.write_text(text)
        (snapshot / name).symlink_to(Path("../../blobs") / blob.name)

    source = find_source("org/name")
    assert read_config(source) == {"model_type": "llama"} and len(source.sha256()) == 64
    tokenizer = HubSpec("org/name").load(TextFiles(), tmp_path)
    assert tokenizer.digest == read_subwords(snapshot / "tokenizer.json").digest
