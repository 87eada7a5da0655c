"""The evaluator against brute force; every token once; failures as cells; nothing done twice."""

import json
import math
import queue
import shutil
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lexp.attention import make_attend
from lexp.commands import eval_workers as workers
from lexp.commands.run_parts import make_model
from lexp.commands.train import train
from lexp.config.validation import read_train
from lexp.data import Tokens
from lexp.display.table import to_markdown
from lexp.evaluate import (
    COLUMNS,
    EVALUATIONS,
    EvalTargets,
    Method,
    ModelIdentity,
    ModelUnderTest,
    RunInfo,
    eval_spec,
)
from lexp.extension import NTK, Extension
from lexp.pattern import Blockwise, Full, Window
from lexp.position import ALiBi, RoPE
from lexp.record.metrics import read
from lexp.report.perplexity_table import TOKEN_METRIC, caption, make_grid, to_table
from lexp.result_store import ArrayFile, path_of, read_newest
from lexp.runs import checkpoint
from lexp.runs.run import Run
from lexp.scoring.losses import Losses, collect, read_losses
from lexp.scoring.protocol import Prefix, Segments, Span
from lexp.scoring.scorer import Scorer
from lexp.system.errors import CheckpointError, ConfigError, DataError, Incomplete, LexpError
from lexp.system.files import sha256
from support.config import compose_tiny, dataset
from support.evaluation import brute_force, by_cell, tiny_model, tokens_of
from support.training import Killed, flip_a_bit, folder_of, stop_after

CPU = torch.device("cpu")


BLOCK = 8


@pytest.mark.parametrize("length", [2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 13, 40])
@pytest.mark.parametrize("pattern", [Full(), Blockwise(BLOCK), Window(5)], ids=repr)
@pytest.mark.parametrize("position", [RoPE(8), ALiBi(2)], ids=lambda p: type(p).__name__)
def test_scores_equal_brute_force_every_token_once(position, pattern, length):
    model = tiny_model(position)
    tokens = tokens_of(41, 30, 60, 0, 1, 2)
    spans = Segments().spans(tokens, [40], None)
    assert [span.document for span in spans] == [0, 2]  # those with 41 tokens or more
    found = losses_of(model, pattern, tokens, spans, length)
    assert len(found.nats) == 2 * 40 and found.names == ("d0", "d2")
    reference = model.double()
    whole = []
    for row, span in enumerate(spans):
        ids = tokens.window(span.document, 0, 41).tolist()
        expected = brute_force(reference, pattern, ids, 40, length)
        own = found.document == row
        np.testing.assert_allclose(found.nats[own], expected, rtol=0, atol=2e-5)
        assert found.position[own].tolist() == list(range(1, 41))
        assert found.context[own].tolist() == [(t - 1) % length + 1 for t in range(1, 41)]
        whole += expected
    assert found.nll == pytest.approx(sum(whole) / 80, abs=1e-6)
    assert found.ppl == pytest.approx(math.exp(sum(whole) / 80), rel=1e-6)


def losses_of(model, pattern, tokens, spans, length, protocol=None) -> Losses:
    protocol = protocol or Segments()
    windows = [w for span in spans for w in protocol.windows(span, length)]
    nats = Scorer(model, pattern, nullcontext()).score(tokens, windows)
    return collect(tokens, windows, protocol.contexts(windows), nats, length, "segments-40")


def test_all_lengths_score_the_same_tokens():
    """A model that ignores context has one perplexity: nothing but context differs by length."""
    model = tiny_model(RoPE(8))
    with torch.no_grad():
        for block in model.blocks:
            block.attention.out.weight.zero_()
    tokens = tokens_of(65, 80)
    spans = Segments().spans(tokens, [64], None)
    values = [losses_of(model, Full(), tokens, spans, n) for n in (2, 5, 16, 64)]
    for other in values[1:]:
        np.testing.assert_allclose(other.nats, values[0].nats, atol=1e-6)
        np.testing.assert_array_equal(other.position, values[0].position)


