"""Per-token losses of one evaluation, and their arrays in a file: all averages come from these.

    import numpy as np
    cell = np.load("outputs/default/RUN/eval/CELL.npz")
    print(np.exp(cell["nats"][cell["context"] > 1000].mean()))

nats      float32 [n]  negative log-likelihood of each scored token
document  int32 [n]    index into `names` of the token's document
position  int32 [n]    index of the token in its document
context   int32 [n]    tokens before it in its window
bytes     uint16 [n]   bytes of text that it stands for
names     documents; length, protocol, bos: what was evaluated
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lexp.data import Tokens
from lexp.result_store import ArrayFile
from lexp.scoring.protocol import BOS, TextWindow
from lexp.system.errors import DataError


@dataclass(frozen=True)
class Losses:
    """Losses of the scored tokens of one evaluation, document by document; arrays all [n]."""

    nats: np.ndarray
    document: np.ndarray
    position: np.ndarray
    context: np.ndarray
    n_bytes: np.ndarray
    names: tuple[str, ...]
    length: int
    protocol: str

    @property
    def nll(self) -> float:
        """Return the mean nats per token, summed in float64; not finite if any loss is not."""
        return float(self.nats.sum(dtype=np.float64)) / len(self.nats)

    @property
    def ppl(self) -> float:
        """Return exp(total nats / total tokens)."""
        return perplexity(self.nll)

    @property
    def bits_per_byte(self) -> float:
        """Return total bits / total bytes of the scored text."""
        total = float(self.nats.sum(dtype=np.float64))
        return total / math.log(2) / float(self.n_bytes.sum(dtype=np.int64))

    def only(self, kept: np.ndarray, length: int | None = None) -> "Losses":
        """Keep the tokens of a mask [n]; length: of the evaluation that they then stand for."""
        return replace(
            self, nats=self.nats[kept], document=self.document[kept],
            position=self.position[kept], context=self.context[kept], n_bytes=self.n_bytes[kept],
            length=self.length if length is None else length,
        )  # fmt: skip

    def arrays(self) -> dict[str, Any]:
        """Return the arrays of the file described above."""
        return {
            "nats": self.nats, "document": self.document, "position": self.position,
            "context": self.context, "bytes": self.n_bytes,
            "names": np.array(self.names, dtype=np.str_), "length": np.int64(self.length),
            "protocol": np.str_(self.protocol), "bos": np.str_(BOS),
        }  # fmt: skip


def read_losses(file: ArrayFile) -> Losses:
    """Read the losses of a result; DataError if the file is damaged or holds something else."""
    return losses_from(file.load(), file.path)


def losses_from(arrays: Mapping[str, np.ndarray], path: Path) -> Losses:
    """Return losses from the arrays of a file, checked; DataError names the path."""
    try:
        losses = Losses(
            arrays["nats"], arrays["document"], arrays["position"], arrays["context"],
            arrays["bytes"], tuple(str(name) for name in arrays["names"]),
            int(arrays["length"]), str(arrays["protocol"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a file of losses ({error!r})") from None
    whole = (losses.document, losses.position, losses.context, losses.n_bytes)
    if {column.shape for column in whole} != {losses.nats.shape} or losses.nats.ndim != 1:
        raise DataError(f"{path} is not a file of losses (arrays of unlike lengths)")
    if losses.nats.dtype.kind != "f" or any(column.dtype.kind not in "iu" for column in whole):
        raise DataError(f"{path} is not a file of losses (arrays of other types)")
    if not np.isin(losses.document, np.arange(len(losses.names))).all():
        raise DataError(f"{path} is not a file of losses (a document has no name)")
    return losses


def collect(
    tokens: Tokens,
    windows: Sequence[TextWindow],
    context: np.ndarray,
    nats: np.ndarray,
    length: int,
    protocol: str,
) -> Losses:
    """Put losses [n] of the targets of windows, window by window, beside what names the targets.

    context [n]: tokens before each target in its window. protocol: the label.
    """
    documents = sorted({window.document for window in windows})
    number = {document: n for n, document in enumerate(documents)}
    sizes = [window.n_scored for window in windows]
    position = np.repeat([window.first for window in windows], sizes) + context
    document: np.ndarray = np.repeat([number[window.document] for window in windows], sizes)
    n_bytes: np.ndarray
    if tokens.bytes_per_token is None:
        n_bytes = np.ones(len(nats), dtype=np.uint16)
    else:
        start = tokens.starts[[window.document for window in windows]]
        n_bytes = tokens.bytes_per_token[np.repeat(start, sizes) + position]
    return Losses(
        nats.astype(np.float32), document.astype(np.int32), position.astype(np.int32),
        context.astype(np.int32), n_bytes.astype(np.uint16),
        tuple(tokens.names[d] for d in documents), length, protocol,
    )  # fmt: skip


def perplexity(nll: float) -> float:
    """Return exp(nll); inf where that overflows, NaN where nll is NaN."""
    return math.inf if nll > 700 else math.exp(nll)
