"""A cell: one number of the table, with all that made it, as a JSON row in a run's folder."""

import math
import warnings
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lexp.scoring.protocol import BOS
from lexp.system.files import read_sealed, write_sealed

OK, NOT_DEFINED, NOT_FINITE, OUT_OF_MEMORY = "ok", "not defined", "not finite", "out of memory"
# Raised whenever a change of the code changes numbers: cells of another version are not reused.
NUMERICS = 2
# The step of a run's last checkpoint, whichever it was.
LAST = -1
# Worth another try when the same command is given again: the machine may have changed.
RETRIED = (OUT_OF_MEMORY,)


@dataclass(frozen=True)
class Cell:
    """A row of results.csv. nll in nats per token, bpb in bits per byte, both over all targets.

    text: fingerprint of what was scored, 8 digits. variant: hash of the run's settings without
    the seed; cells of one variant and several seeds may be averaged. step: of the checkpoint, LAST
    for the one that training ended with.
    """

    run: str
    model: str
    size: str
    dataset: str
    seed: int
    train_len: int
    attention: str
    extension: str
    protocol: str
    length: int
    documents: int
    tokens: int
    nll: float
    ppl: float
    bpb: float
    seconds: float
    status: str
    tokenizer: str
    precision: str
    text: str
    variant: str
    step: int = LAST

    @property
    def ok(self) -> bool:
        """Whether the numbers are numbers."""
        return self.status == OK


# step: only where checkpoints of several steps were scored is there something to tell apart.
STEP = "step"
COLUMNS = tuple(field.name for field in fields(Cell) if field.name != STEP)


Result = tuple[Cell, str]


def write_cell(path: Path, cell: Cell, reason: str) -> None:
    """Write a cell's row with the reason of its failure, or ""."""
    row = asdict(cell)
    for key in ("nll", "ppl", "bpb"):
        if not math.isfinite(row[key]):
            row[key] = str(row[key])  # JSON has no inf and nan; float() reads the text back
    write_sealed(path, {**row, "bos": BOS, "reason": reason})


def known_cell(path: Path) -> Result | None:
    """A cell that need not be computed: it is there, with its losses, and not to be tried again."""
    known = read_cell(path)
    if known is None or known[0].status in RETRIED:
        return None
    return known if not known[0].ok or path.with_suffix(".npz").is_file() else None


def read_cell(path: Path) -> Result | None:
    """A cell and its reason from where it is kept; None if there is none.

    What is damaged is said and taken for absent: `lexp eval` scores it again.
    """
    try:
        stored = read_sealed(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        warnings.warn(f"{path} is left out: {error}", stacklevel=2)
        return None
    try:
        reason = stored.pop("reason")
        stored.pop("bos")
        numbers = {key: float(stored[key]) for key in ("nll", "ppl", "bpb")}
        return Cell(**{**stored, **numbers}), reason
    except (ValueError, TypeError, KeyError):  # of an older lexp
        return None