def test_bytes_are_those_of_the_targets_not_of_the_inputs():
    tokens = tokens_of(4, 4)
    counts = np.array([100, 1, 2, 3, 100, 10, 20, 30], dtype=np.uint16)
    tokens = Tokens(tokens.names, tokens.ids, tokens.starts, counts)
    model = tiny_model(RoPE(8))
    for n, expected in ((3, [1, 2, 3, 10, 20, 30]), (2, [1, 2, 10, 20])):
        spans = Segments().spans(tokens, [n], None)
        found = losses_of(model, Full(), tokens, spans, n)
        assert found.n_bytes.tolist() == expected
        bits = found.nats.sum(dtype=np.float64) / math.log(2) / sum(expected)
        assert found.bits_per_byte == pytest.approx(bits)


def test_max_tokens_chooses_whole_documents():
    tokens = tokens_of(10, 20)
    assert Segments().spans(tokens, [9], 9) == ((0, 1, 9),)
    assert Segments().spans(tokens, [9], 17) == ((0, 1, 9),)
    assert Segments().spans(tokens, [9], 18) == ((0, 1, 9), (1, 1, 9))
    with pytest.raises(DataError, match=r"21 tokens that length 20 needs; .* d1 with 20"):
        Segments().spans(tokens, [20], None)


# --- whole evaluations


def test_results_csv_has_every_cell_failures_included(study, capsys):
    rows = study("attention=[full,blockwise,window]")
    assert tuple(rows[0]) == COLUMNS
    cells = by_cell(rows)
    assert len(rows) == len(cells) == 2 * 3 * 3
    beyond = cells["learned", "blockwise", 32]
    assert (beyond["status"], beyond["ppl"]) == ("not defined", "")
    ok = cells["rope", "full", 32]
    assert ok["status"] == "ok" and ok["protocol"] == "segments-32"
    assert float(ok["ppl"]) == pytest.approx(math.exp(float(ok["nll"])))
    assert float(ok["bpb"]) == pytest.approx(float(ok["nll"]) / math.log(2))  # bytes: one a token
    assert {r["tokens"] for r in rows} == {ok["tokens"]} and int(ok["tokens"]) == 32 * 3
    printed = capsys.readouterr().out
    assert "16 (trained)" in printed and "n/d (learned): Learned ends at 16 tokens" in printed
    markdown = (study.folder / "results.md").read_text()
    assert "| learned | full |" in markdown and "n/d" in markdown
    assert (study.folder / "results.png").read_bytes()[:4] == b"\x89PNG"


def test_within_the_trained_length_the_patterns_agree(study):
    cells = by_cell(study("attention=[full,blockwise,window]"))
    for model in ("rope", "learned"):
        for length in (8, 16):
            values = {cells[model, a, length]["nll"] for a in ("full", "blockwise", "window")}
            assert max(map(float, values)) - min(map(float, values)) < 1e-6


def test_the_same_command_again_computes_only_what_is_missing(study, monkeypatch):
    computed = []
    original = Scorer.score

    def counted(self, tokens, windows, *rest):
        computed.append(windows[0].size)
        return original(self, tokens, windows, *rest)

    monkeypatch.setattr(Scorer, "score", counted)
    first = study("attention=[full]")
    assert sorted(computed) == [8, 8, 16, 16, 32]  # learned at 32 is not defined
    assert study("attention=[full]") == first and len(computed) == 5
    study("attention=[full,blockwise]")
    assert len(computed) == 10
    # Another longest length scores other tokens: nothing of the old numbers is reused.
    rows = study("attention=[full]", "lengths=[8,16]")
    assert len(computed) == 14
    assert {r["protocol"] for r in rows} == {"segments-32", "segments-16"}


