"""A file system without locks is refused before any work; a held lock names its holder."""

import errno
import os
from pathlib import Path

import pytest

from lexp.cli import main as cli
from lexp.commands import analyze, evaluate, finetune, probe, report, train
from lexp.commands.launch import plan
from lexp.commands.launch.plan import SweepJob
from lexp.runs import locks
from lexp.system.errors import Busy, StorageError
from support.config import TINY, compose, dataset

WITHOUT = ("ENOLCK", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EINVAL")
BROKEN = ("EIO", "ESTALE")
HELD = ("EWOULDBLOCK", "EAGAIN", "EACCES")


def refusing(name: str):
    code = getattr(errno, name)

    def flock(file, how):
        raise OSError(code, os.strerror(code))

    return flock


@pytest.fixture
def without_locks(monkeypatch):
    monkeypatch.setattr(locks.fcntl, "flock", refusing("ENOLCK"))


@pytest.mark.parametrize("name", WITHOUT)
def test_a_file_system_without_locks_is_said(name, tmp_path, monkeypatch):
    monkeypatch.setattr(locks.fcntl, "flock", refusing(name))
    for lock in (locks.locked, locks.one_at_a_time):
        with (
            pytest.raises(StorageError, match="on a file system without locks") as error,
            lock(tmp_path),
        ):
            pytest.fail("entered")
        assert os.strerror(getattr(errno, name)) in str(error.value)
        assert "outputs=" in str(error.value) and "in use" not in str(error.value)
    assert locks.is_held(tmp_path) is False


@pytest.mark.parametrize("name", BROKEN)
def test_a_lock_that_fails_otherwise_says_why(name, tmp_path, monkeypatch):
    monkeypatch.setattr(locks.fcntl, "flock", refusing(name))
    words = f"cannot lock .*: {os.strerror(getattr(errno, name))}"
    with pytest.raises(StorageError, match=words), locks.locked(tmp_path):
        pytest.fail("entered")


@pytest.mark.parametrize("name", HELD)
def test_only_a_held_lock_is_in_use(name, tmp_path, monkeypatch):
    with locks.locked(tmp_path):
        pass
    monkeypatch.setattr(locks.fcntl, "flock", refusing(name))
    holder = f"in use by process {os.getpid()} on "
    with pytest.raises(Busy, match=holder), locks.locked(tmp_path):
        pytest.fail("entered")
    assert locks.is_held(tmp_path)


def test_a_lock_is_held_until_its_block_ends(tmp_path):
    with locks.locked(tmp_path):
        assert locks.is_held(tmp_path)
        with pytest.raises(Busy), locks.locked(tmp_path):
            pytest.fail("entered twice")
    assert not locks.is_held(tmp_path)


class Worked(Exception):
    """Something was done before the lock was tried."""


def works(*arguments, **values):
    raise Worked


COMMANDS = {
    "eval": (evaluate, evaluate.eval_, ["lengths=[8]"]),
    "probe": (probe, probe.probe, ["lengths=[8]"]),
    "analyze": (analyze, analyze.analyze, ["lengths=[8]"]),
    "report": (report, report.report, []),
}


@pytest.mark.parametrize("word", COMMANDS)
def test_commands_refuse_it_before_texts_are_opened(word, tmp_path, monkeypatch, without_locks):
    (tmp_path / "default").mkdir()
    module, command, words = COMMANDS[word]
    opens = "select_runs" if word == "report" else "open_runs"
    monkeypatch.setattr(module, opens, works)
    code = cli.guarded(word, lambda: command(compose(word, f"outputs={tmp_path}", *words)))
    assert code == 5


def test_a_plan_of_an_evaluation_needs_no_lock(tmp_path, monkeypatch, without_locks):
    (tmp_path / "default").mkdir()
    monkeypatch.setattr(evaluate, "open_runs", works)
    with pytest.raises(Worked):
        evaluate.eval_(compose("eval", f"outputs={tmp_path}", "lengths=[8]", "plan=true"))


def test_training_refuses_it_before_texts_are_read(texts, tmp_path, monkeypatch, without_locks):
    monkeypatch.setattr(train.TrainingTexts, "load", works)
    config = compose("train", *TINY, *dataset(texts), f"outputs={tmp_path}/o")
    with pytest.raises(StorageError, match="without locks"):
        train.train(config)


def test_fine_tuning_refuses_it_before_texts_are_read(tmp_path, monkeypatch, without_locks):
    run = type("Run", (), {"folder": tmp_path / "run"})
    chosen = type("Plan", (), {"config": None, "run": run, "run_config": None, "max_len": 8})
    chosen.labelled = type("Labelled", (), {"examples": works})
    monkeypatch.setattr(finetune, "check", lambda config: chosen)
    with pytest.raises(StorageError, match="without locks"):
        finetune.finetune_(None)


def test_a_sweep_refuses_it_once(tmp_path, without_locks):
    jobs = [SweepJob(n, (), tmp_path / "study" / str(n)) for n in range(3)]
    with pytest.raises(StorageError, match="without locks"):
        plan.left_to_do(jobs)
    assert [path.name for path in Path(tmp_path / "study").iterdir()] == [".lock"]
