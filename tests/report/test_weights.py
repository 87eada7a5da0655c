"""A run that was trained again with other bits: results of its weights before are left out."""

import csv
import io
import json
import math
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lexp.commands.finetune import write_table
from lexp.commands.report import report
from lexp.evaluate import LAST
from lexp.extension import Extension
from lexp.instruments.heads import Heads
from lexp.instruments.measure import ANALYSES, AnalysisResult
from lexp.pattern import Full
from lexp.probes import Copy
from lexp.probes.result import PROBES, ProbeMeasures, ProbeResult
from lexp.report.results import write_probes
from lexp.report.weights import of_present_weights
from lexp.result_store import Spec, component_of, read_newest, write
from lexp.runs.run import Run
from lexp.system.files import sha256
from lexp.training.finetune_result import FINETUNINGS, FinetuneResult
from support.config import compose
from support.studies import run_info


def trained_again(run: Run) -> None:
    """Give the last checkpoint another bit, as another machine does."""
    last = max(run.checkpoints.glob("step-*"))
    tensors = load_file(last / "model.safetensors")
    name = min(tensors)
    tensors[name] = torch.nextafter(tensors[name], torch.tensor(math.inf))
    save_file(tensors, last / "model.safetensors")
    manifest = json.loads((last / "manifest.json").read_text())
    manifest["files"]["model.safetensors"]["sha256"] = sha256(last / "model.safetensors")
    (last / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def shown(study: Path) -> set[str]:
    """The lengths that the report has a number for."""
    (path,) = (study / "report").glob("perplexity-per-token-*.csv")
    (row,) = csv.DictReader(io.StringIO(path.read_text()))
    return {head for head, value in row.items() if head[0].isdigit() and value}


def test_results_of_other_weights_are_in_no_table_and_it_is_said(study):
    study("attention=[full]", "model=rope")
    (run,) = (Run(folder) for folder in study.folder.glob("rope-*"))
    before = shutil.copytree(run.checkpoints, study.folder.parent / "before")
    trained_again(run)
    with pytest.warns(UserWarning, match=f"{run.name} was trained again since: 3 results of its"):
        rows = study("attention=[full]", "model=rope", "lengths=[16,32]")
    assert [row["length"] for row in rows] == ["16", "32"]

    # The weights before, put back: they have results of all lengths, and no newer ones hide them.
    shutil.rmtree(run.checkpoints)
    before.rename(run.checkpoints)
    with pytest.warns(UserWarning, match="trained again since: 2 results"):
        report(compose("report", f"outputs={study.folder.parent}"))
    assert shown(study.folder) == {"8", "16 (trained)", "32"}

    # Without any checkpoint nothing contradicts a result.
    shutil.rmtree(run.checkpoints)
    assert run.weights(None) == "" and len(read_newest(study.folder, PROBES)) == 0


def test_probes_instruments_and_fine_tunings_too(study):
    (run,) = (Run(folder) for folder in study.folder.glob("rope-*"))
    info = run_info(run.name, run.settings)
    parts = {"pattern": component_of(Full()), "extension": component_of(Extension())}
    for checkpoint in (run.weights(None), "0" * 64):
        spec = {"model_under_test": {"checkpoint": checkpoint}}
        probed = ProbeResult(
            run=info, **parts, probe=component_of(Copy()), length=64, samples=2, probe_seed=0,
            chance=math.nan, measures=ProbeMeasures(*[0.0] * 11), seconds=1.0,
        )  # fmt: skip
        write(run.folder, Spec(PROBES, "copy", spec), probed)
        for step in (LAST, 10, 8, 0):
            measured = AnalysisResult(
                instrument=component_of(Heads()), run=info, **parts, state="trained",
                step=step, loss=1.0, length=64, n_texts=8, seconds=1.0, rows=(),
            )  # fmt: skip
            write(run.folder, Spec(ANALYSES, f"{step}", spec), measured)
        tuned = FinetuneResult(
            run=run.name, model="m", size="s", objective="mlm", train_seed=0, task="t", seed=0,
            chance=0.5, n_train=1, n_held_out=1, n_cut=0, lr=1.0, epochs=1, batch_size=1, max_len=8,
            history=({"loss": 1.0},), versions={},
        )  # fmt: skip
        write(run.folder, Spec(FINETUNINGS, "t", {"checkpoint": checkpoint}), tuned)
    with pytest.warns(UserWarning, match="1 result of its weights before left out"):
        write_probes(study.folder)
        table = write_table(study.folder)
    for path in (study.folder / "probes.csv", table):
        assert len(path.read_text().splitlines()) == 2, path
    with warnings.catch_warnings(record=True):
        analyses = read_newest(study.folder, ANALYSES)
        kept = of_present_weights(study.folder, analyses, lambda r: (r.run.name, r.step))
    steps = [result.step for result in kept if result.weights == "0" * 64]
    # Step 0 has no checkpoint, and 8 is one of another digest than both.
    assert steps == [0] and sorted(r.step for r in kept) == [LAST, 0, 0, 10]
