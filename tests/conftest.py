"""Shared test material: small texts made here, real texts where this machine has them."""

import base64
import csv
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import pytest
import torch

from lexp.system import malloc
from support import ROOT
from support.config import compose, compose_tiny
from support.process import put_back
from support.texts import make_text

# One thread: tests compare bits, and share a small machine.
torch.set_num_threads(1)
os.environ.setdefault("WANDB_MODE", "offline")
# A picture of one grey pixel.
CANNED_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collects without looking for garbage, and lets none of it be looked through again.

    Modules and tests stay to the end; to search their 700,000 objects took a quarter of the time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def write_texts(root: Path) -> Path:
    for split, n_files in (("train", 6), ("validation", 2), ("test", 3)):
        (root / split).mkdir(parents=True)
        for number in range(n_files):
            text = make_text(len(split) * 100 + number, 400 + 100 * number)
            (root / split / f"{number}.txt").write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def shared_texts(tmp_path_factory) -> Path:
    return write_texts(tmp_path_factory.mktemp("made") / "texts")


def contents(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def texts(shared_texts: Path) -> Iterator[Path]:
    """A folder with train, validation and test texts of a few thousand bytes each; only read."""
    before = contents(shared_texts)
    yield shared_texts
    assert contents(shared_texts) == before, "a test that changes texts takes own_texts"


@pytest.fixture
def own_texts(tmp_path: Path) -> Path:
    """The same texts for a test that changes them."""
    return write_texts(tmp_path / "texts")


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """Puts back what a test changes of this process, commands that it runs included."""
    with put_back():
        yield


@pytest.fixture(scope="module", autouse=True)
def memory_given_back() -> Iterator[None]:
    """Returns to the system what a file's tests have freed, which runs make the process keep.

    To fork a process of 2 GB takes seven times as long as one that has just started.
    """
    yield
    gc.collect()
    malloc.give_back()


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch):
    """Builds figures without rendering them, most of the work of a small command.

    tests/display/test_pictures.py and commands in processes of their own render theirs.
    """
    import lexp.display.heat_png as heat_png
    import lexp.display.png as png

    def canned(figure) -> bytes:
        from matplotlib import pyplot

        pyplot.close(figure)
        return CANNED_PNG

    monkeypatch.setattr(png, "figure_png", canned)
    monkeypatch.setattr(heat_png, "figure_png", canned)


@pytest.fixture(scope="session")
def books() -> Path:
    """Real books, where LEXP_BOOKS names their folder or the data lies beside the repository."""
    beside = ROOT.resolve().parent / "shared" / "data" / "books"
    folder = Path(os.environ.get("LEXP_BOOKS", beside))
    if not (folder / "test").is_dir():
        pytest.skip("no books here: set LEXP_BOOKS to a folder with train/, validation/ and test/")
    return folder


@pytest.fixture
def tiny(texts: Path, tmp_path: Path):
    """Composes a ten-step training run on the made texts: tiny(override, ...)."""
    return partial(compose_tiny, texts, tmp_path / "outputs")


@pytest.fixture(scope="session")
def trained_once(shared_texts: Path, tmp_path_factory) -> Callable[..., Path]:
    """Trains each combination of models and seeds once a session: trained_once(models, seeds)."""
    from lexp.commands.train import train

    @cache
    def make(models: tuple[str, ...], seeds: tuple[int, ...] = (0,)) -> Path:
        outputs = tmp_path_factory.mktemp("trained") / "outputs"
        for model in models:
            for seed in seeds:
                train(compose_tiny(shared_texts, outputs, f"model={model}", f"seed={seed}"))
        return outputs

    return make


@pytest.fixture(scope="session")
def evaluated_once(trained_once, tmp_path_factory) -> Path:
    """The outputs of what `evaluated` copies."""
    from lexp.commands.evaluate import eval_

    outputs = tmp_path_factory.mktemp("evaluated") / "outputs"
    shutil.copytree(trained_once(("rope", "learned"), (0, 1)), outputs)
    eval_(compose(
        "eval", f"outputs={outputs}", "lengths=[8,16,32]", "attention=[full,window]",
        "protocol=[segments,prefix]", "device=cpu", "precision=float32",
    ))  # fmt: skip
    return outputs


@pytest.fixture
def evaluated(evaluated_once: Path, texts: Path, tmp_path: Path) -> Path:
    """A trained study of two models with two seeds, scored under two protocols and methods."""
    shutil.copytree(evaluated_once, tmp_path / "outputs")
    return tmp_path / "outputs" / "default"


@pytest.fixture
def study(trained_once, texts: Path, tmp_path: Path):
    """Two finished runs, and a function that evaluates them."""
    from lexp.commands.evaluate import eval_

    shutil.copytree(trained_once(("rope", "learned")), tmp_path / "outputs")

    def evaluate(*overrides: str) -> list[dict[str, str]]:
        given = {override.split("=")[0] for override in overrides}
        base = [
            f"outputs={tmp_path}/outputs",
            "lengths=[8,16,32]",
            "device=cpu",
            "precision=float32",
        ]
        eval_(compose("eval", *(b for b in base if b.split("=")[0] not in given), *overrides))
        with (tmp_path / "outputs" / "default" / "results.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    evaluate.folder = tmp_path / "outputs" / "default"
    return evaluate
