"""Small disks that are really there, where one may be mounted: full, and read-only."""

import os
import subprocess
import sys

import pytest

from lexp.commands.train import train
from support import ROOT
from support.children import assert_whole, run
from support.config import TINY, dataset
from support.faults.calls import at_step
from support.training import folder_of, result_of


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB, where one may be mounted: mount(size) makes it larger."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True
        )

    if mount("size=200k").returncode:
        pytest.skip("no file system can be mounted here")
    yield place, mount
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_exit_code_5_and_the_run_goes_on_later(tiny, small_disk, tmp_path, whole):
    place, mount = small_disk
    config = tiny(f"outputs={place}/outputs")
    ended = run(lambda: train(config), tmp_path / "log")
    assert ended.code == 5 and ended.is_one_line(), ended.said
    assert "No space left" in ended.said
    assert mount("remount,size=10m").returncode == 0
    train(config)
    assert_whole(folder_of(config), whole)


def test_a_disk_that_is_full_between_saves_is_exit_code_5(tiny, small_disk, tmp_path):
    """Then it is a line of metrics.jsonl that cannot be written."""
    place, mount = small_disk
    assert mount("remount,size=1m").returncode == 0
    config = tiny(f"outputs={place}/outputs", "tokens=12800", "save_every=1000", "eval_every=1000")
    sizes = (4096, 512, 64, 8, 1)

    def fill():
        with (place / "filler").open("wb", buffering=0) as file:
            for size in sizes:
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def action():
        at_step(6, fill)
        train(config)

    ended = run(action, tmp_path / "log")
    assert ended.code == 5 and ended.is_one_line(), ended.said
    assert "metrics.jsonl: No space left" in ended.said
    (place / "filler").unlink()
    train(config)
    alone = tiny("tokens=12800", "save_every=1000", "eval_every=1000")
    train(alone)
    assert_whole(folder_of(config), result_of(folder_of(alone)))


def test_a_log_on_a_full_disk_does_not_end_a_run(texts, tmp_path):
    """Started as a user does; /dev/full is a disk without space."""
    words = [*TINY, f"outputs={tmp_path}/outputs", *dataset(texts)]
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "lexp", "train", *words], stderr=full, stdout=full, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, timeout=120,
        )  # fmt: skip
    assert result.returncode == 0
    assert list(tmp_path.glob("outputs/default/*/done.json"))


def test_a_disk_that_becomes_read_only_is_exit_code_5(tiny, small_disk, tmp_path, whole):
    place, mount = small_disk
    assert mount("remount,size=10m").returncode == 0
    config = tiny(f"outputs={place}/outputs")

    def action():
        at_step(6, lambda: mount("remount,ro"))
        train(config)

    ended = run(action, tmp_path / "log")
    assert ended.code in (5, 0), ended.said
    if ended.code == 5:
        assert ended.is_one_line(), ended.said
    assert mount("remount,rw").returncode == 0
    train(config)
    assert_whole(folder_of(config), whole)