def test_extensions_are_cells_of_their_own_and_a_column_of_the_table(study, capsys):
    rows = study("attention=[full,blockwise]", "extension=[none,pi,vector_replacement]")
    cells = {(r["model"], r["attention"], r["extension"], int(r["length"])): r for r in rows}
    assert len(rows) == len(cells) == 2 * 2 * 3 * 3
    nll = {key: float(r["nll"]) for key, r in cells.items() if r["status"] == "ok"}
    # One factor for all lengths, 32 / 16: positions within training are squeezed as well.
    assert nll["rope", "full", "pi", 16] != nll["rope", "full", "none", 16]
    assert nll["learned", "full", "pi", 32] > 0  # the table reaches twice as far
    assert cells["learned", "full", "none", 32]["status"] == "not defined"
    missing = {r["status"] for k, r in cells.items() if k[2] == "vector_replacement"}
    assert missing == {"not defined"}
    printed = capsys.readouterr().out
    assert "extension" in printed and "pi" in printed
    assert "n/d (rope): vector_replacement is for models without encodings, not for RoPE" in printed
    markdown = (study.folder / "results.md").read_text()
    assert "| model | attention | extension |" in markdown
    # Against the extension applied by hand: same cells, the model's own at half the positions.
    assert nll["rope", "full", "pi", 8] == pytest.approx(by_hand(study, 8), abs=1e-6)


def by_hand(study, length: int) -> float:
    """Mean loss of the rope run with all positions halved."""
    (folder,) = study.folder.glob("rope*")
    run = Run(folder)
    model = make_model(read_train(run.settings), 256)
    checkpoint.load_model(checkpoint.latest(run.checkpoints), model)
    halved = RoPE(8)
    halved.frequencies = [theta / 2 for theta in halved.frequencies]
    model.positions[0] = halved
    paths = sorted(Path(run.settings["dataset"]["test"]).parent.glob("*.txt"))
    losses = []
    for path in paths:
        ids = torch.tensor(list(path.read_bytes()[:33]))[None]
        for first in range(0, 32, length):
            window = ids[:, first : first + length + 1]
            attend = make_attend(Full(), length, model.schemes, torch.device("cpu"))
            with torch.inference_mode():
                losses.append(model.losses(window[:, :-1], window[:, 1:], attend))
    return torch.cat(losses).double().mean().item()


def test_vector_replacement_measures_on_training_texts(study, tiny):
    train(tiny("model=nope", "size.n_layers=2"))
    rows = study("attention=[full]", "extension=[none,vector_replacement]", "model=nope")
    nll = {(r["extension"], int(r["length"])): float(r["nll"]) for r in rows if r["nll"]}
    for length in (8, 16):  # nothing to replace within the trained length
        assert nll["none", length] == nll["vector_replacement", length]
    assert nll["none", 32] != nll["vector_replacement", 32]
    blockwise = study("attention=[blockwise]", "extension=[vector_replacement]", "model=nope")
    own = [r for r in blockwise if r["attention"] == "blockwise"]
    assert {r["status"] for r in own} == {"not defined"}


def test_vector_replacement_measures_on_the_runs_own_texts(study, own_texts, texts):
    """Also where other texts are scored: their training split is not looked at."""
    train(compose_tiny(own_texts, study.folder.parent, "model=nope"))
    own = study("attention=[full]", "extension=[vector_replacement]", "model=nope")
    elsewhere = (
        "attention=[full]", "extension=[vector_replacement]", "model=nope", "dataset=text",
        f"dataset.test={texts}/test/*.txt",
    )  # fmt: skip
    other = study(*elsewhere)
    assert {r["nll"] for r in other if r["length"] == "32"} == {
        r["nll"] for r in own if r["length"] == "32"
    }
    (run,) = (Run(folder) for folder in study.folder.glob("nope*"))
    specs = [json.loads(path.read_text())["spec"] for path in run.folder.glob("eval/*.json")]
    assert {spec.get("sampled") for spec in specs} == {None, run.fingerprint}
    (own_texts / "train" / "0.txt").write_text("something else")
    with pytest.raises(DataError, match="dataset text is not what it was trained on any more"):
        study(*elsewhere, "lengths=[8,24]")


def test_of_two_requests_a_report_shows_both_and_each_once(study):
    for max_tokens in (32, 64, 32):
        rows = study("attention=[full]", "model=rope", "lengths=[8,32]", f"max_tokens={max_tokens}")
    results = read_newest(study.folder, EVALUATIONS)
    for shown in ([(r.tokens, r.length) for r in results],
                  [(int(row["tokens"]), int(row["length"])) for row in rows]):  # fmt: skip
        assert sorted(shown) == [(32, 8), (32, 32), (64, 8), (64, 32)]
    assert len({(row["targets"], row["tokens"]) for row in rows}) == 2


