"""Cells of (run, probe, method, length), kept as soon as known; failures are cells too.

A cell is a JSON row and, beside it, the arrays of all its examples (.npz).
"""

import io
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lexp.evaluate import OK
from lexp.probes.score import ARRAYS, Scores
from lexp.system.files import make_folder, read_sealed, sha256, write_bytes, write_sealed

RESAMPLES = 2000


@dataclass(frozen=True)
class ProbeCell:
    """A row of probes.csv.

    accuracy: of whole answers, all tokens the likeliest. token_accuracy: of single tokens;
    control_accuracy: the same without the information. candidate_accuracy: of answers likelier than
    all others of their form; chance: what guessing gives. rank: the median answer token's.
    nll, control_nll, gain: nats per answer token, gain with its 95 % interval over examples.
    """

    run: str
    model: str
    size: str
    dataset: str
    seed: int
    train_len: int
    attention: str
    extension: str
    probe: str
    length: int
    samples: int
    probe_seed: int
    accuracy: float
    token_accuracy: float
    control_accuracy: float
    candidate_accuracy: float
    chance: float
    rank: float
    control_rank: float
    nll: float
    control_nll: float
    gain: float
    gain_low: float
    gain_high: float
    seconds: float
    status: str
    tokenizer: str
    precision: str
    text: str
    variant: str

    @property
    def ok(self) -> bool:
        """Whether the numbers are numbers."""
        return self.status == OK


COLUMNS = tuple(field.name for field in fields(ProbeCell))
MEASURES = (
    "accuracy", "token_accuracy", "control_accuracy", "candidate_accuracy", "rank",
    "control_rank", "nll", "control_nll", "gain", "gain_low", "gain_high",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A cell, the reason of its failure (or ""), and its examples' scores if there are any."""

    cell: ProbeCell
    reason: str
    scores: Scores | None


def read_result(path: Path) -> Result | None:
    """A cell from where it is kept; None if it is not there, or not whole."""
    try:
        stored = read_sealed(path)
        reason, arrays_sha256 = stored.pop("reason"), stored.pop("arrays_sha256")
        numbers = {key: _number(stored[key]) for key in (*MEASURES, "chance")}
        cell, scores = ProbeCell(**{**stored, **numbers}), None
        if arrays_sha256 is not None:
            beside = path.with_suffix(".npz")
            if sha256(beside) != arrays_sha256:
                return None
            with np.load(beside) as arrays:
                scores = Scores(**{name: arrays[name] for name in ARRAYS})
        return Result(cell, reason, scores)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def measure(scores: Scores) -> dict[str, float]:
    """The measures of a cell."""
    ranks = scores.candidate_rank
    low, high = interval(scores.example_gain)
    return {
        "accuracy": float(scores.correct.mean()),
        "token_accuracy": float((scores.rank == 1).mean()),
        "control_accuracy": float((scores.control_rank == 1).mean()),
        "candidate_accuracy": float((ranks == 1).mean()) if len(ranks) else math.nan,
        "rank": float(np.median(scores.rank)),
        "control_rank": float(np.median(scores.control_rank)),
        "nll": float(scores.nll.mean()),
        "control_nll": float(scores.control_nll.mean()),
        "gain": float(scores.example_gain.mean()),
        "gain_low": low,
        "gain_high": high,
    }


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean by resampling examples [n]; the same for the same values."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def write_result(path: Path, result: Result) -> None:
    """The arrays first, their digest in the row: a row that can be read has them beside it."""
    make_folder(path.parent)
    arrays_sha256 = None
    if result.scores is not None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{name: getattr(result.scores, name) for name in ARRAYS})
        write_bytes(path.with_suffix(".npz"), buffer.getvalue())
        arrays_sha256 = sha256(path.with_suffix(".npz"))
    row = {k: None if v != v else v for k, v in asdict(result.cell).items()}  # JSON has no nan
    write_sealed(path, {**row, "reason": result.reason, "arrays_sha256": arrays_sha256})


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
