"""How the windows of training are cut from documents: a file for each choice of `reading=`."""

from lexp.data.reading.base import Batches, Reading, Windows
from lexp.data.reading.cream import CREAM
from lexp.data.reading.documents import DocumentBatches, Documents
from lexp.data.reading.moved import Moved
from lexp.data.reading.packed import Packed, PackedBatches
from lexp.data.reading.padded import Padded, PaddedBatches
from lexp.data.reading.pose import PoSE
from lexp.data.reading.randpos import RandPos
from lexp.data.reading.segmented import Segmented

__all__ = [
    "CREAM",
    "Batches",
    "DocumentBatches",
    "Documents",
    "Moved",
    "Packed",
    "PackedBatches",
    "Padded",
    "PaddedBatches",
    "PoSE",
    "RandPos",
    "Reading",
    "Segmented",
    "Windows",
]  # fmt: skip
