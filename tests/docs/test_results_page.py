"""The pages of results are what scripts/results_page.py makes of their results files."""

import importlib
import math
import re
import sys

import pytest

from lexp.commands.study.results_file import ALL_COLUMNS
from lexp.result_store import write_csv
from support import ROOT

WITHIN = "fixed-by-32-256"
MODULES = (
    "result_cells", "page_parts", "zoo_claims", "zoo_page", "content_decay_page",
    "reference_page", "results_page",
)  # fmt: skip


@pytest.fixture(scope="module")
def script():
    """The modules of scripts/, by name."""
    sys.path.insert(0, str(ROOT / "scripts"))
    yield {name: importlib.import_module(name) for name in MODULES}
    sys.path.remove(str(ROOT / "scripts"))
    for name in MODULES:
        del sys.modules[name]


@pytest.mark.parametrize("study", ["reference", "content_decay", "zoo"])
def test_the_generated_part_is_what_the_script_writes(script, study):
    page = script["results_page"]
    there = page.path_of(study).read_text(encoding="utf-8")
    assert page.written(study) == there, "run: python scripts/results_page.py"


def row(
    model: str, length: int, nats: list[float], seed: int = 0, attention: str = "full",
    protocol: str = "fixed-by-64-2048", extension: str = "none", train_len: int = 256,
):  # fmt: skip
    """A row of documents of 100 tokens each, with these nats per token."""
    nll = sum(nats) / len(nats)
    values = {
        "run": f"{model}-s{seed}", "model": model, "seed": seed, "train_len": train_len,
        "attention": attention, "extension": extension, "protocol": protocol,
        "length": length, "documents": len(nats), "tokens": 100 * len(nats), "nll": nll,
        "ppl": math.exp(nll), "status": "ok", "text": "aa", "targets": "t", "commit": "c" * 40,
        "command": "lexp study", "processor": "a processor", "precision": "bfloat16",
        "by_document": " ".join(f"{100 * one:.4f}/100" for one in nats),
    }  # fmt: skip
    return {column: values.get(column, "") for column in ALL_COLUMNS}


def generated(script, tmp_path, name: str, rows: list, schemes: dict[str, set[int]]) -> str:
    """The generated part of a page, of a study that plans these schemes."""
    path = tmp_path / "results.csv"
    write_csv(path, ALL_COLUMNS, rows)
    cells = script["result_cells"]
    plan = cells.PlannedStudy(name, schemes, [], path)
    return script[f"{name}_page"].generated(cells.read(path, schemes), plan)


FLAT = [0.0] * 10
SPREAD = [0.01 * n for n in range(10)]  # a mean of 0.045


def plus(value: float, more: list[float] = FLAT) -> list[float]:
    return [value + one for one in more]


def of_reference() -> list:
    return [
        *(row("rope", 64, plus(1.6 + seed / 5, SPREAD), seed) for seed in (0, 1)),
        *(row("rope", 256, plus(1.5 + seed / 5), seed) for seed in (0, 1)),
        # Other targets, with no more context than was trained: a gain of 0.045 and a spread.
        *(row("rope", 64, plus(1 + seed / 5, SPREAD), seed, protocol=WITHIN) for seed in (0, 1)),
        *(row("rope", 256, plus(1 + seed / 5), seed, protocol=WITHIN) for seed in (0, 1)),
        *(row("rope", 2048, plus(3.5 + seed / 5), seed) for seed in (0, 1)),
        *(row("rope", 2048, plus(1.4 + seed / 5), seed, "window") for seed in (0, 1)),
        # Against the baseline's mean of 1.6 at 256: -0.045 on average, and from -0.09 to 0.
        row("alibi", 64, plus(1.51, SPREAD)), row("alibi", 256, plus(1.51, SPREAD)),
        row("alibi", 2048, plus(1.51, SPREAD)),
        row("alibi", 64, plus(1.2, SPREAD), protocol=WITHIN),
        row("alibi", 256, plus(1.2, SPREAD), protocol=WITHIN),
    ]  # fmt: skip


