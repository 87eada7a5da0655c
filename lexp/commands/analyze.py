"""`lexp analyze`."""

import csv
import io
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from lexp.commands.load_runs import (
    RunWithData,
    fresh,
    load_subject,
    make_methods,
    open_texts,
    say_what_failed,
)
from lexp.commands.make_objects import make_corpus
from lexp.commands.select_checkpoints import chosen_checkpoints
from lexp.config.instantiate import build
from lexp.config.schema import plain
from lexp.config.validation import STATES, check_analyze
from lexp.display.document import Chart, Picture
from lexp.display.png import chart_png
from lexp.display.style import CurveStyles
from lexp.display.table import Table, to_csv, to_rich
from lexp.display.terminal import table_console
from lexp.evaluate import NOT_DEFINED, OK, ModelUnderTest
from lexp.instruments.base import CheckpointInfo, Instrument
from lexp.instruments.measure import AnalysisResult, look, noted, read_looks
from lexp.instruments.over_training import shown
from lexp.record import Console
from lexp.runs.checkpoint import Checkpoint
from lexp.runs.locks import one_at_a_time
from lexp.runs.run import run_notes
from lexp.scoring.protocol import long_enough
from lexp.system import runtime
from lexp.system.errors import LexpError
from lexp.system.files import make_folder, write_bytes, write_text


def check(config: DictConfig) -> dict[str, Any]:
    """The settings as plain values; ConfigError before any work if one of them is not allowed."""
    settings = plain(config)
    check_analyze(settings)
    make_methods(settings)
    make_instruments(settings)
    if settings["dataset"] is not None:
        make_corpus(settings["dataset"])
    # Runs are opened as for evaluation, which also finds documents that are long enough.
    whole = {"_target_": "lexp.scoring.protocol.Segments"}
    return {**settings, "protocol": {"analysis": whole}, "max_tokens": None}


def make_instruments(settings: dict[str, Any]) -> list[Instrument]:
    """The instruments asked for."""
    return [
        build(n, Instrument, f"instruments.{key}") for key, n in settings["instruments"].items()
    ]


def analyze(config: DictConfig) -> None:
    """Look at every finished run of a study with every instrument; show and keep what they find."""
    settings = check(config)
    instruments = make_instruments(settings)
    study = Path(settings["outputs"]) / settings["name"]
    runtime.prepare_process()
    texts, problems = open_texts(study, settings)
    looks = _look_at_all(texts, instruments, settings, problems)
    if looks:
        _publish(study, instruments, noted(looks, run_notes([text.run for text in texts])))
    say_what_failed(problems, [one.status for one in looks], settings)


def _look_at_all(
    texts: list[RunWithData],
    instruments: list[Instrument],
    settings: dict[str, Any],
    problems: list[LexpError],
) -> list[AnalysisResult]:
    """All findings, one model in memory at a time."""
    methods, lengths = make_methods(settings), sorted(settings["lengths"])
    chosen: list[tuple[RunWithData, Sequence[Checkpoint | None]]] = []
    for text in texts:
        try:
            chosen.append((text, chosen_checkpoints(text.run, settings)))
        except LexpError as error:
            problems.append(error)
    trained, random = (state in settings["states"] for state in STATES)
    n_moments = sum(len(found) * trained + random for _, found in chosen)
    each = len(methods) * len(instruments) * settings["texts"]
    looks: list[AnalysisResult] = []
    with Console("analyzing", each * sum(lengths) * n_moments) as console:
        for text, found in chosen:
            try:
                for moment, subject in _moments(text, found, settings):
                    for length in lengths:
                        ids = first_tokens(subject, length, settings["texts"])
                        for method, instrument in itertools.product(methods, instruments):
                            words = text.run.name, moment.state, instrument.label, method.label
                            console.advance(0, f"{' '.join(words)} {length}")
                            looks.append(look(subject, instrument, method, ids, moment))
                            console.advance(settings["texts"] * length)
            except LexpError as error:
                problems.append(error)
    return looks


