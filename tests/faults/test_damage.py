"""Damaged checkpoints and caches: every flipped bit, cut, zeroed page and swapped file is found."""

import json
import random
import re
import shutil
import warnings
from pathlib import Path

import pytest

from lexp.commands.train import train
from lexp.data.reading import Batches
from lexp.evaluate import EVALUATIONS
from lexp.result_store import read
from lexp.runs import checkpoint
from support.children import assert_whole, run
from support.training import folder_of, result_of

NAMES = (*checkpoint.FILES, "manifest.json")
PAGE = 4096


class Killed(BaseException):
    """Breaks a run off in this process."""


def broken_off(tiny, *overrides):
    """A run with checkpoints of steps 4 and 8, broken off at step 9, and where they are."""
    config = tiny(*overrides)
    original = Batches.batch

    def batch(self, step):
        if step == 9:
            raise Killed
        return original(self, step)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Batches, "batch", batch)
        train(config)
    return config, folder_of(config) / "checkpoints"


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.choice([0, 1, len(data) - 1, rng.randrange(len(data))])]


def zero_a_page(data: bytes, rng: random.Random) -> bytes:
    pages = [n for n in range(0, len(data), PAGE) if data[n : n + PAGE].strip(b"\0")]
    first = rng.choice(pages)
    size = len(data[first : first + PAGE])
    return data[:first] + bytes(size) + data[first + size :]


DAMAGES = {
    "bit flips": (flip, 500),
    "truncations": (truncate, 200),
    "zeroed pages": (zero_a_page, 200),
}


def undetected(root: Path, damage, times: int) -> int:
    """How many damages of the newer checkpoint `latest` does not answer with the older one."""
    missed = 0
    rng = random.Random(0)
    for name in NAMES:
        path = root / "step-00000008" / name
        good = path.read_bytes()
        for _ in range(times):
            path.write_bytes(damage(good, rng))
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                found = checkpoint.latest(root)
            told = any("step-00000008" in str(w.message) for w in said)
            missed += found is None or found.step != 4 or not told
        path.write_bytes(good)
    assert checkpoint.latest(root).step == 8
    return missed


@pytest.mark.parametrize("kind", DAMAGES)
def test_every_damage_is_found_and_the_checkpoint_before_is_used(tiny, kind):
    _, root = broken_off(tiny)
    damage, times = DAMAGES[kind]
    assert undetected(root, damage, times) == 0
    print(f"RESULT {kind}: {times} in each of {len(NAMES)} files, undetected: 0")


def test_control_without_digests_most_damage_is_silent(tiny, monkeypatch):
    """The negative control: safetensors alone does not see a flipped bit."""
    _, root = broken_off(tiny)

    def trusting(path):
        checkpoint.load_file(path / "model.safetensors")
        state = json.loads((path / "state.json").read_text())
        return checkpoint.Checkpoint(path, state, "")

    monkeypatch.setattr(checkpoint, "verify", trusting)
    monkeypatch.setitem(globals(), "NAMES", ("model.safetensors",))
    assert undetected(root, flip, 50) > 40


def swap_files(root: Path, name: str) -> None:
    four, eight = (root / f"step-0000000{n}" / name for n in (4, 8))
    data = four.read_bytes(), eight.read_bytes()
    four.write_bytes(data[1])
    eight.write_bytes(data[0])


def replace_by_link(root: Path, name: str) -> None:
    path = root / "step-00000008" / name
    path.rename(root / f"elsewhere-{name}")
    path.symlink_to(root / f"elsewhere-{name}")


def swap_folders(root: Path, name: str) -> None:
    four, eight = root / "step-00000004", root / "step-00000008"
    four.rename(root / "other")
    eight.rename(four)
    (root / "other").rename(eight)


def of_another_run(tiny):
    def replace(root: Path, name: str) -> None:
        _, other = broken_off(tiny, "seed=1")
        for step in ("step-00000004", "step-00000008"):
            shutil.rmtree(root / step)
            shutil.copytree(other / step, root / step)

    return replace


