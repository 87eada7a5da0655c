"""A stored probe: how a model answered one kind of question at one length."""

from dataclasses import dataclass
from typing import Any

from lexp.evaluate import RunInfo
from lexp.extension import method_label
from lexp.probes.score import ARRAYS, Scores
from lexp.result_store import Component, Result, ResultKind
from lexp.system.errors import DataError

COLUMNS = (
    "run", "model", "size", "dataset", "seed", "train_len", "attention", "extension", "probe",
    "length", "samples", "probe_seed", "accuracy", "token_accuracy", "control_accuracy",
    "candidate_accuracy", "chance", "rank", "control_rank", "nll", "control_nll", "gain",
    "gain_low", "gain_high", "seconds", "status", "tokenizer", "precision", "text", "variant",
)  # fmt: skip


@dataclass(frozen=True)
class ProbeMeasures:
    """Averages over the examples of a probe, NaN where there is none.

    accuracy: of whole answers, all tokens the likeliest. token_accuracy: of single tokens;
    control_accuracy: the same without the information. candidate_accuracy: of answers likelier than
    all others of their form. rank: the median answer token's. nll, control_nll, gain: nats per
    answer token, gain with its 95 % interval over examples.
    """

    accuracy: float
    token_accuracy: float
    control_accuracy: float
    candidate_accuracy: float
    rank: float
    control_rank: float
    nll: float
    control_nll: float
    gain: float
    gain_low: float
    gain_high: float


@dataclass(frozen=True)
class ProbeResult(Result):
    """A model's answers to `samples` examples of a probe under a method at a length.

    pattern, extension, probe: as they were asked for. chance: the candidate accuracy of guessing.
    arrays: the fields of lexp.probes.score.Scores.
    """

    run: RunInfo
    pattern: Component
    extension: Component
    probe: Component
    length: int
    samples: int
    probe_seed: int
    chance: float
    measures: ProbeMeasures
    seconds: float

    @property
    def method(self) -> str:
        """Return the name of the method in tables."""
        return method_label(self.pattern.label, self.extension.label)

    def scores(self) -> Scores:
        """Read the scores of all examples; DataError if the file is missing or damaged."""
        if self.arrays is None:
            raise DataError(f"{self.run.name}: a result of {self.probe.label} without scores")
        arrays = self.arrays.load()
        if missing := sorted(set(ARRAYS) - set(arrays)):
            raise DataError(f"{self.arrays.path} is not a file of scores (no {missing[0]})")
        return Scores(**{name: arrays[name] for name in ARRAYS})

    def check_arrays(self) -> None:
        """Raise DataError if the scores are not those of this result."""
        if self.arrays is not None:
            self.scores()

    def row(self) -> dict[str, Any]:
        """Return the row of probes.csv."""
        return {
            **self.run.row(), "attention": self.pattern.label,
            "extension": self.extension.label, "probe": self.probe.label, "length": self.length,
            "samples": self.samples, "probe_seed": self.probe_seed, "chance": self.chance,
            **vars(self.measures), "seconds": self.seconds, "status": self.status,
        }  # fmt: skip


PROBES = ResultKind(
    name="probe",
    folder="probes",
    numerics=1,
    key=(
        "probe.label", "run.name", "pattern.label", "extension.label", "length", "run.text",
        "run.precision", "samples", "probe_seed", "pattern.code", "extension.code", "probe.code",
        "weights",
    ),
    result=ProbeResult,
)  # fmt: skip
