"""`lexp analyze`."""

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
from lexp.evaluate import ModelUnderTest
from lexp.instruments.base import CheckpointInfo, Instrument
from lexp.instruments.measure import (
    ANALYSES,
    AnalysisResult,
    by_variant,
    labelled,
    measure,
    write_measurements,
)
from lexp.instruments.over_training import shown
from lexp.record import Console
from lexp.results import NOT_DEFINED, read_newest
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
    results = _analyze_all(texts, instruments, settings, problems)
    if results:
        _publish(study, instruments, results, run_notes([text.run for text in texts]))
    say_what_failed(problems, [result.status for result in results], settings)


def _analyze_all(
    texts: list[RunWithData],
    instruments: list[Instrument],
    settings: dict[str, Any],
    problems: list[LexpError],
) -> list[AnalysisResult]:
    """Measure everything, one model in memory at a time."""
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
    results: list[AnalysisResult] = []
    with Console("analyzing", each * sum(lengths) * n_moments) as console:
        for text, found in chosen:
            try:
                for info, tested in _checkpoints(text, found, settings):
                    for length in lengths:
                        ids = first_tokens(tested, length, settings["texts"])
                        for method, instrument in itertools.product(methods, instruments):
                            words = text.run.name, info.state, instrument.label, method.label
                            console.advance(0, f"{' '.join(words)} {length}")
                            results.append(measure(tested, instrument, method, ids, info))
                            console.advance(settings["texts"] * length)
            except LexpError as error:
                problems.append(error)
    return results


def _checkpoints(
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
        tested = load_subject(text, settings, checkpoints[-1])
        device = next(tested.model.parameters()).device
        yield CheckpointInfo("random", 0, math.nan), replace(tested, model=fresh(text).to(device))


def first_tokens(tested: ModelUnderTest, length: int, n_texts: int) -> Tensor:
    """The first tokens of the first documents that are long enough, int64 [n, length]."""
    documents = long_enough(tested.tokens, length)[:n_texts]
    rows = [torch.from_numpy(tested.tokens.window(d, 0, length)) for d in documents]
    return torch.stack(rows)


def _publish(
    study: Path, instruments: list[Instrument], results: list[AnalysisResult], notes: dict[str, str]
) -> None:
    """Print the tables; write CSV of all numbers and the pictures. notes: by run."""
    folder = make_folder(study / "analysis")
    rich = table_console()
    results = by_variant(results, notes)
    of_each = [[r for r in results if r.instrument.label == i.label] for i in instruments]
    items = [
        shown(instrument, labelled([r for r in same if r.ok], notes))
        for instrument, same in zip(instruments, of_each, strict=True)
    ]
    style = CurveStyles.of([item for each in items for item in each if isinstance(item, Chart)])
    for instrument, same, shown_items in zip(instruments, of_each, items, strict=True):
        with one_at_a_time(study):  # another job's newest numbers must not be lost
            newest = read_newest(study, ANALYSES)
            newest = [r for r in newest if r.instrument.label == instrument.label]
            write_measurements(folder / f"{instrument.label}.csv", newest)
        for number, item in enumerate(shown_items, 1):
            stem = folder / f"{instrument.label}-{number}"
            if isinstance(item, Table):
                rich.print(to_rich(item))
                rich.print("\n".join(item.notes), markup=False)
                write_text(stem.with_suffix(".csv"), to_csv(item))
            else:
                write_bytes(stem.with_suffix(".png"), png_of(item, style))
        for reason in sorted({f"{r.run.model}: {r.reason}" for r in same if not r.ok}):
            word = "not defined" if any(r.status == NOT_DEFINED for r in same) else "failed"
            rich.print(f"{instrument.label} {word} for {reason}", markup=False)
    print(f"{folder}: a CSV and pictures for each instrument", file=sys.stderr)


def png_of(item: Chart | Picture, looks: CurveStyles | None = None) -> bytes:
    """A chart or picture as a PNG file. looks: of all charts beside it."""
    return chart_png(item, looks) if isinstance(item, Chart) else item.png
