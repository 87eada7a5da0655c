"""`lexp eval plan=true` against the evaluation that follows; what memory it says will be needed."""

import csv
import shutil
from pathlib import Path

import pytest
import torch

from lexp.commands import eval_cost as cost_task
from lexp.commands import fit_cost
from lexp.commands.evaluate import eval_
from lexp.commands.fit_cost import by_size, grown
from lexp.commands.train import train
from lexp.evaluate import fit as fits_module
from lexp.evaluate import run as evaluate_run
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Blockwise, Full, SelfExtend, Sinks, Window
from lexp.position import ALiBi, RoPE, XPos
from lexp.scoring.memory import available_bytes, needed_bytes, spelled
from lexp.scoring.scorer import Scorer
from lexp.system.errors import Incomplete
from support.config import compose

LENGTHS = "lengths=[8,16,32]"


@pytest.fixture
def study(tiny, tmp_path):
    """Trains what is asked for; then plans or evaluates."""

    class Study:
        folder = tmp_path / "outputs" / "default"

        def train(self, *overrides: str) -> None:
            train(tiny(*overrides))

        def eval(self, *overrides: str) -> None:
            base = [LENGTHS, "device=cpu", "precision=float32", "workers=1"]
            given = {one.split("=")[0] for one in overrides}
            base = [one for one in base if one.split("=")[0] not in given]
            eval_(compose("eval", f"outputs={tmp_path}/outputs", *base, *overrides))

        def files(self) -> dict[Path, int]:
            return {path: path.stat().st_mtime_ns for path in self.folder.rglob("*")}

        def rows(self) -> list[dict[str, str]]:
            with (self.folder / "results.csv").open(newline="") as file:
                return list(csv.DictReader(file))

    return Study()


@pytest.fixture
def needs(monkeypatch):
    """What a plan counted, of the last plan made."""
    seen = {}
    original = cost_task._table

    def table(found):
        seen.clear()
        seen.update(found)
        return original(found)

    monkeypatch.setattr(cost_task, "_table", table)
    return seen


@pytest.fixture
def read(monkeypatch):
    """Tokens in the forward passes since, under `read["n"]`."""
    count = {"n": 0}
    original = Scorer._pass

    def counted(self, tokens, batch, attend):
        count["n"] += sum(piece.size for piece in batch)
        return original(self, tokens, batch, attend)

    monkeypatch.setattr(Scorer, "_pass", counted)
    return count


def totals(needs) -> tuple[int, int, int, int]:
    fields = ("n_cells", "n_known", "not_defined", "n_tokens")
    return tuple(sum(getattr(need, field) for need in needs.values()) for field in fields)


def test_a_plan_writes_nothing_into_the_study(study, capsys):
    study.train()
    study.train("model=alibi")
    before = study.files()
    study.eval("plan=true", "attention=[full,window]", "protocol=[segments,prefix]")
    assert study.files() == before
    printed = capsys.readouterr().out
    assert "What this evaluation takes" in printed and "of memory at most" in printed
    assert "segments-32: 3 documents of 32 scored tokens show differences" in printed


@pytest.mark.parametrize("protocol", ["segments", "sliding", "fixed", "prefix"])
@pytest.mark.parametrize("extension", ["none", "dynamic_ntk"])
def test_it_counts_what_the_evaluation_then_reads(study, needs, read, protocol, extension):
    for model in ("rope", "learned"):
        study.train(f"model={model}")
    asked = (
        f"protocol=[{protocol}]", "attention=[full,blockwise]", f"extension=[{extension}]",
    )  # fmt: skip
    study.eval("plan=true", *asked)
    n_cells, n_known, not_defined, n_tokens = totals(needs)
    assert (n_cells, n_known) == (2 * 2 * 3, 0)
    read["n"] = 0
    study.eval(*asked)
    rows = study.rows()
    assert len(rows) == n_cells
    assert sum(row["status"] == "not defined" for row in rows) == not_defined > 0
    assert read["n"] == n_tokens > 0
    study.eval("plan=true", *asked)
    assert totals(needs) == (n_cells, n_cells, 0, 0)


def test_what_is_known_is_not_counted_again(study, needs, read):
    study.train()
    study.eval("attention=[full]", "protocol=[segments]")
    study.eval("plan=true", "attention=[full,blockwise]", "protocol=[segments]")
    # Three documents of 32 tokens, once at each of three lengths.
    assert totals(needs) == (6, 3, 0, 3 * 3 * 32)
    assert needs["segments-32", "full"].n_tokens == 0 == needs["segments-32", "full"].seconds


def test_a_nested_protocol_reads_the_longest_length_alone(study, needs):
    study.train()
    study.eval("plan=true", "attention=[full]", "protocol=[prefix]")
    assert totals(needs) == (3, 0, 0, 3 * 32)
    # A pattern whose blocks follow the length would read every length.
    study.eval("plan=true", "attention=[full]", "protocol=[segments]")
    assert totals(needs) == (3, 0, 0, 3 * 3 * 32)
    # Where the longest is not defined, the next one is read, and gives the shorter ones.
    study.train("model=learned")
    study.eval("plan=true", "model=learned", "attention=[full]", "protocol=[prefix]")
    assert totals(needs) == (3, 0, 1, 3 * 16)


