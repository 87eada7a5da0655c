"""Places that cannot be written, two processes in one, clocks that lie: one line and a code."""

import errno
import json
import os
import resource
import shutil
import time
from pathlib import Path

import pytest

from lexp.commands.train import train
from lexp.runs import checkpoint, locks
from lexp.system import files
from support.children import assert_whole, run, start
from support.config import compose_tiny
from support.faults.calls import at_step, counted, die, watch
from support.training import folder_of, result_of


def in_the_save_of_step_8(act) -> None:
    """Call `act(number, name)` before every call of it; those of the heartbeat's are among them."""
    original = checkpoint.save
    on = [False]
    inner = counted(lambda number, name, arguments: act(number, name))
    watch(lambda name, arguments: inner(name, arguments) if on[0] else None)

    def save(root, tensors, state, keep=False):
        on[0] = state["step"] == 8
        try:
            return original(root, tensors, state, keep)
        finally:
            on[0] = False

    checkpoint.save = save


def can_fail(name: str) -> bool:
    return name.startswith(("open", "os."))  # others only announce


@pytest.fixture(scope="module")
def calls(shared_texts, tmp_path_factory) -> list[int]:
    """The numbers of the calls of a save that can fail."""
    folder = tmp_path_factory.mktemp("calls")
    found: list[int] = []

    def action():
        in_the_save_of_step_8(lambda number, name: found.append(number) if can_fail(name) else None)
        train(compose_tiny(shared_texts, folder / "outputs"))
        (folder / "calls.json").write_text(json.dumps(found))

    assert run(action, folder / "log").code == 0
    return json.loads((folder / "calls.json").read_text())


ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS]


@pytest.mark.parametrize("code", ERRORS)
def test_a_save_that_fails_at_any_call_keeps_the_one_before(tiny, tmp_path, whole, calls, code):
    """Every call of a save: exit code 5 in one line, or the save is whole after all.

    Different errors take the same way: each kind is tried at every fourth call.
    """
    n_failed = 0
    for wanted in calls[ERRORS.index(code) :: len(ERRORS)]:
        config = tiny(f"outputs={tmp_path}/{wanted}")

        def failing(number, name, wanted=wanted):
            if number == wanted and can_fail(name):
                raise OSError(code, os.strerror(code))

        def action(config=config, failing=failing):
            in_the_save_of_step_8(failing)
            train(config)

        ended = run(action, tmp_path / "log")
        assert ended.code in (0, 5), ended.said
        if ended.code == 5:
            n_failed += 1
            assert ended.is_one_line() and "cannot write" in ended.said, ended.said
            assert os.strerror(code) in ended.said
            found = checkpoint.latest(folder_of(config) / "checkpoints")
            assert found.step in (4, 8)
            train(config)
        assert_whole(folder_of(config), whole)
    assert n_failed >= 3
    print(f"RESULT saves that failed with {errno.errorcode[code]}: {n_failed}")


def test_a_full_quota_is_exit_code_5_and_the_run_goes_on_later(tiny, tmp_path, whole):
    """RLIMIT_FSIZE: writes fail in Python and in safetensors' own code alike."""
    for limit in (2500, 5000, 20_000, 30_000):
        config = tiny(f"outputs={tmp_path}/{limit}")

        def limited(limit=limit):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        def action(config=config, limited=limited):
            at_step(2, limited)
            train(config)

        ended = run(action, tmp_path / "log")
        assert ended.code == 5 and ended.is_one_line(), (limit, ended.said)
        assert "cannot write" in ended.said
        train(config)
        assert_whole(folder_of(config), whole)


def test_a_run_folder_that_vanishes_is_not_made_up_again(tiny, tmp_path, whole):
    config = tiny()

    def action():
        at_step(6, lambda: shutil.rmtree(folder_of(config)))
        train(config)

    ended = run(action, tmp_path / "log")
    assert ended.code == 5 and ended.is_one_line(), ended.said
    assert str(folder_of(config)) in ended.said
    left = folder_of(config)
    assert not (left / "done.json").exists() and not (left / "checkpoints").exists()
    train(config)
    assert_whole(folder_of(config), whole)


@pytest.mark.parametrize("name", ["with spaces", "ünïcode ✓", "line\nend", "x" * 200, "'q\" $(x)"])
def test_places_with_unusual_names_work(tiny, tmp_path, name, whole):
    from omegaconf import OmegaConf

    config = tiny()
    OmegaConf.update(config, "outputs", str(tmp_path / name))
    ended = run(lambda: train(config), tmp_path / "log")
    assert ended.code == 0, ended.said
    assert_whole(folder_of(config), whole)


