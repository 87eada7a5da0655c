"""Studies written by hand: cells whose losses, and so whose truth, a test knows. No training."""

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from lexp.commands.report import report
from lexp.config.schema import plain
from lexp.evaluate import EVALUATIONS, LAST, EvalResult, RunInfo, ScoredText
from lexp.extension import Extension
from lexp.instruments.measure import ANALYSES, AnalysisResult
from lexp.pattern import Full, Pattern
from lexp.result_store import OK, OUT_OF_MEMORY, Component, Spec, component_of, path_of, write
from lexp.runs.run import TRAINED_ON, Run, open_run, run_name, variant
from lexp.scoring.losses import Losses
from lexp.scoring.protocol import Protocol, Segments
from lexp.system.files import read_sealed, write_sealed
from support.config import TINY, compose

TRAINED, LONGEST, DOCUMENTS = 256, 1024, 6
LENGTHS = (64, 256, 512, 1024)
DATA = {"fingerprint": "f" * 16, "tokenizer": "t" * 16}
MADE_OF = {"text": "f" * 8, "vocabulary": "t" * 8, "weights": "", "code": {}}


def flat(value: float = 1.0, documents: int = DOCUMENTS, n: int = LONGEST) -> np.ndarray:
    """Losses [documents, n], all alike."""
    return np.full((documents, n), value)


def bumpy(documents: int = DOCUMENTS, n: int = LONGEST) -> np.ndarray:
    """Losses [documents, n] in steps that float32 holds exactly, so that shifts stay exact."""
    return np.random.default_rng(5).integers(1024, 3072, (documents, n)) / 1024


def shifted(base: np.ndarray, **by_length: float) -> dict[int, np.ndarray]:
    """Losses by length: base, plus what stands under `at512` and the like."""
    return {n: base + by_length.get(f"at{n}", 0.0) for n in LENGTHS}


def two_documents(first: float, second: float) -> np.ndarray:
    """Return [2, 1]: what is added to the losses of two documents."""
    return np.array([[first], [second]])


def run_info(name: str, settings: dict, **changes) -> RunInfo:
    """What results carry of a run with these settings."""
    info = RunInfo(
        name, settings["model"]["name"], settings["size"]["name"], "books", settings["seed"],
        settings["train_len"], settings["tokenizer"]["name"], "float32", "aaaaaaaa",
        variant({**settings, TRAINED_ON: MADE_OF}), "tttttttt",
    )  # fmt: skip
    return replace(info, **changes)


def losses_of(nats: np.ndarray, length: int, protocol: Protocol, n_bytes: int) -> Losses:
    """Losses [documents, tokens] as segments of a length have them, or as prefixes do."""
    documents, n = nats.shape
    document = np.repeat(np.arange(documents), n)
    position = np.tile(np.arange(1, n + 1), documents)
    values, context = nats.ravel(), (position - 1) % length + 1
    if not protocol.paired:
        keep = position <= length
        document, position, values = document[keep], position[keep], values[keep]
        context = position
    return Losses(
        values.astype(np.float32), document.astype(np.int32), position.astype(np.int32),
        context.astype(np.int32), np.full(len(values), n_bytes, dtype=np.uint16),
        tuple(f"d{d}" for d in range(documents)), length, protocol.label([LONGEST]),
    )  # fmt: skip


def scored_text(nats: np.ndarray, too_short: int = 0) -> ScoredText:
    """All documents that have losses are scored, beside some that are too short."""
    documents, n = nats.shape
    return ScoredText(f"{documents:08}", f"{documents:04}{n:04}", documents + too_short, too_short)


