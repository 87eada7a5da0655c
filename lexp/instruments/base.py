"""The base class of instruments: from a model and texts of one length to numbers.

Each instrument has a file of its own, with formula and source in its docstring. It streams: it
never keeps an n x n matrix, and gives the same numbers however the work is cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from torch import Tensor

from lexp.attention import ChunkSizes
from lexp.data.tokenizer import Tokenizer
from lexp.display.document import Chart, Picture
from lexp.display.table import Table
from lexp.model.transformer import Transformer
from lexp.pattern import Pattern
from lexp.system.text import label_of

# A number with all that names it: {"layer": 0, "head": 2, "distance": 16, "value": 0.3}.
Row = dict[str, str | int | float]


@dataclass(frozen=True)
class CheckpointInfo:
    """The checkpoint at which a model is measured.

    state: `trained`, or `random` for the same model freshly initialised (step 0). step: -1 where it
    is not known. loss: in nats per token on the validation split at the trained length, NaN where
    it was not measured.
    """

    state: str
    step: int
    loss: float


@dataclass(frozen=True)
class AnalysisInput:
    """The input of an instrument: a model under a pattern, on texts of one length.

    model: as the method runs it at this length. texts: token ids, int64 [n, seq_len], the first
    seq_len tokens of n test documents. train_len: of the run. state: of the CheckpointInfo.
    sizes: how attention is cut, on which no number depends. tokenizer: of texts; None for problems
    of a task.
    """

    model: Transformer
    pattern: Pattern
    texts: Tensor
    train_len: int
    state: str
    sizes: ChunkSizes = field(default_factory=ChunkSizes)
    tokenizer: Tokenizer | None = None

    @property
    def seq_len(self) -> int:
        """Return the number of tokens of each text."""
        return int(self.texts.shape[1])


@dataclass(frozen=True)
class Measurement:
    """The output of an instrument: rows for CSV, arrays for pictures."""

    rows: tuple[Row, ...]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelledMeasurement:
    """A measurement with its names in tables.

    note: what tells the run's variant from others of its model in a study, such as `n_kernels=3`,
    or "". A run does not know the others, so whoever shows measurements together fills it in.
    """

    model: str
    method: str
    checkpoint: CheckpointInfo
    seed: int
    length: int
    train_len: int
    measurement: Measurement
    note: str = ""

    @property
    def state(self) -> str:
        """Return `trained` or `random`, see CheckpointInfo."""
        return self.checkpoint.state

    @property
    def variant(self) -> str:
        """Return the model, with what tells its variant apart."""
        return " ".join(filter(None, (self.model, self.note)))

    @property
    def name(self) -> str:
        """Return the variant, and whether it is trained."""
        return self.variant if self.state == "trained" else f"{self.variant} ({self.state})"


@dataclass(frozen=True)
class Instrument:
    """A measuring instrument. Its fields are its settings."""

    name: ClassVar[str]

    @property
    def label(self) -> str:
        """Return the name, with values only where the user gave some."""
        return label_of(self.name, self)

    def measure(self, inputs: AnalysisInput) -> Measurement:
        """Measure one model on one length; NotDefined with the reason where that has no meaning."""
        raise NotImplementedError

    def show(self, results: Sequence[LabelledMeasurement]) -> list[Table | Chart | Picture]:
        """Make the tables, charts and pictures of measurements, one of each model and case."""
        raise NotImplementedError

    def summary(self, result: LabelledMeasurement) -> dict[str, float]:
        """Return a few numbers by name that are followed over training; by default none."""
        return {}
