"""Differences between models and between methods, worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from lexp.pattern import Blockwise, Window
from lexp.scoring.protocol import Fixed
from lexp.system.errors import ConfigError
from support.studies import LENGTHS, LONGEST, Study, bumpy, shifted

DIFFERENCES = f"Differences at {LONGEST}, segments-{LONGEST}"
KEYS = f"Long-range tokens (LongPPL), segments-{LONGEST}"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "outputs")


def test_differences_have_the_right_sign_and_holm_counts_every_comparison(study):
    base = bumpy()
    for model, shift in (("rope", 0.0), ("alibi", 0.25), ("nope", -0.125)):
        study.line(study.run(model), shifted(base + shift))
    for model in ("rope", "alibi"):
        study.line(study.run(model), shifted(base), pattern=Blockwise())
    study.line(study.run("nope"), shifted(base), pattern=Window())  # the baseline has none
    study.report("baseline=rope")
    rows = study.named(DIFFERENCES)
    assert set(rows) == {("alibi", "full"), ("nope", "full"), ("alibi", "blockwise")}
    assert rows["alibi", "full"]["minus rope"] == "+0.2500 [+0.2500, +0.2500]"
    assert rows["nope", "full"]["minus rope"] == "-0.1250 [-0.1250, -0.1250]"
    # All of 6 documents differ alike: 2 of 64 sign patterns are as far, then times 3, 2 and 1.
    assert [rows[key]["p"] for key in sorted(rows)] == ["1.0000", "0.0312", "0.0312"]
    assert {rows[m, "full"]["p (Holm)"] for m in ("alibi", "nope")} == {"0.0938"}
    assert rows["alibi", "blockwise"]["p (Holm)"] == "1.0000"
    markdown = (study.folder / "report" / "report.md").read_text()
    assert "corrected for 3 comparisons" in markdown
    assert "(all 64 flips of the signs of whole documents, so p is at least 0.0312)" in markdown
    study.report("baseline=alibi")
    assert study.named(DIFFERENCES)["rope", "full"]["minus alibi"][:7] == "-0.2500"


@pytest.mark.parametrize(
    ("models", "baseline"),
    [(("alibi", "rope"), "rope"), (("xpos", "alibi"), "alibi"), (("alibi", "nope", "t5"), "nope")],
)
def test_the_baseline_is_rope_or_the_first_with_a_number(study, models, baseline):
    failed = {LONGEST: "not defined"} if len(models) == 3 else {}
    for model in models:
        study.line(study.run(model), shifted(bumpy()) | (failed if model == "alibi" else {}))
    study.report()
    assert f"minus {baseline}" in study.table(DIFFERENCES)[0]


def test_the_baseline_may_be_missing_under_one_protocol_or_length(study):
    base = bumpy()
    for model in ("rope", "alibi"):
        study.line(study.run(model), shifted(base))
    study.line(study.run("alibi"), shifted(base), protocol=Fixed(32))
    study.report("baseline=rope")
    assert set(study.named(DIFFERENCES)) == {("alibi", "full")}
    study.cell(study.run("rope"), 1024, "no room")
    study.report("baseline=rope")
    assert not list((study.folder / "report").glob("differences*"))
    with pytest.raises(ConfigError, match="baseline=xpos: there are alibi, rope"):
        study.report("baseline=xpos")


VOCABULARIES = {
    "another tokenizer": ("tokenizer=bpe", 4),
    "the same by name, with other pieces": ("tokenizer.name=bytes", 3),
}


@pytest.mark.parametrize("what", VOCABULARIES)
def test_tokens_of_another_vocabulary_are_not_compared(study, what):
    """Both have the same documents and positions, and still not the same tokens."""
    override, n_bytes = VOCABULARIES[what]
    base = bumpy()
    hard = np.zeros_like(base)
    hard[:, 40:50] = 4.0  # without context: tokens that a judge finds
    nats = {n: base + hard * (n < 256) for n in LENGTHS}
    study.line(study.run(), nats)
    study.line(study.run("alibi"), shifted(base + 0.5))
    study.line(study.run("nope", 0, override), shifted(base + 0.5), n_bytes=n_bytes)
    study.report("baseline=rope", f"judge={study.run().name}")
    assert {row["model"] for row in study.table(DIFFERENCES)} == {"alibi"}
    models = {row["model"].split()[0] for row in study.table(KEYS)}
    assert "rope" in models and "nope" not in models


def test_texts_and_precisions_are_compared_each_with_its_own_baseline(study):
    base = bumpy()
    for labels, far in (({}, 0.5), ({"text": "bbbbbbbb"}, 0.25), ({"precision": "bfloat16"}, 1.0)):
        study.line(study.run(), shifted(base + 7 * far), **labels)
        study.line(study.run("alibi"), shifted(base + 8 * far), **labels)
    study.report("baseline=rope")
    rows = study.named(DIFFERENCES)
    assert {method: row["minus rope"][:7] for (_, method), row in rows.items()} == {
        "full on books aaaaaaaa in float32": "+0.5000",
        "full on books bbbbbbbb in float32": "+0.2500",
        "full on books aaaaaaaa in bfloat16": "+1.0000",
    }


def test_methods_are_compared_with_the_same_models_plain_attention(study):
    """BCA half a nat better for one model, a quarter worse for the other; one family of two."""
    base = bumpy()
    for model, shift in (("rope", -0.5), ("alibi", 0.25)):
        run = study.run(model)
        study.line(run, shifted(base))
        study.line(run, shifted(base, at1024=shift), pattern=Blockwise())
    study.report()
    rows = study.named(f"Differences of methods at {LONGEST}, segments-{LONGEST}")
    assert {key: row["minus full"][:7] for key, row in rows.items()} == {
        ("rope", "blockwise"): "-0.5000",
        ("alibi", "blockwise"): "+0.2500",
    }
    # Six documents that all agree: 2 of 64 sign flips, twice that for two comparisons.
    assert {row["p"] for row in rows.values()} == {"0.0312"}
    assert {row["p (Holm)"] for row in rows.values()} == {"0.0625"}