class Study:
    """A study's folder, and how cells come into it."""

    def __init__(self, outputs: Path) -> None:
        self.outputs, self.folder = outputs, outputs / "default"
        self.written = 0

    def run(self, model: str = "rope", seed: int = 0, *overrides: str) -> Run:
        """A run's folder as training leaves it, but for its checkpoints."""
        changed = ("train_len", "batch_tokens", "tokens")
        base = [one for one in TINY if not one.startswith(changed)]
        settings = plain(compose(
            "train", *base, f"train_len={TRAINED}", f"batch_tokens={TRAINED}", f"tokens={TRAINED}",
            f"model={model}", f"seed={seed}", f"outputs={self.outputs}", *overrides,
        ))  # fmt: skip
        return open_run(self.folder / run_name(settings), settings, DATA, "float32")

    def cell(
        self, run: Run, length: int, nats: np.ndarray | str, *, n_bytes: int = 1, age: float = 0,
        name: str = "cell", pattern: Pattern | None = None, extension: Extension | None = None,
        protocol: Protocol | None = None, text: str = "aaaaaaaa", precision: str = "float32",
        seconds: float = 2.0, step: int = LAST, too_short: int = 0,
        asked: np.ndarray | None = None,
    ) -> Path:  # fmt: skip
        """One evaluation. nats: [documents, tokens], or why there are none; age: makes it older.

        asked: losses of as many tokens as a failure was to score.
        """
        reason = nats if isinstance(nats, str) else ""
        if isinstance(nats, str):
            nats = flat() if asked is None else asked
        protocol = protocol or Segments()
        losses = losses_of(nats, length, protocol, n_bytes)
        result = EvalResult(
            run=run_info(
                run.name,
                run.settings,
                text=text,
                precision=precision,
                vocabulary=str(n_bytes) * 8,
            ),
            pattern=component_of(pattern or Full()),
            extension=component_of(extension or Extension()),
            protocol=protocol.info([LONGEST]),
            length=length,
            documents=len(nats),
            tokens=len(losses.nats),
            scored=scored_text(nats, too_short),
            nll=math.nan if reason else losses.nll,
            ppl=math.nan if reason else losses.ppl,
            bpb=math.nan if reason else losses.bits_per_byte,
            seconds=seconds,
            step=step,
            status=OUT_OF_MEMORY if reason else OK,
            reason=reason,
        )
        self.written += 1
        spec = Spec(EVALUATIONS, name, {"number": self.written})
        write(run.folder, spec, result, None if reason else losses.arrays())
        path = path_of(run.folder, spec)
        if age:
            write_sealed(path, {**read_sealed(path), "order": -round(age)})
        return path

    def line(self, run: Run, losses: dict[int, np.ndarray | str], **changes) -> None:
        """Evaluations by one method and command, by length."""
        asked = next((nats for nats in losses.values() if not isinstance(nats, str)), None)
        for length, nats in losses.items():
            self.cell(run, length, nats, asked=asked, **changes)

    def analysis(self, run: Run) -> None:
        """Write one measurement, by an instrument that is not known here."""
        measured = AnalysisResult(
            Component("growth", "growth", {}), run_info(run.name, run.settings),
            component_of(Full()), component_of(Extension()), "trained", -1, math.nan, 64, 8, 1.0,
            ({"layer": 0, "value": 1.0},),
        )  # fmt: skip
        write(run.folder, Spec(ANALYSES, "growth", {}), measured)

    def report(self, *overrides: str) -> Path:
        """Write the report; where it is."""
        report(compose("report", f"outputs={self.outputs}", *overrides))
        return self.folder / "report"

    def table(self, title: str) -> list[dict[str, str]]:
        """The rows of a table of the report that was written, by heading.

        Without the apostrophe that keeps a spreadsheet from computing what begins with a sign.
        """
        stem = "".join(c if c.isalnum() else "-" for c in title.lower())
        text = (self.folder / "report" / f"{stem}.csv").read_text()
        rows = csv.DictReader(io.StringIO(text))
        return [{head: value.removeprefix("'") for head, value in row.items()} for row in rows]

    def named(self, title: str) -> dict[tuple[str, str], dict[str, str]]:
        """The same by model and method, each of which stands there once."""
        rows = self.table(title)
        found = {(row["model"], row["method"]): row for row in rows}
        assert len(found) == len(rows), rows
        return found
