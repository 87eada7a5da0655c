"""Shared test material: small texts made here, real texts where this machine has them."""

import os
import random
from pathlib import Path

import pytest
import torch

# One thread: tests compare bits, and share a small machine.
torch.set_num_threads(1)
os.environ.setdefault("WANDB_MODE", "offline")

COMMON = "the of and to in is that it was for on are with as his they at be this from or one"


def make_text(seed: int, n_words: int) -> str:
    """Text with some structure, the same on every machine."""
    rng = random.Random(seed)
    words = [rng.choice(COMMON.split()) for _ in range(n_words)]
    return " ".join(words) + f"\nünïcode {seed} ✓ 中文\n"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder with train, validation and test texts of a few thousand bytes each."""
    root = tmp_path / "texts"
    for split, n_files in (("train", 6), ("validation", 2), ("test", 3)):
        (root / split).mkdir(parents=True)
        for number in range(n_files):
            text = make_text(len(split) * 100 + number, 400 + 100 * number)
            (root / split / f"{number}.txt").write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def books() -> Path:
    """Real books, where LEXP_BOOKS names their folder or the data lies beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "books"
    folder = Path(os.environ.get("LEXP_BOOKS", beside))
    if not (folder / "test").is_dir():
        pytest.skip("no books here: set LEXP_BOOKS to a folder with train/, validation/ and test/")
    return folder


def compose(word: str, *overrides: str):
    """A command's config, as the command line would compose it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from lexp.config.schema import register_schemas
    from lexp.system.files import config_folder

    register_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return hydra_compose(word, overrides=list(overrides))


TINY = (
    "size.n_layers=1", "size.d_model=16", "size.n_heads=2", "size.head_dim=8", "size.d_ff=32",
    "train_len=16", "batch_tokens=64", "tokens=640", "save_every=4", "probe_every=5",
    "probe_tokens=128", "precision=float32", "device=cpu", "lr=1e-2",
)  # fmt: skip


@pytest.fixture
def tiny(texts: Path, tmp_path: Path):
    """Composes a ten-step training run on the made texts: tiny(override, ...)."""

    def make(*overrides: str):
        data = [f"dataset.{s}={texts}/{s}/*.txt" for s in ("train", "validation", "test")]
        base = [*TINY, "dataset=text", *data, f"outputs={tmp_path}/outputs"]
        # A later override of the same key replaces the earlier one.
        given = {override.split("=")[0] for override in overrides}
        return compose("train", *(b for b in base if b.split("=")[0] not in given), *overrides)

    return make


@pytest.fixture
def evaluated(tiny, tmp_path: Path) -> Path:
    """A trained study of two models with two seeds, scored under two protocols and methods."""
    from lexp.commands.evaluate import eval_
    from lexp.commands.train import train

    for model in ("rope", "learned"):
        for seed in (0, 1):
            train(tiny(f"model={model}", f"seed={seed}"))
    eval_(compose(
        "eval", f"outputs={tmp_path}/outputs", "lengths=[8,16,32]", "attention=[full,window]",
        "protocol=[segments,prefix]", "device=cpu", "precision=float32",
    ))  # fmt: skip
    return tmp_path / "outputs" / "default"