def test_a_fit_is_counted_once_for_all_that_needs_it(study, needs, monkeypatch, capsys):
    """Three constants are tried on 9 texts, two batches of 8; HeadScale reads one in each step."""
    study.train("model=nope")
    asked = (
        "attention=[full]", "protocol=[segments,prefix]", "extension=[head_scale,fitted_scale]",
        "extension.head_scale.steps=3", "extension.head_scale.fit_len=length",
        "extension.fitted_scale.n_texts=9", "extension.fitted_scale.most=1",
    )  # fmt: skip
    study.eval("plan=true", *asked)
    fits = {name: need for (protocol, name), need in needs.items() if protocol == "fit"}
    by_head, by_grid = fits.values()
    assert (by_head.n_cells, by_head.n_tokens) == (3, 3 * 8 * (8 + 16 + 32))
    assert (by_grid.n_cells, by_grid.n_tokens) == (1, 3 * 16 * 32)
    assert min(by_head.seconds, by_grid.seconds) > 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("│ fit"))
    assert [cell.strip() for cell in row.split("│")[3:7]] == ["3", "0", "0", "0.00M"]
    read, make_loss = [], fits_module.make_loss

    def counted(fit, model):
        loss = make_loss(fit, model)
        return lambda number: read.append(fit.length * 8) or loss(number)

    monkeypatch.setattr(fits_module, "make_loss", counted)
    study.eval(*asked)
    assert sum(read) == by_head.n_tokens + by_grid.n_tokens
    (run,) = study.folder.glob("nope-*")
    shutil.rmtree(run / "eval")
    study.eval("plan=true", *asked)
    known = [(need.n_cells, need.n_known, need.n_tokens) for key, need in needs.items()
             if key[0] == "fit"]  # fmt: skip
    assert known == [(3, 3, 0), (1, 1, 0)]


def test_what_cannot_be_fitted_is_not_read(study, needs):
    study.train("model=nope")
    asked = ("attention=[full]", "extension=[head_scale]", "extension.head_scale.fit_len=90000")
    study.eval("plan=true", *asked)
    assert totals(needs) == (3, 0, 3, 0)


def test_a_step_of_a_fit_keeps_activations_and_one_without_gradients_none(study, monkeypatch):
    """Memory in windows of 8 and 32 tokens of attention that keeps n^2 numbers for n tokens."""
    kept = {8: 8 * 100.0 + 64 * 5.0, 32: 32 * 100.0 + 32 * 32 * 5.0}
    linear, quadratic = by_size(8, kept[8] / 8, 32, kept[32] / 32)
    assert (linear, quadratic) == pytest.approx((100, 5))
    assert grown((linear, quadratic), 64) == pytest.approx(6400 + 4096 * 5)
    study.train("model=nope")
    found, measure = [], fit_cost.measure_window
    monkeypatch.setattr(
        cost_task, "measure_window", lambda f: found.append(measure(f)) or found[-1]
    )
    study.eval("plan=true", "attention=[full]", "extension=[head_scale,fitted_scale]")
    with_gradient, without = found
    assert grown(with_gradient.kept, 32) > 32 * 4 * 16 and without.kept == (0, 0)


def test_one_of_anything_is_said(study, tiny, texts, capsys):
    study.train()
    study.eval("plan=true", "attention=[full]")
    assert "segments-32: one variant alone is compared with nothing" in capsys.readouterr().out
    study.train("model=alibi")
    study.eval("plan=true", "attention=[full]")
    assert "how seeds vary is not known with one of each" in capsys.readouterr().out
    study.eval("plan=true", "attention=[full]", "max_tokens=32")
    said = capsys.readouterr().out
    assert "segments-32: one document alone says nothing about other documents" in said
    study.train("seed=1")
    study.train("model=alibi", "seed=1")
    study.eval("plan=true", "attention=[full]")
    assert "between variants of 2 seeds each, " in capsys.readouterr().out


def test_the_pilot_reads_most_documents_whatever_their_sizes(study, texts, monkeypatch):
    """The made texts are of 400, 500 and 600 words, all shorter than a third of the pilot."""
    seen = []
    original = cost_task.pilot
    monkeypatch.setattr(cost_task, "pilot", lambda s: seen.append(original(s)) or seen[-1])
    study.train()
    study.eval("plan=true", "attention=[full]")
    assert len(set(seen[0].document.tolist())) >= 2
    sizes = sorted(len(path.read_bytes()) for path in (texts / "test").glob("*.txt"))
    assert seen[0].position.max() == sizes[1] - 1


def test_one_test_document_is_said(study, texts, capsys):
    for model in ("rope", "alibi"):
        study.train(f"model={model}", f"dataset.test={texts}/test/0.txt")
    study.eval("plan=true", "attention=[full]")
    assert "one document alone says nothing about other documents" in capsys.readouterr().out


