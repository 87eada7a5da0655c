"""Samples: what `lexp generate` prints of a test text's beginning, and how the report shows it."""

import csv
import math

import pytest
import torch

from lexp.commands.analyze import analyze
from lexp.commands.generate import generate_
from lexp.commands.report import report
from lexp.data.tokenizer import Bytes
from lexp.display.document import Page, Section
from lexp.display.html import render
from lexp.display.table import to_markdown
from lexp.instruments.base import AnalysisInput, CheckpointInfo, LabelledMeasurement, Measurement
from lexp.instruments.sample import Sample
from lexp.pattern import Full
from lexp.position import NoPE
from lexp.system.errors import NotDefined
from support.config import compose
from support.evaluation import tiny_model
from support.instruments import ids


def test_a_sample_is_what_generation_prints_and_the_report_shows_it(study, texts, capsys):
    """The runs are trained at 16 tokens; of those, half are the prompt, of 128 all but 40."""
    study("lengths=[16]", "attention=[full]")
    words = ["model=rope", "lengths=[16,32,128]", "attention=[full,blockwise]", "device=cpu"]
    analyze(compose("analyze", f"outputs={study.folder.parent}", "instruments=[sample]", *words))
    with (study.folder / "analysis" / "sample.csv").open(newline="") as file:
        rows = {(int(row["length"]), row["method"]): row for row in csv.DictReader(file)}
    text = (texts / "test" / "0.txt").read_text()
    (run,) = study.folder.glob("rope-*")
    for (length, method), row in rows.items():
        n_new = min(40, length // 2)
        prompt = text[: length - n_new]
        capsys.readouterr()
        generate_(compose("generate", f"run={run}", f"attention={method}", "precision=float32",
                          f"max_new_tokens={n_new}", "device=cpu"), prompt)  # fmt: skip
        printed = capsys.readouterr().out.removesuffix("\n")
        assert row["continuation"].lstrip("'") == printed.replace("\n", " "), (length, method)
        assert row["in_text"] == text[length - n_new : length]
        assert (int(row["n_before"]), row["before"]) == (len(prompt), prompt[-60:])
    assert len(rows) == 6
    report(compose("report", f"outputs={study.folder.parent}"))
    page = (study.folder / "report" / "report.md").read_text()
    assert "**Samples at 16 tokens, 1 x the trained length**" in page
    assert "**Samples at 128 tokens, 8 x the trained length**" in page
    assert "Samples at 32 tokens" not in page  # neither 1 nor 8 times
    assert f"| rope | blockwise | {rows[128, 'blockwise']['continuation']} |" in page


def sampled(seed: int, length: int, continuation: str, train_len: int = 16) -> LabelledMeasurement:
    row = {"n_before": 8, "before": "so", "continuation": continuation, "in_text": "it is"}
    return LabelledMeasurement(
        "rope", "full", CheckpointInfo("trained", 1, math.nan), seed, length, train_len,
        Measurement((row,)),
    )  # fmt: skip


def test_one_seed_is_shown_and_any_length_where_no_other_was_measured():
    (table,) = Sample().show([sampled(1, 24, "b"), sampled(0, 24, "a")])
    assert table.title == "Samples at 24 tokens, 1.5 x the trained length"
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["the text itself", "", "it is"], ["rope", "full", "a"],
    ]  # fmt: skip
    tables = Sample().show([sampled(0, n, "a") for n in (128, 16, 64)])
    assert [table.title.split()[2] for table in tables] == ["16", "128"]


def test_generated_text_acts_on_nothing():
    (table,) = Sample().show([sampled(0, 16, "<script>\x1b[31m|\n*x*")])
    page = render(Page("p", "", (Section("s", "", (table,)),)))
    assert "&lt;script&gt;\ufffd[31m| *x*" in page and "<script>\ufffd" not in page
    assert r"| &lt;script>" + "\ufffd" + r"\[31m\| \*x\* |" in to_markdown(table)


def test_problems_of_tasks_and_single_tokens_have_no_sample():
    model = tiny_model(NoPE()).eval()
    for tokenizer, length, reason in [(None, 8, "trained on a task"), (Bytes(), 1, "2 tokens")]:
        inputs = AnalysisInput(
            model, Full(), ids(1, length), 16, "trained", tokenizer=tokenizer
        )  # fmt: skip
        with pytest.raises(NotDefined, match=reason), torch.no_grad():
            Sample().measure(inputs)
