"""The path from a corpus to batches: documents -> tokenizer -> memory-mapped store -> windows.

Importing this package must not import torch: settings are checked without it.
"""

from lexp.data.corpus import Corpus, Split
from lexp.data.store import Store, open_store
from lexp.data.tokens import Tokens

__all__ = ["Corpus", "Split", "Store", "Tokens", "open_store"]
