"""How the windows of training are cut from documents: a file for each choice of `reading=`."""

from lexp.data.reading.base import Batches, Reading, Windows
from lexp.data.reading.documents import DocumentBatches, Documents
from lexp.data.reading.packed import Packed, PackedBatches
from lexp.data.reading.padded import Padded, PaddedBatches

__all__ = [
    "Batches",
    "DocumentBatches",
    "Documents",
    "Packed",
    "PackedBatches",
    "Padded",
    "PaddedBatches",
    "Reading",
    "Windows",
]
