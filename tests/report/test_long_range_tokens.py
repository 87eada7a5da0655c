"""Tokens that need long context: who chooses them, and the losses on them."""

from pathlib import Path

import numpy as np
import pytest

from lexp.pattern import Window
from lexp.system.errors import ConfigError
from support.studies import LONGEST, Study, flat

KEYS = f"Long-range tokens (LongPPL), segments-{LONGEST}"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "outputs")


def picked(places: list[tuple[int, int]], value: float, base: float = 1.0) -> np.ndarray:
    """Losses that are `base`, but for these (document, position)."""
    found = flat(base)
    for document, position in places:
        found[document, position - 1] = value
    return found


# What each seed finds hard without context; (5, 9) falls far, but not to what can be told.
HARD = {0: [(0, 3), (4, 70)], 1: [(1, 5), (2, 200), (3, 1000)]}


def long_range(study: Study, model: str = "rope", seeds: tuple[int, ...] = (0, 1)) -> None:
    for seed in seeds:
        run, other = study.run(model, seed), HARD[1 - seed]
        short = picked(HARD[seed], 4.0)
        short[5, 8] = 9.0
        trained = picked([(5, 9)], 2.5)
        longest = picked(other, 0.25 if seed == 0 else 0.75)
        study.line(run, {64: short, 256: trained, 512: "no room", 1024: longest})


def test_another_seed_chooses_the_tokens(study):
    long_range(study)
    study.report()
    (row,) = study.table(KEYS)
    # Seed 0 is measured on the three tokens of seed 1, and finds none of them hard.
    assert row["tokens"] == "3, 2"
    assert (row["64"], row["256"], row["512"], row["1024"]) == ("1.000", "1.000", "", "0.500")
    markdown = (study.folder / "report" / "report.md").read_text()
    assert "another seed of the variant" in markdown and "judged itself" not in markdown
    study.report("key_alpha=3.5")
    assert "Long-range" not in (study.folder / "report" / "report.md").read_text()


def test_a_run_that_judges_itself_is_flagged(study):
    long_range(study, seeds=(0,))
    study.report()
    (row,) = study.table(KEYS)
    assert (row["tokens"], row["64"]) == ("2", "4.000")
    markdown = (study.folder / "report" / "report.md").read_text()
    assert "A run that judged itself shows a gain where there is none" in markdown


def test_a_named_judge_chooses_for_all(study):
    long_range(study, seeds=(0,))
    long_range(study, "alibi", (1,))
    study.line(study.run("nope"), {64: flat(1.5), 256: flat()}, pattern=Window())
    judge = study.run("alibi", 1).name
    study.report(f"judge={judge}")
    rows = study.named(KEYS)
    assert {key: (row["tokens"], row["64"]) for key, row in rows.items()} == {
        ("rope", "full"): ("3", "1.000"), ("alibi", "full"): ("3", "4.000"),
        ("nope", "window"): ("3", "1.500"),
    }  # fmt: skip
    markdown = (study.folder / "report" / "report.md").read_text()
    assert f"Judge: {judge}" in markdown and "judged itself" in markdown  # alibi was
    with pytest.raises(ConfigError, match=f"judge=me: .* are {judge}, rope"):
        study.report("judge=me")


def test_a_length_scored_without_some_of_the_tokens_has_no_number_on_them(study):
    run = study.run()
    study.line(run, {64: picked([(0, 3), (5, 9)], 4.0), 256: flat(), 512: flat(1, 3)})
    study.report()
    (row,) = study.table(KEYS)
    assert (row["tokens"], row["64"], row["512"]) == ("2", "4.000", "")