def test_swapped_missing_and_foreign_files_end_in_exit_code_4(tiny, tmp_path):
    """Where no checkpoint is left that can be trusted: an error, never a fresh start."""
    cases = [(swap_files, name) for name in checkpoint.FILES] + [(swap_folders, "")]
    cases += [(swap_files, "manifest.json"), (of_another_run(tiny), "")]
    for number, (change, name) in enumerate(cases):
        config, root = broken_off(tiny, f"outputs={tmp_path}/{number}")
        change(root, name)
        before = (root.parent / "metrics.jsonl").read_bytes()
        ended = run(lambda config=config: train(config), tmp_path / "log")
        assert ended.code == 4 and ended.is_one_line(), (name, ended.said)
        assert "no usable checkpoint" in ended.said and "step-00000008" in ended.said
        assert (root.parent / "metrics.jsonl").read_bytes() == before


def test_a_file_that_is_a_link_or_has_gone_is_passed_over(tiny, tmp_path):
    whole = tiny(f"outputs={tmp_path}/whole")
    train(whole)
    result = result_of(folder_of(whole))
    for number, name in enumerate(NAMES):
        config, root = broken_off(tiny, f"outputs={tmp_path}/{number}")
        replace_by_link(root, name) if name in checkpoint.FILES else (
            root / "step-00000008" / name
        ).unlink()
        with pytest.warns(UserWarning, match="step-00000008.*using step-00000004 instead"):
            train(config)
        for leftover in root.glob("elsewhere-*"):
            leftover.unlink()
        assert_whole(folder_of(config), result)


def test_lost_metrics_lines_are_said(tiny):
    config, root = broken_off(tiny)
    path = root.parent / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match=r"metrics.jsonl has 100 bytes, .* lines are lost"):
        train(config)


@pytest.mark.parametrize("damage", [flip, truncate, zero_a_page])
def test_damaged_token_caches_are_refused(tiny, tmp_path, damage):
    """A wrong token would be trained on without anybody noticing."""
    train(tiny("tokenizer=bpe", "tokenizer.vocab_size=300"))
    rng = random.Random(0)
    files = [p for p in (tmp_path / "outputs" / ".cache").rglob("*") if p.is_file()]
    files = [path for path in files if re.match("train|manifest|bpe", path.name)]
    assert len(files) == 8
    for number, path in enumerate(files):
        good = path.read_bytes()
        path.write_bytes(damage(good, rng))
        config = tiny("tokenizer=bpe", "tokenizer.vocab_size=300", f"seed={number + 1}")
        ended = run(lambda config=config: train(config), tmp_path / "log")
        assert ended.code == 3 and ended.is_one_line() and "delete" in ended.said, (
            path, ended.said,
        )  # fmt: skip
        path.write_bytes(good)


def test_a_damaged_cell_is_said_and_scored_again(evaluated):
    for path in sorted(evaluated.glob("*/eval/*.json"))[:4]:
        good, rng = path.read_bytes(), random.Random(0)
        for _ in range(100):
            path.write_bytes(flip(good, rng))
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                found = read(path, EVALUATIONS)
            assert found is None or (json.loads(path.read_bytes()) == json.loads(good))
            assert found is not None or any(str(path) in str(w.message) for w in said)
        path.write_bytes(good)


def test_a_checkpoint_of_another_format_is_refused(tiny, tmp_path):
    """Of an older one without the run's name, and of one to come."""
    for number in (1, 3):
        config, root = broken_off(tiny, f"outputs={tmp_path}/{number}")
        for path in root.glob("*/manifest.json"):
            files = json.loads(path.read_text())["files"]
            path.write_text(json.dumps({"format": number, "files": files}) + "\n")
        ended = run(lambda config=config: train(config), tmp_path / "log")
        assert ended.code == 4, ended.said
        assert "is not a manifest of format 2" in ended.said
