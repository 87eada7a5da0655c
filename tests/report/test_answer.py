"""The sentences that a report opens with, against studies whose truth is worked out by hand."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest

from lexp.commands.select_runs import read_config
from lexp.display.terminal import TableConsole
from lexp.evaluate import EVALUATIONS
from lexp.extension import PI
from lexp.pattern import Blockwise, Full, Window
from lexp.report.answer import answer
from lexp.report.claims import Claim, claims
from lexp.report.differences import against_baseline
from lexp.report.numbers import p_text, smallest_p_text
from lexp.report.study_results import make_series
from lexp.report.summary import facts, missing
from lexp.result_store import read_newest
from lexp.scoring.protocol import Fixed, Prefix
from support.studies import LONGEST, Study, bumpy

# 12 documents: sign flips can then show a difference, also after Holm's correction.
BASE = bumpy(12)


@pytest.fixture
def study(tmp_path) -> Study:
    return Study(tmp_path / "outputs")


def losses(at512: float, at1024: float, at64: float = 0.25) -> dict:
    """Losses by length above those at the trained length of 256."""
    return {64: BASE + at64, 256: BASE, 512: BASE + at512, 1024: BASE + at1024}


def sentences(study: Study, baseline: str = "alibi", delta: float = 0.05) -> tuple[str, ...]:
    all_series = make_series(read_newest(study.folder, EVALUATIONS), {})
    models = against_baseline(all_series, LONGEST, baseline)
    return answer(claims(all_series, delta), models, len({n.name for n in all_series}))


def three_models(study: Study) -> None:
    """A model that holds to 4 times its length or more, one to twice, one to once."""
    for model, at512, at1024 in (("rope", 0.25, 0.5), ("xpos", 0.0, 0.125), ("alibi", 0, 0.03125)):
        run = study.run(model)
        study.line(run, losses(at512, at1024))
        study.line(run, losses(-0.0078125, -0.015625), pattern=Window())


def test_the_answer_is_the_one_worked_out_by_hand(study):
    three_models(study)
    study.line(study.run("rope"), losses(-0.0078125, -0.03125), pattern=Blockwise())
    study.line(study.run("xpos"), losses(-0.0078125, -0.0625), extension=PI())
    assert sentences(study) == (
        "Holds to: alibi at least 4x, xpos 2x, rope 1x (loss within 0.05 nats per token of "
        "that at 256 tokens).",
        # Extended, xPos holds further than alone; so does RoPE by blocks.
        "Further with a method: blockwise at least 4x (rope); full pi at least 4x (xpos).",
        # PI: -0.0625 against -0.015625 of the window; blocks: -0.03125 against the same.
        "Better than a plain window of 256 tokens at 1024: xpos full pi (-0.0469). Better without "
        "seeing further: rope blockwise (-0.0156).",
        "Gains most from context beyond 256 tokens: xpos full pi, 0.0625 nats per token at 1024.",
        "Against alibi at 1024 tokens, by the same method: worse rope full (+0.4688) and xpos full "
        "(+0.0938).",
    )
    assert sentences(study, "rope")[-1] == (
        "Against rope at 1024 tokens, by the same method: better alibi full (-0.4688) and xpos "
        "full (-0.3750)."
    )
    assert sentences(study, delta=0.2)[0].startswith("Holds to: alibi and xpos at least 4x, rope")


def test_nothing_is_better_where_nothing_is(study):
    three_models(study)
    found = sentences(study)
    assert found[1:3] == (
        "Nothing is better than a plain window of 256 tokens (3 compared).",
        "Nothing gains more from longer texts than its plain window does.",
    )


def test_without_a_window_longer_context_is_not_claimed(study):
    study.line(study.run("alibi"), losses(-0.125, -0.25))
    assert sentences(study) == (
        "Holds to: alibi at least 4x (loss within 0.05 nats per token of that at 256 tokens).",
        "Better than a plain window: not known, none was scored (attention=[full,window]).",
        "Gains most from texts longer than 256 tokens: alibi full, 0.2500 nats per token at 1024; "
        "its window may gain as much.",
    )


def test_a_reach_with_two_ends_shows_them(study):
    document = np.linspace(-0.05, 0.15, 12)[:, None]  # 0.05 in the mean
    study.line(study.run("rope"), {**losses(0, 0), 512: BASE + document - 0.25})
    study.line(study.run("rope"), {1024: BASE + document})
    (claim,) = claims(make_series(read_newest(study.folder, EVALUATIONS), {}), 0.06)
    assert claim.reach.sure == 512 and claim.reach.length == claim.reach.possible == 1024
    assert sentences(study, "rope", 0.06)[0].startswith(
        "Holds to: rope at least 4x (95 %: 2x to 4x) (loss within 0.06"
    )


NOT_KNOWN = {
    "no longer length": (
        {64: BASE + 0.25, 256: BASE},
        "Holds to: not known, no length beyond 256 tokens was scored (lengths=).",
    ),
    "no trained length": ({512: BASE, 1024: BASE}, "Holds to: not known for rope (loss"),
    "a failed trained length": ({256: "no room", 512: BASE}, "Holds to: not known for rope (loss"),
    "a failed longer length": (
        {64: BASE + 0.25, 256: BASE, 512: "no room", 1024: BASE},
        "Holds to: rope 1x (loss",
    ),
    "unlearned": (
        losses(0, 0, 0),
        "rope is no better at 256 tokens than at 64: without use of context, any length holds.",
    ),
    "one document": (
        {n: nats[:1] for n, nats in losses(0, 0.5).items()}, "Holds to: rope 2x (loss",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", NOT_KNOWN)
def test_what_is_not_known_is_said(study, what):
    of_lengths, first = NOT_KNOWN[what]
    study.line(study.run("rope"), of_lengths)
    assert sentences(study, "rope")[0].startswith(first)


def test_a_window_without_an_interval_and_methods_alone_are_said(study):
    run = study.run("rope")
    for pattern in (Window(), Blockwise()):
        of_one = {n: nats[:1] for n, nats in losses(0, 0).items()}
        study.line(run, of_one, pattern=pattern)
    assert sentences(study, "rope")[:2] == (
        "Holds to: not known, full attention was not scored (attention=[full]).",
        "Better than a plain window of 256 tokens: not known, one document alone has no interval.",
    )


@pytest.mark.parametrize(("n_documents", "can_be"), [(6, False), (7, True)])
def test_too_few_documents_for_any_p_to_be_small_are_said(study, n_documents, can_be):
    """2 of 2^6 sign patterns are as extreme as all of one sign; after Holm p is 2 x 2/64 > 0.05."""
    base = bumpy(n_documents)
    for model, above in (("alibi", 0.0), ("rope", 2.0)):
        for pattern in (Full(), Window()):
            at = {64: base + 0.25, 256: base, 512: base + above, 1024: base + above}
            study.line(study.run(model), at, pattern=pattern)
    said = sentences(study)[-1]
    assert can_be == said.startswith("Against alibi at 1024 tokens, by the same method: worse rope")
    if not can_be:
        assert said == (
            "No difference to alibi at 1024 tokens can be sure: too few documents (6) for 2 "
            "comparisons by the same method."
        )


def test_a_baseline_without_a_number_on_the_same_tokens_is_said(study):
    study.line(study.run("alibi"), {**losses(0, 0), 1024: "no room"})
    study.line(study.run("rope"), losses(0, 0))
    assert sentences(study)[-1] == (
        "Nothing is compared with alibi: no row has a number on its tokens at 1024."
    )
    study.line(study.run("alibi"), losses(0, 0))
    assert sentences(study)[-1] == (
        "No sure difference to alibi at 1024 tokens (1 comparison by the same method)."
    )


def opening_of(study: Study) -> list[str]:
    """Return the paragraphs before the first section of the report."""
    text = (study.folder / "report" / "report.md").read_text()
    return re.sub(r"\\(.)", r"\1", text).split("\n\n## ")[0].split("\n\n")[1:]


def test_several_protocols_have_headings_in_words_and_answers_of_their_own(study):
    run = study.run("rope")
    study.line(run, losses(0.25, 0.5))
    study.line(run, {256: BASE, 512: BASE}, protocol=Fixed(32))
    study.line(run, losses(0, 0), protocol=Prefix())
    study.report()
    assert opening_of(study)[0].startswith("Holds to: rope 1x (")
    assert opening_of(study)[3] == (
        f"This is under segments-{LONGEST}; the sections on fixed-by-32-{LONGEST}, "
        f"prefix-{LONGEST} have their own answers. Numbers of different protocols do not compare."
    )
    text = (study.folder / "report" / "report.md").read_text()
    heads = re.findall(r"## (.*)\n\n(.*)\n\n(.*)", text)
    assert [head[:2] for head in heads] == [
        ("Perplexity by context length: fixed targets", f"fixed-by-32-{LONGEST}"),
        ("Perplexity by context length: beginnings of documents", f"prefix-{LONGEST}"),
        ("Perplexity by context length: consecutive windows", f"segments-{LONGEST}"),
    ]
    assert heads[0][2].startswith("Holds to: rope at least 2x")
    assert heads[1][2].startswith("Reach and gain: not known, protocol=prefix scores other tokens")
    page = (study.folder / "report" / "report.html").read_text()
    assert f'<p class="label">segments-{LONGEST}</p>' in page and "<p>Holds to: rope 1x" in page


def test_failures_and_warnings_are_counted_in_one_line(study):
    run = study.run("rope")
    study.line(run, {**losses(0, 0), 512: "no room"})
    study.run("nope")
    broken = study.cell(run, 1024, BASE).with_suffix(".npz")
    broken.write_bytes(b"")
    with pytest.warns(UserWarning, match=broken.name):
        study.report()
    assert opening_of(study)[-2] == (
        "Missing: 2 of 4 cells without a number (1 damaged, 1 out of memory); 1 run without any "
        "result; 1 warning while results were read."
    )
    stored = read_newest(study.folder, EVALUATIONS)
    undefined = [replace(result, status="not defined") for result in stored]
    assert missing([*stored, *undefined], 0, 0, 0) == (
        "Missing: 1 of 4 cells without a number (1 out of memory)."
    )
    assert missing(undefined, 0, 0, 0) == ""
    assert missing((), 2, 0, 0) == "Missing: 2 means without a seed."
    assert missing((), 0, 0, 0) == ""


def copies(claim: Claim, n: int) -> list[Claim]:
    """Return a claim under n names of models, of 11 letters each."""
    series = claim.series
    return [
        replace(claim, series=replace(series, model=f"{series.model:_<9}{k:02}", variant=f"v{k}"))
        for k in range(n)
    ]


def test_the_answer_for_3_and_for_39_models_fits_a_screen(study):
    three_models(study)
    for model in ("rope", "xpos"):
        study.line(study.run(model), losses(-0.0078, -0.03125), pattern=Blockwise())
    study.line(study.run("xpos"), losses(-0.0078125, -0.0625), extension=PI())
    all_series = make_series(read_newest(study.folder, EVALUATIONS), {})
    of_three = claims(all_series, 0.05)
    models = against_baseline(all_series, LONGEST, "alibi")
    results = [result for n in all_series for result in n.every_result]
    line = "39 models (nano, 853k to 1.2M parameters) trained on 1.23M tokens of stdlib "
    line += "(bytes) at length 256, scored on books; seeds 0, 1, 2; 1,456 cells; 2026-11-29."
    for n in (1, 13):
        of_many = [c for claim in of_three for c in copies(claim, n)]
        many = replace(models, differences=models.differences * n)
        shown = [*answer(of_many, many, 3 * n), missing(results, 3, 4, 5), line]
        out = io.StringIO()
        console = TableConsole(width=80, file=out, force_terminal=True, color_system=None)
        console.paragraphs(*shown)
        lines = out.getvalue().splitlines()
        assert max(map(len, lines)) <= 80 and len(shown) == 7
        # Below them: where the page is, which takes two lines, and two commands.
        assert len(lines) + 4 <= 20
        assert " ".join(text.strip() for text in lines) == " ".join(shown)
    assert "alibi____00, alibi____01 and 11 more at least 4x" in shown[0]
    assert "By chance, about 2 of 78 would be." in shown[2]


def test_long_names_that_differ_at_their_ends_stay_apart(study):
    three_models(study)
    all_series = make_series(read_newest(study.folder, EVALUATIONS), {})
    stem = "rope_with_a_base_of_ten_thousand_and_a_factor_of_"
    long = {"rope": f"{stem}2", "xpos": f"{stem}4"}
    named = [replace(n, model=long.get(n.model, n.model)) for n in all_series]
    models = against_baseline(named, LONGEST, "alibi")
    shown = " ".join(answer(claims(named, 0.05), models, 3))
    assert f"{stem}4 2x, {stem}2 1x" in shown
    assert f"worse {stem}2 full (+0.4688) and {stem}4 full (+0.0938)" in shown


def test_the_command_prints_the_answer_the_link_and_what_is_next(study, capsys):
    three_models(study)
    page = (study.report() / "report.html").resolve().as_uri()
    printed = capsys.readouterr()
    assert printed.out.splitlines() == opening_of(study)
    assert opening_of(study)[0].startswith("Holds to: alibi at least 4x, xpos 2x, rope 1x")
    line = r"3 models \(nano\) trained on 256 tokens of stdlib \(bytes\) at length 256, "
    line += r"scored on books; one seed; 24 cells; \d{4}-\d\d-\d\d\."
    assert re.fullmatch(line, opening_of(study)[-1])
    words = f"outputs={study.outputs}"
    assert printed.err.splitlines()[-3:] == [
        f"open: {page}", f"tables: lexp report {words} show=all", f"next: lexp probe {words}",
    ]  # fmt: skip
    study.report("show=all")
    printed = capsys.readouterr()
    assert "Reach and gain" in printed.out and printed.out.endswith(f"{opening_of(study)[-1]}\n")
    assert "tables:" not in printed.err


def test_a_study_without_losses_has_a_report_of_what_it_has(study):
    run = study.run("rope")
    study.analysis(run)
    study.report()
    assert opening_of(study)[0] == ("Reach and gain: not known, no losses were scored (lexp eval).")
    assert "1 cell;" in opening_of(study)[1]
    text = (study.folder / "report" / "report.md").read_text()
    assert "Instrument: growth" in text and "Perplexity" not in text


def test_p_is_never_zero():
    shown = [p_text(p) for p in (0.5, 0.0001, 0.00009, 0.0, float("nan"))]
    assert shown == ["0.5000", "0.0001", "< 0.0001", "< 0.0001", ""]
    # All flips of 5 and of 16 documents, and 20,000 random ones.
    assert [smallest_p_text(p) for p in (2 / 2**5, 2 / 2**16, 1 / 20001)] == [
        "0.0625", "0.00003", "0.00005",
    ]  # fmt: skip


def test_facts_say_size_parameters_tokens_texts_and_seeds(study):
    runs = [study.run(), study.run("alibi", 1, "size=mini", "tokens=4e6", "tokenizer=bpe")]
    configs = [read_config(run) for run in runs]
    (runs[0].folder / "done.json").write_text('{"parameters": 853000}')
    assert [run.parameters for run in runs] == [853000, None]
    assert facts(configs, [853000, 2_500_000_000], ["stdlib"], 8, "2026-11-29") == (
        "2 models (nano, 853k parameters; mini, 2.5B parameters) trained on 256 to 4M tokens of "
        "stdlib (bpe, bytes) at length 256; seeds 0, 1; 8 cells; 2026-11-29."
    )
    alone = facts(configs[:1], [None], ["stdlib"], 1, "2026-11-29")
    assert alone == (
        "1 model (nano) trained on 256 tokens of stdlib (bytes) at length 256; one seed; 1 cell; "
        "2026-11-29."
    )
