"""Findings of instruments: looked for once, kept in the run's folder, read back for the report."""

import io
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from lexp.evaluate import (
    NOT_DEFINED,
    OK,
    OUT_OF_MEMORY,
    Method,
    ModelUnderTest,
    prepare,
)
from lexp.instruments.base import (
    AnalysisInput,
    CheckpointInfo,
    Instrument,
    LabelledMeasurement,
    Measurement,
)
from lexp.system.errors import NotDefined, first_line
from lexp.system.files import digest, make_folder, read_sealed, write_bytes, write_sealed
from lexp.system.runtime import is_out_of_memory
from lexp.system.text import natural
from lexp.training.objective import refuse_both_sides

# Raised whenever a change of the code changes findings: those of another version are not reused.
VERSION = 1


@dataclass(frozen=True)
class AnalysisResult:
    """One finding and all that names it; status and reason where there is none."""

    instrument: str
    run: str
    labelled: LabelledMeasurement
    status: str
    reason: str
    seconds: float


def look(
    subject: ModelUnderTest,
    instrument: Instrument,
    method: Method,
    texts: Tensor,
    moment: CheckpointInfo,
) -> AnalysisResult:
    """A finding, from its file if it is known."""
    length = int(texts.shape[1])
    path = look_path(subject, instrument, method, texts, moment)
    known = read_look(path)
    if known is not None and known.status != OUT_OF_MEMORY:
        return known
    started = time.perf_counter()
    finding, status, reason = _look(subject, instrument, method, texts, moment)
    labels = subject.labels
    labelled = LabelledMeasurement(
        labels["model"], method.label, moment, labels["seed"], length, labels["train_len"], finding
    )
    seconds = round(time.perf_counter() - started, 3)
    found = AnalysisResult(instrument.label, labels["run"], labelled, status, reason, seconds)
    write_look(path, found)
    return found


def _look(
    subject: ModelUnderTest,
    instrument: Instrument,
    method: Method,
    texts: Tensor,
    moment: CheckpointInfo,
) -> tuple[Measurement, str, str]:
    try:
        model, pattern = prepare(subject, method, int(texts.shape[1]))
        refuse_both_sides(pattern, "instruments look at causal models")
        device = next(model.parameters()).device
        view = AnalysisInput(
            model, pattern, texts.to(device), subject.labels["train_len"], moment.state
        )
        return instrument.measure(view), OK, ""
    except NotDefined as error:
        return Measurement(()), NOT_DEFINED, str(error)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = first_line(error)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Measurement(()), OUT_OF_MEMORY, message


def look_path(
    subject: ModelUnderTest,
    instrument: Instrument,
    method: Method,
    texts: Tensor,
    moment: CheckpointInfo,
) -> Path:
    """Where a finding is kept: a readable name, and a hash of all it depends on."""
    length = int(texts.shape[1])
    identity: dict[str, Any] = {
        **subject.identity, "version": VERSION, "instrument": repr(instrument), "length": length,
        "pattern": repr(subject.fit(method.pattern, length)), "extension": repr(method.extension),
        "longest": method.longest, "texts": digest(texts.tolist()),
        "state": moment.state, "step": moment.step,
    }  # fmt: skip
    stem = f"{instrument.label}-{method.label}-{moment.state}-{length}-{digest(identity)[:8]}"
    return subject.folder / "analysis" / f"{stem.replace(' ', '-')}.json"


def write_look(path: Path, found: AnalysisResult) -> None:
    """Rows as JSON, arrays beside them as .npz."""
    make_folder(path.parent)
    one = found.labelled
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **one.measurement.arrays)  # type: ignore[arg-type]
    write_bytes(path.with_suffix(".npz"), buffer.getvalue())
    rows = [{key: _plain(value) for key, value in row.items()} for row in one.measurement.rows]
    write_sealed(
        path,
        {
            "instrument": found.instrument, "run": found.run, "model": one.model,
            "method": one.method, "state": one.state, "step": one.checkpoint.step,
            "loss": _plain(one.checkpoint.loss), "seed": one.seed, "length": one.length,
            "train_len": one.train_len, "status": found.status, "reason": found.reason,
            "seconds": found.seconds, "rows": rows,
        },
    )  # fmt: skip


def read_look(path: Path) -> AnalysisResult | None:
    """A finding from where it is kept; None if there is none or it is damaged."""
    try:
        stored = read_sealed(path)
        with np.load(path.with_suffix(".npz")) as arrays:
            kept = {key: arrays[key] for key in arrays.files}
        rows = tuple({k: _read(v) for k, v in row.items()} for row in stored["rows"])
        moment = CheckpointInfo(stored["state"], stored["step"], float(_read(stored["loss"])))
        labelled = LabelledMeasurement(
            stored["model"], stored["method"], moment, stored["seed"], stored["length"],
            stored["train_len"], Measurement(rows, kept),
        )  # fmt: skip
        return AnalysisResult(
            stored["instrument"], stored["run"], labelled, stored["status"], stored["reason"],
            stored["seconds"],
        )  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError, AttributeError, BadZipFile):
        return None


def noted(looks: Iterable[AnalysisResult], notes: Mapping[str, str]) -> list[AnalysisResult]:
    """Findings with what tells their variants apart, variants in order, trained before random.

    notes: by run, see `lexp.runs.run.run_notes`.
    """
    found = [
        replace(one, labelled=replace(one.labelled, note=notes.get(one.run, ""))) for one in looks
    ]
    return sorted(found, key=_place)


def _place(one: AnalysisResult) -> tuple[str, list[str | float], bool]:
    return one.labelled.model, natural(one.labelled.note), one.labelled.state != "trained"


def read_looks(study: Path) -> Iterator[AnalysisResult]:
    """Every finding of a study, the newest of each kind."""
    newest: dict[tuple, tuple[float, AnalysisResult]] = {}
    for path in sorted(study.glob("*/analysis/*.json")):
        found = read_look(path)
        if found is None:
            continue
        one = found.labelled
        when = one.checkpoint.state, one.checkpoint.step
        key = (found.instrument, found.run, one.method, one.length, *when)
        written = path.stat().st_mtime
        if key not in newest or newest[key][0] < written:
            newest[key] = written, found
    for key in sorted(newest, key=str):
        yield newest[key][1]


def _plain(value: str | int | float) -> str | int | float:
    """As text where JSON has no number for it."""
    return value if isinstance(value, str) or math.isfinite(value) else f"float:{value}"


def _read(value: Any) -> str | int | float:
    if isinstance(value, str) and value.startswith("float:"):
        return float(value.removeprefix("float:"))
    if isinstance(value, str | int | float):
        return value
    raise ValueError(f"{value!r} is no value of a row")