def test_workers_show_warnings_of_libraries_plainly(monkeypatch):
    class NoTasks:
        def get(self, timeout):
            raise queue.Empty

    monkeypatch.setattr(workers, "_end_with_parent", lambda: None)
    monkeypatch.setattr(workers.signal, "signal", lambda *arguments: None)
    monkeypatch.setattr(warnings, "formatwarning", lambda *arguments: "\x1b[31m")
    workers._work(0, 1, None, {}, NoTasks(), None)
    assert "\x1b" not in warnings.formatwarning("a\x1b[31m", UserWarning, "b.py", 1)


def test_a_model_trained_in_a_window_is_evaluated_in_it_as_trained(study, tiny):
    train(tiny("model=swat", "model.pattern.window=4"))
    rows = study(
        "model=swat",
        "attention=[full,window,trained]",
        "attention.window.window=4",
        "lengths=[32]",
    )
    nll = {r["attention"]: float(r["nll"]) for r in rows}
    assert nll["trained"] == nll["window-4"] != nll["full"]
    (folder,) = study.folder.glob("swat*")
    last = [x for x in read(folder / "metrics.jsonl") if x["event"] == "validation"][-1]
    assert set(last) >= {"nll@16", "nll@32"}


def test_per_token_losses_are_kept_and_give_the_cell(study):
    study("attention=[full]", "model=rope")
    (path,) = (study.folder).glob("rope*/eval/full-segments-32-16-*.npz")
    losses = read_losses(ArrayFile(path, sha256(path)))
    assert losses.names == ("0.txt", "1.txt", "2.txt") and losses.length == 16
    assert losses.position.tolist() == 3 * list(range(1, 33))
    rows = by_cell(study("attention=[full]", "model=rope"))
    assert losses.nll == pytest.approx(float(rows["rope", "full", 16]["nll"]), abs=1e-12)
    # As the documentation reads it, without lexp.
    with np.load(path) as cell:
        mean = cell["nats"][cell["context"] > 8].mean()
        assert str(cell["bos"]) == "none" and str(cell["protocol"]) == "segments-32"
    assert mean == pytest.approx(losses.only(losses.context > 8).nll, abs=1e-6)


