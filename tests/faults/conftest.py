"""Runs that nothing happens to, for comparison with those that something happens to."""

from pathlib import Path

import pytest

from lexp.commands.train import train
from support.config import compose_tiny
from support.forked import lexp, words_for
from support.texts import make_text
from support.training import folder_of, result_of


@pytest.fixture(scope="session")
def whole(shared_texts, tmp_path_factory):
    """What the run of `tiny()` comes to."""
    config = compose_tiny(shared_texts, tmp_path_factory.mktemp("whole") / "outputs")
    train(config)
    return result_of(folder_of(config))


@pytest.fixture(scope="session")
def foreign_study(tmp_path_factory):
    """A trained, evaluated and probed run in outputs/, as it would be handed on."""
    desk = tmp_path_factory.mktemp("foreign")
    for split, n_files in (("train", 6), ("validation", 2), ("test", 3)):
        (desk / "texts" / split).mkdir(parents=True)
        for number in range(n_files):
            path = desk / "texts" / split / f"{number}.txt"
            path.write_text(make_text(number + len(split) * 100, 500), encoding="utf-8")
    words = [*words_for(Path("texts")), "tokenizer=bpe", "tokenizer.vocab_size=300"]
    assert lexp("train", *words, cwd=desk).code == 0
    ended = lexp("eval", "lengths=[8,16]", "attention=[full]", cwd=desk)
    assert ended.code == 0, ended.said
    return desk
