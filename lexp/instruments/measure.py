"""Measurements of instruments: made once, stored in the run's folder, read back for the report."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from lexp.evaluate import Method, ModelUnderTest, RunInfo, model_spec, prepare, text_names
from lexp.extension import method_label
from lexp.instruments.base import (
    AnalysisInput,
    CheckpointInfo,
    Instrument,
    LabelledMeasurement,
    Measurement,
    Row,
)
from lexp.result_store import (
    Component,
    Result,
    ResultKind,
    Spec,
    attempt,
    component_of,
    component_spec,
    recall,
    write,
    write_csv,
)
from lexp.system.errors import ConfigError, NotDefined
from lexp.system.files import digest
from lexp.system.text import counted, natural
from lexp.training.objective import refuse_both_sides

# Columns of every instrument's CSV, before and after those of its rows.
BEFORE = (
    "run", "model", "method", "state", "seed", "length", "train_len", "step", "loss", "status",
)  # fmt: skip
AFTER = ("text", "precision", "variant", "texts")
COLUMNS = BEFORE + AFTER


@dataclass(frozen=True)
class AnalysisResult(Result):
    """The measurement of a model under a method at a length.

    instrument, pattern, extension: as they were asked for. state, step, loss: see
    CheckpointInfo. rows, arrays: see Measurement.
    """

    instrument: Component
    run: RunInfo
    pattern: Component
    extension: Component
    state: str
    step: int
    loss: float
    length: int
    n_texts: int
    seconds: float
    rows: tuple[Row, ...]

    @property
    def method(self) -> str:
        """Return the name of the method in tables."""
        return method_label(self.pattern.label, self.extension.label)

    def check_arrays(self) -> None:
        """Raise DataError if the arrays cannot be read."""
        if self.arrays is not None:
            self.arrays.load()

    def labelled(self, note: str = "", where: str = "") -> LabelledMeasurement:
        """Read the arrays and return the measurement with what names it.

        note: what tells the run's variant apart. where: what tells its texts and precision from
        others. DataError if the arrays are missing or damaged.
        """
        arrays = {} if self.arrays is None else self.arrays.load()
        method = f"{self.method} {where}".rstrip()
        return LabelledMeasurement(
            self.run.model, method, CheckpointInfo(self.state, self.step, self.loss), self.run.seed,
            self.length, self.run.train_len, Measurement(self.rows, arrays), note,
        )  # fmt: skip


ANALYSES = ResultKind(
    name="analysis",
    folder="analysis",
    numerics=1,
    key=(
        "instrument.label",
        "run.name",
        "method",
        "length",
        "n_texts",
        "state",
        "step",
        "run.text",
        "run.precision",
        "pattern.code",
        "extension.code",
        "instrument.code",
        "weights",
    ),
    result=AnalysisResult,
)


def measure(
    tested: ModelUnderTest,
    instrument: Instrument,
    method: Method,
    texts: Tensor,
    checkpoint: CheckpointInfo,
) -> AnalysisResult:
    """Return what an instrument measures, computing it only if it is not stored.

    texts: token ids, int64 [n, length].
    """
    spec = analysis_spec(tested, instrument, method, texts, checkpoint)
    stored = recall(tested.folder, spec)
    if stored is not None:
        # Names of the run may have changed since; no number depends on them.
        return replace(stored, run=tested.run)
    started = time.perf_counter()

    def measurement() -> Measurement:
        """Prepare the model and measure it; NotDefined says why the instrument cannot."""
        model, pattern = prepare(tested, method, int(texts.shape[1]))
        refuse_both_sides(pattern, "instruments look at causal models")
        if model.position.applied_inside:
            raise NotDefined(
                "instruments look into layers, those of this model are run by transformers (the "
                "general path of model=hf)"
            )
        device = next(model.parameters()).device
        inputs = AnalysisInput(
            model, pattern, texts.to(device), tested.run.train_len, checkpoint.state,
            tokenizer=tested.tokenizer,
        )  # fmt: skip
        return instrument.measure(inputs)

    outcome = attempt(measurement)
    value = outcome.value or Measurement(())
    if taken := sorted({name for row in value.rows for name in row} & set(COLUMNS)):
        raise ConfigError(
            f"instrument {instrument.name}: its rows have a value {taken[0]!r}, which is a column "
            "of every instrument's CSV; give it another name"
        )
    result = AnalysisResult(
        instrument=component_of(instrument),
        run=tested.run,
        pattern=component_of(method.pattern),
        extension=component_of(method.extension),
        state=checkpoint.state,
        step=checkpoint.step,
        loss=checkpoint.loss,
        length=int(texts.shape[1]),
        n_texts=len(texts),
        seconds=round(time.perf_counter() - started, 3),
        rows=value.rows,
        status=outcome.status,
        reason=outcome.reason,
    )
    return write(tested.folder, spec, result, value.arrays or None)


def analysis_spec(
    tested: ModelUnderTest,
    instrument: Instrument,
    method: Method,
    texts: Tensor,
    checkpoint: CheckpointInfo,
) -> Spec[AnalysisResult]:
    """Return what a measurement depends on."""
    length = int(texts.shape[1])
    fields = {
        **model_spec(tested, method, length),
        "instrument": component_spec(instrument),
        "texts": digest(texts.tolist()),
        "state": checkpoint.state,
        "step": checkpoint.step,
    }
    label = f"{instrument.label}-{method.label}-{checkpoint.state}-{length}"
    return Spec(ANALYSES, label, fields)


def by_variant(results: Iterable[AnalysisResult], notes: Mapping[str, str]) -> list[AnalysisResult]:
    """Sort results by variants, trained models before random ones.

    notes: by run, see `lexp.runs.run.run_notes`.
    """

    def place(result: AnalysisResult) -> tuple[str, list[str | float], bool]:
        note = notes.get(result.run.name, "")
        return result.run.model, natural(note), result.state != "trained"

    return sorted(results, key=place)


def labelled(
    results: Iterable[AnalysisResult], notes: Mapping[str, str]
) -> list[LabelledMeasurement]:
    """Read the measurements of results, each with the note of its run."""
    results = list(results)
    texts = text_names(result.run for result in results)
    several_precisions = len({result.run.precision for result in results}) > 1
    several_counts = len({result.n_texts for result in results}) > 1
    measurements = []
    for result in results:
        run = result.run
        where = [f"on {texts[run.text]}"] * (len(texts) > 1)
        where += [f"in {run.precision}"] * several_precisions
        where += [f"of {counted(result.n_texts, 'text')}"] * several_counts
        measurements.append(result.labelled(notes.get(run.name, ""), " ".join(where)))
    return measurements


def write_measurements(path: Path, results: Sequence[AnalysisResult]) -> None:
    """Write every row of an instrument's results as CSV, with all that names it; failures too."""
    names = dict.fromkeys(name for result in results for row in result.rows for name in row)
    rows = []
    for result in results:
        run = result.run
        shared = {
            "run": run.name, "model": run.model, "method": result.method, "state": result.state,
            "seed": run.seed, "length": result.length, "train_len": run.train_len,
            "step": result.step, "loss": result.loss, "status": result.status, "text": run.text,
            "precision": run.precision, "variant": run.variant, "texts": result.n_texts,
        }  # fmt: skip
        rows += [{**row, **shared} for row in result.rows or ({},)]
    write_csv(path, [*BEFORE, *names, *AFTER], rows, nan="nan")