def _moments(
    text: RunWithData, checkpoints: Sequence[Checkpoint | None], settings: dict[str, Any]
) -> Iterator[tuple[CheckpointInfo, ModelUnderTest]]:
    """The model at each of the checkpoints, and the same freshly initialised."""
    nll = f"nll@{text.run.settings['train_len']}"
    for found in checkpoints if "trained" in settings["states"] else ():
        step, loss = -1, math.nan
        if found is not None:
            step, loss = found.step, float(found.state["validation"].get(nll, math.nan))
        yield CheckpointInfo("trained", step, loss), load_subject(text, settings, found)
    if "random" in settings["states"]:
        subject = load_subject(text, settings, checkpoints[-1])
        device = next(subject.model.parameters()).device
        yield CheckpointInfo("random", 0, math.nan), replace(subject, model=fresh(text).to(device))


def first_tokens(subject: ModelUnderTest, length: int, n_texts: int) -> Tensor:
    """The first tokens of the first documents that are long enough, int64 [n, length]."""
    documents = long_enough(subject.tokens, length)[:n_texts]
    rows = [torch.from_numpy(subject.tokens.window(d, 0, length)) for d in documents]
    return torch.stack(rows)


def _publish(study: Path, instruments: list[Instrument], looks: list[AnalysisResult]) -> None:
    """Print the tables; write CSV of all numbers and the pictures."""
    folder = make_folder(study / "analysis")
    rich = table_console()
    of_each = [[one for one in looks if one.instrument == i.label] for i in instruments]
    items = [
        shown(instrument, [one.labelled for one in own if one.status == OK])
        for instrument, own in zip(instruments, of_each, strict=True)
    ]
    style = CurveStyles.of([item for found in items for item in found if isinstance(item, Chart)])
    for instrument, own, found in zip(instruments, of_each, items, strict=True):
        with one_at_a_time(study):  # another job's newest numbers must not be lost
            write_text(folder / f"{instrument.label}.csv", rows_csv(read_looks(study), instrument))
        for number, item in enumerate(found, 1):
            stem = folder / f"{instrument.label}-{number}"
            if isinstance(item, Table):
                rich.print(to_rich(item))
                rich.print("\n".join(item.notes), markup=False)
                write_text(stem.with_suffix(".csv"), to_csv(item))
            else:
                write_bytes(stem.with_suffix(".png"), png_of(item, style))
        for reason in sorted({f"{o.labelled.model}: {o.reason}" for o in own if o.status != OK}):
            word = "not defined" if any(o.status == NOT_DEFINED for o in own) else "failed"
            rich.print(f"{instrument.label} {word} for {reason}", markup=False)
    print(f"{folder}: a CSV and pictures for each instrument", file=sys.stderr)


def png_of(item: Chart | Picture, looks: CurveStyles | None = None) -> bytes:
    """A chart or picture as a PNG file. looks: of all charts beside it."""
    return chart_png(item, looks) if isinstance(item, Chart) else item.png


def rows_csv(looks: Iterator[AnalysisResult], instrument: Instrument) -> str:
    """Every number of every finding of an instrument, with all that names it; failures too."""
    own = [one for one in looks if one.instrument == instrument.label]
    keys = list(
        dict.fromkeys(key for one in own for row in one.labelled.measurement.rows for key in row)
    )
    fixed = ("run", "model", "method", "state", "seed", "length", "train_len", "step", "loss",
             "status")  # fmt: skip
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*fixed, *keys])
    for one in own:
        named = one.labelled
        start = [one.run, named.model, named.method, named.state, named.seed, named.length,
                 named.train_len, named.checkpoint.step, named.checkpoint.loss,
                 one.status]  # fmt: skip
        for row in named.measurement.rows or ({},):
            writer.writerow([*start, *(row.get(key, "") for key in keys)])
    return buffer.getvalue()
