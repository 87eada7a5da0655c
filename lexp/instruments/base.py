"""What an instrument is: it looks at a model on texts of a length and brings back numbers.

One file an instrument, with formula and source in its docstring. An instrument streams: it never
keeps an n x n matrix, and gives the same numbers however the work is cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from torch import Tensor

from lexp.attention import ChunkSizes
from lexp.display.document import Chart, Picture
from lexp.display.table import Table
from lexp.model.transformer import Transformer
from lexp.pattern import Pattern
from lexp.system.text import label_of

# A number with all that names it: {"layer": 0, "head": 2, "distance": 16, "value": 0.3}.
Row = dict[str, str | int | float]


@dataclass(frozen=True)
class CheckpointInfo:
    """When in its training a model is looked at.

    state: `trained`, or `random` for the same model freshly initialised (step 0). step: -1 where it
    is not known. loss: in nats per token on the validation split at the trained length, NaN where
    it was not measured.
    """

    state: str
    step: int
    loss: float


@dataclass(frozen=True)
class AnalysisInput:
    """What an instrument looks at: a model under a pattern, and texts of one length.

    model: as the method runs it at this length. texts: token ids, int64 [n, seq_len], the first
    seq_len tokens of n test documents. train_len: of the run. state: of the Moment. sizes: how
    attention is cut, on which no number depends.
    """

    model: Transformer
    pattern: Pattern
    texts: Tensor
    train_len: int
    state: str
    sizes: ChunkSizes = field(default_factory=ChunkSizes)

    @property
    def seq_len(self) -> int:
        """Tokens of each text."""
        return int(self.texts.shape[1])


@dataclass(frozen=True)
class Measurement:
    """What an instrument brings back from a view: rows for CSV, arrays for pictures."""

    rows: tuple[Row, ...]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelledMeasurement:
    """A finding and what it is of.

    note: what tells the run's variant from others of its model in a study, such as `n_kernels=3`,
    or "". A run does not know the others: who shows findings together says it.
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
        """Whether the model is trained."""
        return self.checkpoint.state

    @property
    def variant(self) -> str:
        """The model, with what tells its variant apart."""
        return " ".join(filter(None, (self.model, self.note)))

    @property
    def name(self) -> str:
        """The variant, and whether it is trained."""
        return self.variant if self.state == "trained" else f"{self.variant} ({self.state})"


@dataclass(frozen=True)
class Instrument:
    """A way of looking at a model. Its fields are its settings."""

    name: ClassVar[str]

    @property
    def label(self) -> str:
        """The name, with values only where the user gave some."""
        return label_of(self.name, self)

    def measure(self, inputs: AnalysisInput) -> Measurement:
        """Numbers of one view; NotDefined with the reason where there are none."""
        raise NotImplementedError

    def show(self, results: Sequence[LabelledMeasurement]) -> list[Table | Chart | Picture]:
        """Tables, curves and pictures of all findings together, one for each model and place."""
        raise NotImplementedError

    def summary(self, result: LabelledMeasurement) -> dict[str, float]:
        """What is followed over training: a few numbers by name; none unless it says so."""
        return {}