def test_variants_of_other_vocabularies_are_not_compared(study, capsys):
    study.train()
    study.train("tokenizer=bpe", "tokenizer.vocab_size=300")
    study.eval("plan=true", "attention=[full]")
    said = capsys.readouterr().out
    assert "variants of unlike texts or vocabularies are not compared" in said


def test_a_tile_in_which_a_scheme_overflows_is_not_defined_and_no_error(study, needs):
    study.train("model=xpos", "model.position.scale_base=0.1")
    asked = ("attention=[full,blockwise]", "protocol=[segments]")
    study.eval("plan=true", *asked)
    assert totals(needs)[:3] == (6, 0, 3) and needs["segments-32", "full"].not_defined == 0
    study.eval(*asked)
    assert sum(row["status"] == "not defined" for row in study.rows()) == 3


@pytest.mark.parametrize("lengths", ["[2]", "[3]", "[2,16]", "[7,33]"])
def test_lengths_of_any_size_can_be_planned(study, needs, lengths):
    study.train()
    study.train("model=learned")
    study.eval("plan=true", f"lengths={lengths}", "attention=[full,blockwise]")
    assert totals(needs)[0] == 2 * 2 * len(lengths.split(","))


# --- memory


def model_of(position, vocab: int = 50, **dims: int) -> Transformer:
    base = {"n_layers": 2, "d_model": 16, "n_heads": 2, "head_dim": 8, "d_ff": 32, **dims}
    return Transformer(Dims(**base), vocab, [LayerEntry(lambda: position)])


@pytest.mark.parametrize(
    "pattern", [Full(), Blockwise(64), Window(128), Sinks(Window(124)), SelfExtend(32, 8)], ids=repr
)
@pytest.mark.parametrize("position", [RoPE(8), ALiBi(2), XPos(8)], ids=lambda p: type(p).__name__)
def test_a_larger_pass_needs_no_less_memory(position, pattern):
    sizes = [2**n for n in range(3, 22)]
    small = model_of(position)
    needed = [needed_bytes(small, pattern, size, size, 4) for size in sizes]
    assert needed == sorted(needed) and needed[-1] > 20 * needed[0]
    # At least the residual stream and the logits of one chunk, which no pass does without.
    weights = sum(p.numel() * 4 for p in small.parameters())
    assert all(n > weights + size * 16 * 4 for n, size in zip(needed, sizes, strict=True))
    several = [needed_bytes(small, pattern, n * 256, 256, 4) for n in (1, 2, 8, 64)]
    assert several == sorted(set(several))
    for larger in (
        model_of(position, n_layers=3), model_of(position, d_model=32),
        model_of(position, d_ff=4096), model_of(position, vocab=5000),
    ):  # fmt: skip
        assert needed_bytes(larger, pattern, 4096, 4096, 4) > needed_bytes(
            small, pattern, 4096, 4096, 4
        )
    assert needed_bytes(small, pattern, 4096, 4096, 2) < needed_bytes(small, pattern, 4096, 4096, 4)


def test_free_memory_is_what_the_machine_says():
    stated = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total = int(stated["MemTotal"].split()[0]) * 1024
    assert 0 < available_bytes(torch.device("cpu")) < total
    assert [spelled(n) for n in (45 * 2**20, 3.25 * 2**30)] == ["45 MiB", "3.2 GiB"]


def test_a_cell_too_large_for_memory_is_one_with_both_figures_and_is_not_tried(study, monkeypatch):
    study.train()
    tried = []
    score = Scorer.score

    def scored(self, tokens, windows, *rest):
        tried.append(windows[0].size)
        return score(self, tokens, windows, *rest)

    def needed(model, pattern, n_tokens, size, item):
        return 5 * 2**30 if size == 16 else 2**20

    monkeypatch.setattr(Scorer, "score", scored)
    monkeypatch.setattr(evaluate_run, "needed_bytes", needed)
    with monkeypatch.context() as patch:
        patch.setattr(evaluate_run, "available_bytes", lambda device: 2 * 2**30)
        with pytest.raises(Incomplete, match="1 of 3 cells ran out of memory"):
            study.eval("attention=[full]")
    assert sorted(tried) == [8, 32]
    assert {row["length"]: row["status"] for row in study.rows()} == {
        "8": "ok", "16": "out of memory", "32": "ok",
    }  # fmt: skip
    said = (study.folder / "results.md").read_text()
    assert "OOM (rope): needs about 5.0 GiB, 2.0 GiB are free." in said
    with monkeypatch.context() as patch:  # where that cannot be told, it is tried
        patch.setattr(evaluate_run, "available_bytes", lambda device: None)
        study.eval("attention=[full]")
    assert sorted(tried) == [8, 16, 32]
    assert {row["status"] for row in study.rows()} == {"ok"}


def test_what_just_fits_is_tried(study, monkeypatch):
    study.train()
    monkeypatch.setattr(evaluate_run, "needed_bytes", lambda *rest: 1000)
    monkeypatch.setattr(evaluate_run, "available_bytes", lambda device: 1000)
    study.eval("attention=[full]")
    assert {row["status"] for row in study.rows()} == {"ok"}