def test_places_that_cannot_be_are_exit_code_5(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "at" / "all")
    for place in ("file", "file/below", "dangling", "x" * 300):
        config = tiny(f"outputs={tmp_path}/{place}")
        ended = run(lambda config=config: train(config), tmp_path / "log")
        assert ended.code == 5 and ended.is_one_line(), (place, ended.said)
        assert ended.seconds < 5


def test_of_eight_processes_one_runs_and_the_others_name_it(tiny, tmp_path, whole):
    config = tiny("tokens=6400", f"outputs={tmp_path}/many")
    children = [start(lambda: train(config), tmp_path / f"log-{n}") for n in range(8)]
    ended = [child.end() for child in children]
    assert sorted(e.code for e in ended) == [0] + [8] * 7, [e.said for e in ended]
    holder = children[next(n for n, e in enumerate(ended) if e.code == 0)].pid
    for one in ended:
        if one.code == 8:
            assert one.is_one_line() and "is in use by" in one.said
            assert f"process {holder} on" in one.said or "another process" in one.said
    alone = tiny("tokens=6400", f"outputs={tmp_path}/alone")
    train(alone)
    assert_whole(folder_of(config), result_of(folder_of(alone)))


def test_control_without_the_lock_more_than_one_runs(tiny, tmp_path):
    config = tiny()

    def action():
        locks.fcntl.flock = lambda file, how: None
        train(config)

    children = [start(action, tmp_path / f"log-{n}") for n in range(3)]
    assert 8 not in [child.end().code for child in children]


def test_a_killed_holder_leaves_the_folder_free_and_a_living_one_is_named(tiny, tmp_path, whole):
    config = tiny()

    def waiting():
        at_step(6, lambda: time.sleep(60))
        train(config)

    holder = start(waiting, tmp_path / "holder")
    while not list(folder_of(config).glob("checkpoints/step-*")):
        time.sleep(0.01)
    ended = run(lambda: train(config), tmp_path / "log")
    assert ended.code == 8 and f"process {holder.pid} on" in ended.said and ended.seconds < 5
    os.kill(holder.pid, 9)
    holder.end()
    train(config)
    assert_whole(folder_of(config), whole)


@pytest.mark.parametrize("shift", [-3600.0, 3600.0, -1.7e9, 2.4e9, 0.0])
def test_a_clock_that_was_set_back_changes_nothing(tiny, tmp_path, whole, shift):
    """Order is by step: file times and the time of day are of no account. 0.0: frozen."""
    config = tiny()

    def killed():
        at_step(9, die)
        train(config)

    assert run(killed, tmp_path / "log").code == -9
    steps = sorted((folder_of(config) / "checkpoints").glob("step-*"))
    for number, path in enumerate(steps):
        os.utime(path, (2e9 - number * 1e6,) * 2)  # the newest looks oldest
    now = time.time()

    def elsewhen():
        time.time = (lambda: now) if shift == 0.0 else (lambda own=time.time: own() + shift)
        assert checkpoint.latest(folder_of(config) / "checkpoints").step == 8
        train(config)

    ended = run(elsewhen, tmp_path / "log")
    assert ended.code == 0, ended.said
    assert "from step 8" in ended.said
    assert_whole(folder_of(config), whole)


def test_files_are_not_for_everybody_to_write(tiny, tmp_path):
    """Whatever the umask, nothing that lexp reads back can be written by others."""
    for mask in (0o022, 0o077):
        config = tiny(f"outputs={tmp_path}/{mask}")

        def action(config=config, mask=mask):
            os.umask(mask)
            train(config)

        assert run(action, tmp_path / "log").code == 0
        for path in Path(config.outputs).rglob("*"):
            assert not path.stat().st_mode & 0o022, path


def test_a_file_that_is_cleaned_away_while_it_is_written_is_written_again(tmp_path, monkeypatch):
    """A launcher notes that a run is queued just when its process begins, and cleans."""
    real, n_cleaned = os.replace, 0

    def replace(temporary, path):
        nonlocal n_cleaned
        if not n_cleaned:
            n_cleaned = len(files.leftovers(tmp_path))
            files.clean(tmp_path)
        real(temporary, path)

    monkeypatch.setattr(files.os, "replace", replace)
    files.write_json(tmp_path / "status.json", {"state": "queued"})
    assert n_cleaned == 1
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
    for name in (".lock", ".nfs000000000012", ".DS_Store", ".status.json", "a.json.abcdefgh"):
        (tmp_path / name).touch()  # not lexp's to remove
    files.clean(tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
