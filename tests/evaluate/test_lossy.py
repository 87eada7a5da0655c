"""Bits per byte of vocabularies that lose text: kept, and left out of every comparison."""

import csv

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from lexp.commands.evaluate import eval_
from lexp.commands.report import report
from lexp.commands.train import train
from support.config import compose
from support.texts import COMMON


@pytest.fixture
def evaluated(tiny, tmp_path):
    """Two runs on one text, one with a vocabulary that knows no letter beyond ASCII, evaluated."""
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=100, show_progress=False)
    fast.train_from_iterator([COMMON] * 5, trainer)
    fast.save(str(tmp_path / "ascii.json"))
    train(tiny("tokens=64"))
    train(tiny("tokens=64", "tokenizer=file", f"tokenizer.path={tmp_path}/ascii.json"))
    eval_(compose(
        "eval", f"outputs={tmp_path}/outputs", "lengths=[16]", "attention=[full]", "device=cpu",
        "precision=float32",
    ))  # fmt: skip
    return tmp_path / "outputs" / "default"


def test_bits_per_byte_of_a_vocabulary_that_loses_text_is_not_compared(evaluated, capsys):
    with (evaluated / "results.csv").open(encoding="utf-8") as file:
        rows = {row["tokenizer"]: row for row in csv.DictReader(file)}
    assert list(rows["bytes"])[-2:] == ["lost", "targets"] and float(rows["bytes"]["lost"]) == 0
    assert 0.001 < float(rows["file"]["lost"]) < 0.1
    assert float(rows["file"]["bpb"]) > 0 and float(rows["file"]["ppl"]) > 1
    report(compose("report", f"outputs={evaluated.parent}"))
    for page in (evaluated / "results.md", evaluated / "report" / "report.md"):
        text = page.read_text(encoding="utf-8")
        per_byte = text.split("**Bits per byte")[1].split("\n\n")[1]
        rows_of = [line for line in per_byte.splitlines() if line.startswith("| rope")]
        (lossy,) = (line for line in rows_of if "tokenizer=file" in line)
        (whole,) = (line for line in rows_of if "tokenizer=file" not in line)
        assert "n/d" in lossy and "**" not in lossy
        assert "n/d" not in whole and "**" not in whole  # alone it is best of nothing
        assert "n/d (bits per byte, tokenizer file): its tokens cannot give back " in text