def test_the_page_is_made_from_the_file_alone(script, tmp_path):
    schemes = {"rope": {0, 1}, "alibi": {0, 1}, "xpos": {0}}
    # A scheme that the study has not, in the same file, is not on its page.
    rows = [*of_reference(), row("wall", 256, plus(9.0))]
    text = generated(script, tmp_path, "reference", rows, schemes)
    assert "wall" not in text
    assert "**Missing** (planned, not reached): `alibi` (seed 1), `xpos`." in text
    lines = {line.split(" |")[0]: line for line in text.splitlines() if line.startswith("| `")}
    as_trained = next(line for line in text.splitlines() if line.startswith("| `alibi` | 1 |"))
    assert f"| {math.exp(1.555):.2f} | {math.exp(1.555):.2f} |" in as_trained
    # The gain within the own context is 0 in each document, and so is its interval.
    assert "| +0.0000 ±0.0000 |" in as_trained and "| **-0.0450 ±0.0" in as_trained
    rope = next(line for line in text.splitlines() if line.startswith("| `rope` | 2 |"))
    spread_of_seeds = (math.exp(1.7) - math.exp(1.5)) / 2
    assert f"| {math.exp(1.6):.2f} ±{spread_of_seeds:.2f} |" in rope
    assert "| **+0.0450 ±0.0" in rope and "| **-2.0000 ±0.0000** |" in rope
    assert "RoPE gains 0.0450 nats per token" in text and ": met." in text
    # ALiBi at 2048 is 0.055 above the baseline in its window, mean 1.5.
    assert "| **+0.0550 ±0.0" in lines["| `alibi`"] and text.count("| `alibi` |") == 3


def test_reach_and_gain_of_decays_by_content(script, tmp_path):
    rows = [
        *of_reference(), *(row("rope", 2048, plus(1.5), seed, "blockwise") for seed in (0, 1)),
        # Better with length in every book, and no better than in its own window.
        row("fox", 64, plus(1.3)), row("fox", 256, plus(1.2)), row("fox", 2048, plus(1.1)),
        row("fox", 2048, plus(1.1), attention="window"),
        # As good, but better than its window.
        row("wall", 64, plus(1.3)), row("wall", 256, plus(1.2)), row("wall", 2048, plus(1.1)),
        row("wall", 2048, plus(1.15), attention="window"),
    ]  # fmt: skip
    schemes = {"rope": {0, 1}, "alibi": {0}, "fox": {0}, "wall": {0}}
    text = " ".join(generated(script, tmp_path, "content_decay", rows, schemes).split())
    assert (
        "Reach: to all 2048 tokens: `alibi`, `fox` and `wall`; not further than: `rope` at 256."
        in text
    )
    assert "interval above 0: `fox` and `wall`." in text
    assert "so by a use of longer context: `wall`." in text
    assert "the tokens, against RoPE under BCA: better `fox` and `wall`, worse none." in text
    assert "Seeds of one scheme differ by up to 0.200 nats (`rope`)" in text
    assert re.search(r"\| `fox` \| 1 \| [^|]+ \| [^|]+ \| [^|]+ \| ≥ 2048 \|", text)


def of_zoo(scheme: str, near: float, far: float, seed: int = 0, **methods: float) -> list:
    """A scheme at 128 and 512 tokens, and at 512 under methods."""
    rule = {"protocol": "fixed-by-64-512", "train_len": 128}
    rows = [row(scheme, 128, plus(near), seed, **rule), row(scheme, 512, plus(far), seed, **rule)]
    for method, value in methods.items():
        chosen = {"extension": method} if method == "yarn" else {"attention": method}
        rows.append(row(scheme, 512, plus(value), seed, **chosen, **rule))
    return rows


