"""The section on learning rates: which runs form a sweep, and what stands in it."""

import copy
import json
import math
from pathlib import Path

import pytest

from lexp.commands.train import check
from lexp.report.learning_rates import learning_rates, rate_sweeps
from lexp.runs import status
from lexp.runs.run import Run, open_run, run_folder
from lexp.scoring.losses import perplexity
from lexp.system.errors import CheckpointError
from support.config import compose

DATA = {"fingerprint": "f" * 64, "tokenizer": "t" * 64, "commit": "", "vocab_size": 256}


@pytest.fixture(scope="module")
def settings() -> dict:
    return check(compose("train", "tokens=40960")).raw


def trained(study: Path, settings: dict, nll: float | str | None, **values) -> Run:
    """A run as training leaves it; without a loss one that diverged."""
    values = {"model": {**settings["model"], "name": values.pop("model", "rope")}, **values}
    own = {**copy.deepcopy(settings), **values}
    run = open_run(run_folder(study, own), own, DATA, "float32")
    if nll is None:
        status.write(run.folder, status.Status(status.DIVERGED, 3, 10))
    else:
        run.finish({"step": 10, "seconds": 1.0, "validation": {"nll@128": nll, "nll@256": 9.0}})
    return run


def test_rates_are_compared_where_nothing_else_differs(tmp_path, settings):
    runs = [
        trained(tmp_path, settings, 2.0, lr=1e-3, seed=0),
        trained(tmp_path, settings, 2.2, lr=1e-3, seed=1),
        trained(tmp_path, settings, 1.5, lr=1e-2, seed=0),
        trained(tmp_path, settings, 1.5, lr=1e-2, seed=1),
        trained(tmp_path, settings, 1.0, lr=3e-2, seed=0),  # may be the seed's luck
        trained(tmp_path, settings, None, lr=1e-1, seed=0),
        trained(tmp_path, settings, 3.0, lr=1e-3, model="alibi"),
        trained(tmp_path, settings, 2.5, lr=3e-3, model="alibi"),
        trained(tmp_path, settings, "inf", lr=1.0, model="alibi"),
        trained(tmp_path, settings, 1.0, lr=5e-3, model="xpos"),  # one rate is no sweep
        trained(tmp_path, settings, 1.0, lr=7e-3, tokens=81920.0),  # another budget
    ]
    rope, alibi = rate_sweeps(runs)
    assert (rope.name, alibi.name) == ("rope tokens=40960", "alibi")
    assert set(rope.perplexities) == {1e-3, 1e-2, 3e-2, 1e-1}
    assert rope.perplexities[1e-3] == {0: perplexity(2.0), 1: perplexity(2.2)}
    assert rope.mean(1e-3) == (perplexity(2.0) + perplexity(2.2)) / 2
    assert rope.best == 1e-2 and alibi.best == 3e-3
    assert math.isnan(rope.mean(1e-1)) and math.isnan(alibi.mean(1.0))

    (section,) = learning_rates(runs)
    chart, table = section.items
    assert chart.log_x and [curve.name for curve in chart.curves] == [rope.name, alibi.name]
    points = {p.x: (p.y, p.low, p.high, p.note) for p in chart.curves[0].points}
    assert points[1e-3] == (rope.mean(1e-3), perplexity(2.0), perplexity(2.2), "")
    assert points[1e-2][0] == perplexity(1.5) and points[1e-1][3] == "diverged"
    assert table.heads == ("model", "0.001", "0.003", "0.01", "0.03", "0.1", "1")
    cells = [[(cell.text, cell.style) for cell in row] for row in table.rows]
    assert cells[0][1:] == [
        ("8.21", ""), ("", ""), ("4.48", "best"), ("2.72 (1 of 2 seeds)", ""),
        ("diverged", "failed"), ("", ""),
    ]  # fmt: skip
    assert cells[1][1:] == [
        ("20.09", ""), ("12.18", "best"), ("", ""), ("", ""), ("", ""), ("diverged", "failed"),
    ]  # fmt: skip


def test_validations_on_other_tokens_are_sweeps_of_their_own(tmp_path, settings):
    """eval_tokens is no part of a run's name, but its validations are on as many tokens."""
    runs = [
        trained(tmp_path, settings, nll, lr=lr, eval_tokens=n)
        for n, values in ((8192, ((1e-3, 2.0), (1e-2, 1.5))), (4096, ((1e-1, 1.0), (1.0, 1.25))))
        for lr, nll in values
    ]
    sweeps = {sweep.name: sweep.best for sweep in rate_sweeps(runs)}
    assert sweeps == {"rope eval_tokens=8192": 1e-2, "rope eval_tokens=4096": 1e-1}
    assert rate_sweeps(runs[:1] + runs[2:3]) == []


def test_without_two_rates_there_is_no_section(tmp_path, settings):
    runs = [trained(tmp_path, settings, 2.0, lr=1e-3, seed=seed) for seed in range(3)]
    assert learning_rates(runs) == []


def test_a_damaged_mark_of_the_end_is_an_error(tmp_path, settings):
    runs = [trained(tmp_path, settings, 2.0, lr=rate) for rate in (1e-3, 1e-2)]
    for text in ('{"validation": 3}', "[]", "{", json.dumps({"validation": {"nll@128": [1]}})):
        (runs[0].folder / "done.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"done\.json is not what training writes"):
            learning_rates(runs)