def test_out_of_memory_is_a_cell_and_the_others_are_kept(study, monkeypatch):
    original = Scorer.score

    def failing(self, tokens, windows, *rest):
        if windows[0].size == 16 and isinstance(self.model.position, RoPE):
            raise torch.OutOfMemoryError("no room")
        return original(self, tokens, windows, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score", failing)
        with pytest.raises(Incomplete, match=r"1 of 6 cells ran out of memory"):
            study("attention=[full]")
        rows = study("attention=[full]", "allow_partial=true")
    cells = by_cell(rows)
    assert cells["rope", "full", 16]["status"] == "out of memory"
    assert [cells["rope", "full", n]["status"] for n in (8, 32)] == ["ok", "ok"]
    assert by_cell(study("attention=[full]"))["rope", "full", 16]["status"] == "ok"  # tried again


def test_a_loss_that_is_not_finite_is_a_cell_with_its_place(study, monkeypatch, capsys):
    original = Scorer.score

    def broken(self, tokens, windows, *rest):
        nats = original(self, tokens, windows, *rest)
        if windows[0].size == 32 and isinstance(self.model.position, RoPE):
            nats[32 + 20 : 64] = np.nan
        return nats

    monkeypatch.setattr(Scorer, "score", broken)
    cells = by_cell(study("attention=[full]", "model=rope"))
    assert cells["rope", "full", 32]["status"] == "not finite"
    assert cells["rope", "full", 32]["ppl"] == ""
    assert "first at context 21" in capsys.readouterr().out


def test_any_other_error_is_not_swallowed(study, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("a defect")

    monkeypatch.setattr(Scorer, "score", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        study()


def test_choices_that_do_not_exist_name_what_does(study):
    with pytest.raises(ConfigError, match="model=xpos: .* has runs of learned, rope"):
        study("model=xpos")
    with pytest.raises(ConfigError, match="no run in .*nothing; studies there: default"):
        study("name=nothing")
    with pytest.raises(DataError, match=r"lengths: test split of text: no document has the 100001"):
        study("lengths=[8,100000]")


def test_unfinished_runs_are_named_and_left_out(study, tiny, monkeypatch, capsys):
    config = tiny("model=alibi")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 6)
        train(config)
    rows = study("attention=[full]")
    assert {r["model"] for r in rows} == {"rope", "learned"}
    assert f"not finished, left out: {folder_of(config).name}" in capsys.readouterr().err


def test_changed_text_is_refused_and_another_text_can_be_named(study, tiny, own_texts):
    shutil.rmtree(study.folder)
    train(tiny(*dataset(own_texts)))
    (own_texts / "test" / "0.txt").write_text("another text altogether " * 40)
    with pytest.raises(DataError, match=r"is not what it was trained on .*dataset="):
        study("attention=[full]")
    rows = study("attention=[full]", "dataset=text", f"dataset.test={own_texts}/test/0.txt")
    assert {r["documents"] for r in rows} == {"1"}


def test_a_damaged_result_is_refused(study):
    (path,) = study.folder.glob("rope*/checkpoints/step-00000010/model.safetensors")
    flip_a_bit(path)
    for other in study.folder.glob("rope*/checkpoints/step-00000008/model.safetensors"):
        flip_a_bit(other)
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        study()


def test_seeds_are_averaged_with_their_spread_and_a_failure_is_not_averaged_away(study, tiny):
    train(tiny("seed=1"))
    rows = study("attention=[full]", "model=rope", "lengths=[16,32]")

    results = read_newest(study.folder, EVALUATIONS)
    assert [{k: str(v) for k, v in r.row().items() if k in COLUMNS} for r in results] == rows
    grid = make_grid(TOKEN_METRIC, results, {})
    (line,) = grid.rows
    values = sorted(r.ppl for r in results if r.length == 32)
    assert line.entries[32].value == pytest.approx(sum(values) / 2)
    assert line.entries[32].spread == pytest.approx((values[1] - values[0]) / 2)
    one_failed = [
        replace(r, status="not finite", ppl=math.nan, reason="why") if r.run.seed == 1 else r
        for r in results
    ]
    text = to_markdown(to_table(make_grid(TOKEN_METRIC, one_failed, {})))
    assert "not finite 1/2" in text
    assert "not finite (rope): why." in caption(one_failed)


def plain(pattern) -> Method:
    return Method(pattern, Extension(), 32)


IDENTITY = ["checkpoint", "text", "tokenizer", "precision", "model", "size", "code"]
RUN = RunInfo("r", "m", "s", "d", 0, 16, "bytes", "float32", "t", "v", "t")


@pytest.mark.parametrize("key", IDENTITY)
def test_a_result_depends_on_everything_that_makes_its_number(tmp_path, key):
    position = RoPE(8)
    tokens = tokens_of(33)
    base = ModelUnderTest(
        tmp_path, RUN, ModelIdentity(**dict.fromkeys(IDENTITY, "a")), tiny_model(position),
        tokens, nullcontext(), lambda n, length: None, Full(),
    )  # fmt: skip
    targets = EvalTargets(Segments(), (8, 16, 32), Segments().spans(tokens, [32], None))

    def path(method: Method, length: int = 16, tested=base, targets=targets) -> Path:
        return path_of(tested.folder, eval_spec(tested, targets, method, length))

    full = path(plain(Full()))
    other = replace(base, identity=replace(base.identity, **{key: "b"}))
    assert path(plain(Full()), tested=other) != full
    assert path(plain(Full()), 8) != full
    assert path(plain(Full()), targets=replace(targets, spans=(Span(0, 1, 31),))) != full
    assert path(plain(Full()), targets=replace(targets, protocol=Prefix())) != full
    # What tables show of a run changes no number.
    assert path(plain(Full()), tested=replace(base, run=replace(RUN, name="x"))) == full
    assert path(plain(Blockwise())) != path(plain(Blockwise(4)))
    # Half the trained length is what an open block means: the same cell by another name.
    same = {path(plain(p)).stem.rsplit("-", 1)[1] for p in (Blockwise(), Blockwise(8))}
    assert len(same) == 1
    other = Method(Full(), NTK(), 32)
    assert path(other) not in (full, path(replace(other, longest=64)))
    assert path(other) != path(replace(other, extension=NTK(2.0)))


def test_real_subjects_carry_that_identity(study, monkeypatch):
    seen = []
    original = workers.evaluate
    monkeypatch.setattr(
        workers, "evaluate", lambda s, *rest: (seen.append(s), original(s, *rest))[1]
    )
    study("attention=[full]")
    for tested in seen:
        identity = dict(vars(tested.identity))
        assert identity.pop("code") == {}  # classes of lexp alone
        assert {*identity, "code"} == set(IDENTITY) and all(identity.values())
    assert seen[0].identity.model["position"]["_target_"].startswith("lexp.position.")


@pytest.mark.parametrize(
    "edit",
    [
        lambda settings: settings["model"]["position"].update(base=3.0),
        lambda settings: settings["trunk"]["norm"].update(eps=1.0),
    ],
    ids=["model", "trunk"],
)
def test_settings_of_a_run_changed_by_hand_give_new_cells_not_old_ones(study, edit):
    before = study("attention=[full]", "model=rope")
    (path,) = study.folder.glob("rope*/config.json")
    stored = json.loads(path.read_text())
    edit(stored["settings"])
    path.write_text(json.dumps(stored))
    after = study("attention=[full]", "model=rope")
    assert len(after) == 2 * len(before)  # both kinds, told apart by their variant
    assert len({row["variant"] for row in after}) == 2
    assert len({row["nll"] for row in after}) > len({row["nll"] for row in before})


def test_runs_that_differ_in_more_than_the_seed_are_never_averaged(study, tiny, capsys):
    train(tiny("lr=2e-2"))
    train(tiny("tokenizer=bpe", "tokenizer.vocab_size=300"))
    study("attention=[full]", "model=rope", "lengths=[8,16]")
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if "│ rope" in line]
    assert len(rows) == 3 and "±" not in out
    assert any("lr=0.02" in row for row in rows) and any("tokenizer=bpe" in row for row in rows)
    # Numbers per token of two vocabularies do not compare: the table is in bits per byte.
    text = (study.folder / "results.md").read_text()
    assert "**Bits per byte, segments-16**" in text and "Perplexity per token" not in text
    assert "| **" in text


def test_one_damaged_run_does_not_hide_the_others(study, capsys):
    for path in study.folder.glob("learned*/checkpoints/*/model.safetensors"):
        flip_a_bit(path)
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        study("attention=[full]", "lengths=[8,16]")
    assert "│ rope" in capsys.readouterr().out
    (path,) = study.folder.glob("learned*/config.json")
    path.write_text("[]")
    with pytest.raises(CheckpointError, match="is not the config of a run"):
        study("attention=[full]", "lengths=[8,16]")
    study("attention=[full]", "lengths=[8,16]", "model=rope")  # nothing to do with it


EDITS = [
    ("train_len", -4),
    ("model", 3),
    ("size", {}),
    ("seed", "x"),
    ("dataset", None),
    ("lr", "a"),
]


@pytest.mark.parametrize(("key", "value"), EDITS)
def test_a_run_folder_of_somebody_else_is_checked_before_it_is_used(study, key, value):
    (path,) = study.folder.glob("rope*/config.json")
    stored = json.loads(path.read_text())
    stored["settings"][key] = value
    path.write_text(json.dumps(stored))
    with pytest.raises(LexpError) as error:
        study("attention=[full]")
    assert error.value.exit_code in (2, 4) and key in str(error.value)


def test_a_study_in_which_nothing_is_defined_still_prints_its_table(study, capsys):
    study("attention=[full]", "model=learned", "lengths=[32,33]")
    assert capsys.readouterr().out.count("n/d") == 2 + 1  # cells, and their reason
    assert (study.folder / "results.png").exists()