def test_the_zoo_says_which_differences_may_be_read(script, tmp_path):
    rows = [
        *of_zoo("rope", 2.0, 3.0, 0, blockwise=2.0, window=2.01, yarn=2.4),
        *of_zoo("rope", 2.2, 3.4, 1, blockwise=2.2, window=2.21, yarn=2.6),
        *of_zoo("alibi", 2.1, 2.0, 0, blockwise=2.1, window=2.05),
        *of_zoo("alibi", 2.1, 2.1, 1, blockwise=2.1, window=2.15),
        *of_zoo("fox", 2.05, 2.5), *of_zoo("learned", 4.0, 4.0)[:1],
    ]  # fmt: skip
    schemes = {"rope": {0, 1}, "alibi": {0, 1}, "fox": {0}, "learned": {0}, "wall": {0}}
    text = generated(script, tmp_path, "zoo", rows, schemes)
    # Variances of two seeds are half of their squared differences: (0.4^2 + 0.1^2) / 2 / 2 at 4x.
    for name, a, b in (("1x", 0.2, 0.0), ("4x", 0.4, 0.1), ("rise", 0.2, 0.1)):
        pooled = math.sqrt((a**2 + b**2) / 4)
        each = f"{b / math.sqrt(2):.4f} | {a / math.sqrt(2):.4f}"  # ALiBi, RoPE
        assert f"| {name} | {each} | {pooled:.4f} | {math.sqrt(8) * pooled:.4f} |" in text
    sentence = " ".join(text.split())
    assert "1 of 3 schemes holds at 4x by themselves" in sentence
    assert "2 break: `fox` and `rope`. BCA brings 1 of them to within 0.05 nats" in sentence
    # 0.45 behind at 4x, where 0.583 may be luck; RoPE is 1.15 behind.
    assert "Best at 4x: `alibi` and `fox`; these cannot be told apart" in sentence
    # BCA of RoPE and ALiBi as trained are better than their windows, ALiBi's BCA is as good.
    assert "A lower loss than the plain window of the same model: 2 of 5 cells" in sentence
    assert "**Missing** (planned, not reached): `wall`." in text
    ranking = text.split("### As trained, ranked")[1].split("###")[0]
    lines = {line.split("`")[1]: line.split(" | ") for line in ranking.splitlines() if "`" in line}
    assert [*lines] == ["alibi", "fox", "rope", "learned"]
    assert [lines[s][2] for s in lines] == ["2", "1", "3", "4"]
    assert [lines[s][7] for s in lines] == ["0.000 =", "0.450 =", "1.150", "·"]
    assert lines["rope"][8].startswith("**+1.1000 ±0.0000**")
    best = text.split("### Best method of each scheme")[1].split("###")[0]
    assert "| `rope` | `blockwise` | 2.100 ±0.000 |" in best
    claims = text.split("### Published claims")[1]
    assert "| `rope` rises | LEX, 2212.10554 | **+1.1000 ±0.0000** | yes |" in claims
    assert "| `rope, blockwise` holds | LEX, 2212.10554 | +0.0000 ±0.0000 | yes |" in claims
    # 0.7 below RoPE, which is more than seeds differ by.
    assert "| `fox` is better than `rope` | FoX, 2503.02130 | **-0.7000 ±0.0000** | yes |" in claims
    assert "| `wall` is better than `fox` | Wall Attention, 2026 | · | no numbers |" in claims
    module = script["zoo_page"]
    cells = script["result_cells"]
    plan = cells.PlannedStudy("zoo", schemes, [], tmp_path / "results.csv")
    picture = module.picture(cells.read(plan.file, schemes), plan)
    assert picture.startswith(b"\x89PNG")


def test_sentences_of_the_zoo_about_one_scheme_are_in_the_singular(script, tmp_path):
    rows = [*of_zoo("rope", 2.0, 3.0), *of_zoo("rope", 2.0, 3.1, 1), *of_zoo("alibi", 2.0, 2.0)]
    text = generated(script, tmp_path, "zoo", rows, {"rope": {0, 1}, "alibi": {0}})
    assert "- 1 break: " not in text and "- 1 breaks: `rope`." in text
    assert "- Best at 4x: `alibi`.\n" in text and "(commit " in text


def test_differences_of_one_seed_each_cannot_be_read(script):
    spread = script["zoo_page"].spread({})
    assert math.isnan(spread.readable)
    assert script["zoo_claims"]._verdict_of_difference((-5.0, 0.1), spread.readable) == "cannot say"
