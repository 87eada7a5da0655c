"""What a study holds: its newest cells, put in order for tables, curves and claims."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lexp.evaluate import Cell, read_cell
from lexp.extension import method_label
from lexp.scoring.losses import Losses, read_losses
from lexp.statistics import TokenLosses, difference
from lexp.system.text import natural

# Attention to every key that a model may see, causal or not; and how rows follow each other.
PLAIN = ("full", "bidirectional")
ORDER = (
    "full", "blockwise", "window",
    "bidirectional", "bidirectional_blockwise", "bidirectional_window",
)  # fmt: skip


@dataclass(frozen=True)
class StoredResult:
    """A cell, the reason of its failure or "", and where its losses are."""

    cell: Cell
    reason: str
    path: Path

    def losses(self) -> Losses:
        """Its losses; DataError if the file is missing or damaged."""
        return read_losses(self.path.with_suffix(".npz"))


@dataclass(frozen=True)
class ResultSeries:
    """A variant under one method and protocol: cells by length, then by seed.

    note: what tells the variant from others of its model, such as `lr=0.01`, or "".
    where: what tells text and precision from others of the study, or "".
    """

    model: str
    note: str
    attention: str
    extension: str
    protocol: str
    train_len: int
    variant: str
    text: str
    precision: str
    tokenizer: str
    where: str = ""
    cells: dict[int, dict[int, StoredResult]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model, with what tells its variant apart."""
        return " ".join(filter(None, (self.model, self.note)))

    @property
    def method(self) -> str:
        """Pattern, extension if there is one, and where, if it is not the same everywhere."""
        return f"{method_label(self.attention, self.extension)} {self.where}".rstrip()

    @property
    def is_plain(self) -> bool:
        """Whether this is the model as it is: every key it may see, no extension."""
        return self.attention in PLAIN and self.extension == "none"

    @property
    def lengths(self) -> list[int]:
        """Ascending."""
        return sorted(self.cells)

    @property
    def seeds(self) -> list[int]:
        """Every seed that any length has."""
        return sorted({seed for by_seed in self.cells.values() for seed in by_seed})

    def failure(self, length: int) -> str:
        """Why a length has no number for every seed, or ""."""
        known = self.cells[length]
        reasons = [
            f"{k.cell.status}{f' ({k.reason})' if k.reason else ''}"
            for k in known.values()
            if not k.cell.ok
        ]
        missing = [str(seed) for seed in self.seeds if seed not in known]
        if missing:
            reasons.append(f"seed {', '.join(missing)} was not scored")
        if len({self._amount(k) for k in known.values()}) > 1:
            reasons.append("seeds were not scored on the same tokens")
        return reasons[0] if reasons else ""

    def same_amount(self, length: int, other: "ResultSeries", at: int) -> bool:
        """Whether all cells of both, each at its length, have one number of tokens.

        Cells of one protocol and text differ in their tokens only by max_tokens.
        """
        cells = [*self.cells[length].values(), *other.cells[at].values()]
        return len({self._amount(k) for k in cells}) == 1

    @staticmethod
    def _amount(known: StoredResult) -> tuple[int, int]:
        return known.cell.documents, known.cell.tokens


class DocumentIds:
    """One number for each document's name, so that tokens of different cells can be matched."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def scored(self, losses: Losses) -> TokenLosses:
        """Losses with documents numbered alike in all cells of a study."""
        ids = [self._known.setdefault(name, len(self._known)) for name in losses.names]
        document = np.array(ids, dtype=np.int64)[losses.document]
        return TokenLosses(losses.nats, document, losses.position)


def same_text(a: ResultSeries, b: ResultSeries) -> bool:
    """Whether tokens of both lines are the same stretches of one text: only then do they compare.

    The first targets of a document have the same places in any vocabulary, and other bytes.
    """
    if (a.text, a.tokenizer) != (b.text, b.tokenizer):
        return False
    if a.variant == b.variant:
        return True
    numbers = DocumentIds()
    ours, theirs = _widths(a, numbers), _widths(b, numbers)
    if ours is None or theirs is None:
        return False
    return not difference(ours, theirs, common=True).nats.any()


def _widths(line: ResultSeries, numbers: DocumentIds) -> TokenLosses | None:
    """Bytes of each token, in the place of its loss; None where no cell has tokens."""
    for known in (k for by_seed in line.cells.values() for k in by_seed.values()):
        if known.cell.ok:
            losses = known.losses()
            scored = numbers.scored(losses)
            return replace(scored, nats=losses.n_bytes.astype(np.float64))
    return None


def read_study(study: Path) -> list[StoredResult]:
    """The newest cell of each (run, protocol, method, length, text, precision, step), in order."""
    newest: dict[tuple, tuple[float, StoredResult]] = {}
    for path in sorted(study.glob("*/eval/*.json")):
        found = read_cell(path)
        if found is None:
            continue
        c = found[0]
        key = (c.run, c.attention, c.extension, c.protocol, c.length, c.text, c.precision, c.step)
        written = path.stat().st_mtime
        if key not in newest or newest[key][0] < written:
            newest[key] = written, StoredResult(*found, path)
    return [newest[key][1] for key in sorted(newest, key=str)]


def lines(known: list[StoredResult], notes: dict[str, str]) -> list[ResultSeries]:
    """Cells that differ in seed and length alone together; notes: by variant."""
    found: dict[tuple, ResultSeries] = {}
    texts = {one.cell.text for one in known}
    precisions = {one.cell.precision for one in known}
    for one in known:
        c = one.cell
        key = (c.model, c.variant, c.protocol, c.attention, c.extension, c.text, c.precision)
        where = [f"on {c.dataset} {c.text}"] * (len(texts) > 1)
        where += [f"in {c.precision}"] * (len(precisions) > 1)
        line = found.setdefault(
            key,
            ResultSeries(
                c.model, notes.get(c.variant, ""), c.attention, c.extension, c.protocol,
                c.train_len, c.variant, c.text, c.precision, c.tokenizer, " ".join(where),
            ),
        )  # fmt: skip
        line.cells.setdefault(c.length, {})[c.seed] = one
    return sorted(found.values(), key=lambda n: (n.protocol, n.model, natural(n.note), _rank(n)))


def protocols(found: list[ResultSeries]) -> Iterator[tuple[str, list[ResultSeries]]]:
    """Lines by protocol: unlike numbers never share a table."""
    for protocol in sorted({line.protocol for line in found}):
        yield protocol, [line for line in found if line.protocol == protocol]


def method_rank(method: str) -> tuple[int, str]:
    """Where a method stands among others: the usual ones first."""
    return (ORDER.index(method) if method in ORDER else len(ORDER)), method


def _rank(line: ResultSeries) -> tuple[int, str, str]:
    return *method_rank(line.method.removesuffix(line.where).rstrip()), line.method
