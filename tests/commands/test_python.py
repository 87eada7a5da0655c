"""`import lexp`: the numbers of the evaluator, every stored result, figures, and a light import."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

import lexp
from lexp.evaluate import EVALUATIONS
from lexp.extension import PI
from lexp.pattern import Window
from lexp.result_store import NOT_DEFINED, read_all
from lexp.system.errors import CheckpointError, ConfigError, DataError, NotDefined, StorageError
from support import ROOT


def test_the_import_loads_neither_torch_nor_what_else_takes_time():
    code = (
        "import sys, lexp; assert lexp.__version__; print(*{m.partition('.')[0] for m in "
        "sys.modules} & {'torch', 'numpy', 'pandas', 'hydra', 'omegaconf', 'matplotlib'})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_tab_completion_offers_the_three_functions():
    assert {"load", "results", "figure"} <= set(dir(lexp))


def test_scores_are_those_of_the_evaluator(evaluated, texts):
    """Every cell of segments, document by document, from the text itself."""
    files = sorted((texts / "test").glob("*.txt"))
    n_compared = 0
    runs = {path.name: lexp.load(path, "cpu", "float32") for path in evaluated.glob("*-L16-*")}
    for result in read_all(evaluated, EVALUATIONS):
        if result.protocol.name != "segments":
            continue
        run, attention = runs[result.run.name], result.pattern.name
        beginnings = [path.read_bytes()[:33].decode() for path in files]
        if result.status == NOT_DEFINED:
            with pytest.raises(NotDefined, match="Learned ends at 16 tokens"):
                run.score(beginnings[0], attention, result.length)
            continue
        found = np.concatenate([run.score(t, attention, result.length) for t in beginnings])
        assert found.dtype == np.float32 and len(found) == result.tokens == 32 * len(files)
        np.testing.assert_allclose(found, result.losses().nats, atol=2e-6)
        n_compared += 1
    assert n_compared == 2 * 2 * 2 * 3 - 4  # learned has no 32


def test_a_text_is_one_window_unless_it_is_cut(evaluated):
    run = lexp.load(next(evaluated.glob("rope-*-s0-*")), "cpu", "float32")
    text = "a cat and a dog and é in one text of more than forty bytes"
    n = len(text.encode()) - 1
    whole = run.score(text)
    assert whole.shape == (n,) and run.score("a").shape == run.score("").shape == (0,)
    np.testing.assert_allclose(run.score(text, length=n), whole, atol=1e-6)
    pieces = [text.encode()[a : a + 17] for a in range(0, n, 16)]
    cut = run.score(text, length=16)
    assert abs(cut - whole)[:16].max() < 1e-6 < 1e-4 < abs(cut - whole)[16:].max()
    ends = [run.score(piece.decode()) for piece in pieces if piece.isascii()]
    np.testing.assert_allclose(cut[:16], ends[0], atol=1e-6)
    np.testing.assert_allclose(cut[-len(ends[-1]) :], ends[-1], atol=1e-6)
    np.testing.assert_array_equal(run.score(text, Window(window=16)), run.score(text, "window"))
    squeezed = run.score(text, extension=PI(factor=n / 16))
    np.testing.assert_array_equal(run.score(text, extension="pi"), squeezed)
    assert abs(squeezed - whole).max() > 1e-4


def test_a_run_has_its_settings_and_its_vocabulary(evaluated):
    run = lexp.load(str(next(evaluated.glob("learned-*"))), precision="bfloat16")
    assert (run.config.model.name, run.config.train_len, run.precision) == (
        "learned",
        16,
        "bfloat16",
    )
    assert run.tokenizer.vocab_size == 256 and run.model.schemes[0].max_len == 16
    assert not run.model.training and run.config.raw["lr"] == 1e-2
    assert 0 < run.score("a cat sat").mean() < 10


def test_results_are_the_rows_of_the_table(evaluated):
    frame = lexp.results(evaluated)
    with (evaluated / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(frame.columns) == list(rows[0]) and len(frame) == len(rows) == 48
    assert frame["run"].tolist() == [row["run"] for row in rows]
    assert [f"{nll:.6f}" for nll in frame["nll"].dropna()] == [
        f"{float(row['nll']):.6f}" for row in rows if row["nll"]
    ]
    assert set(frame["status"]) == {"ok", NOT_DEFINED} and frame["length"].dtype == "int64"
    for kind, column in {
        "probes": "probe", "tasks": "exact_match", "harness": "task", "finetune": "epoch"
    }.items():  # fmt: skip
        other = lexp.results(str(evaluated), kind=kind)
        assert other.empty and column in other.columns


def test_a_figure_has_a_line_for_each_model_and_method(evaluated):
    figure = lexp.figure(evaluated, protocol="segments-32")
    (axes,) = figure.axes
    assert axes.get_xlabel() == "context length (tokens)"
    rope = lexp.results(evaluated).query("model == 'rope' and protocol == 'segments-32'")
    means = rope.query("attention == 'full'").groupby("length")["ppl"].mean()
    drawn = [np.asarray(line.get_ydata()) for line in axes.lines]
    drawn = [y[np.isfinite(y)] for y in drawn]
    assert any(len(y) == 3 and np.allclose(y, means) for y in drawn)
    only = lexp.figure(evaluated, "segments-32", model=["rope"])
    assert 0 < len(only.axes[0].lines) < len(axes.lines)


def test_what_is_wrong_is_an_error_of_one_line(evaluated, tmp_path):
    path = next(evaluated.glob("rope-*-s0-*"))
    run = lexp.load(path)
    for call, said in {
        lambda: lexp.load(tmp_path): "not the folder of a finished run",
        lambda: lexp.load(path, precision="fp8"): "precision=fp8 (one of auto, float32, bfloat16)",
        lambda: lexp.load(path, device="tpu"): "device=tpu (one of auto, cpu, cuda, mps)",
        lambda: run.score("abc", "flash"): "attention=flash (one of bidirectional, ",
        lambda: run.score("abc", extension="no/pi"): "extension=no/pi (one of drope, ",
        lambda: run.score("abc", length=0): "length=0: a whole number from 1 on, or None for ",
        lambda: run.score("abc", length=1.5): "length=1.5: a whole number from 1 on, or None",
        lambda: run.score("abc", length="8"): "length=8: a whole number from 1 on, or None",
        lambda: lexp.load("a\0b"): r"run='a\x00b': expected the path of a folder",
        lambda: lexp.load(None): "run=None: expected the path of a folder",
        lambda: lexp.results(3): "study=3: expected the path of a folder",
        lambda: lexp.results(evaluated, kind=["eval"]): "kind=['eval'] (one of eval, tasks, ",
        lambda: lexp.figure(evaluated, model=3): "model=3: a name or a list of names",
        lambda: lexp.figure(evaluated, model=[]): "no results of these runs; run `lexp eval` ",
        lambda: lexp.results(tmp_path): "no run in ",
        lambda: lexp.results(path): f"{path.name} is a run; give its study, ",
        lambda: lexp.results(
            evaluated, kind="all"
        ): "kind=all (one of eval, tasks, probes, harness, finetune)",
        lambda: lexp.figure(evaluated): "has results of prefix-32, segments-32",
        lambda: lexp.figure(evaluated, model="xpos"): "has runs of learned, rope",
    }.items():
        with pytest.raises(ConfigError) as error:
            call()
        assert said in str(error.value) and "\n" not in str(error.value)
    for text, said in {b"abc": "of type bytes; give a str", "a\ud800": "no text in UTF-8"}.items():
        with pytest.raises(DataError, match=said):
            run.score(text)
    with pytest.raises(StorageError, match="File name too long"):
        lexp.load("x" * 300)
    with pytest.raises(AttributeError, match="module 'lexp' has no attribute 'nothing'"):
        _ = lexp.nothing
    config = json.loads((path / "config.json").read_text())
    config["data"]["tokenizer"] = "0" * 64
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="is not the one of training"):
        lexp.load(path)
