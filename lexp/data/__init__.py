"""The path from a corpus to batches: documents -> tokenizer -> memory-mapped store -> windows."""

from lexp.data.batches import Batches
from lexp.data.corpus import Corpus, Split
from lexp.data.store import Store, Tokens, open_store

__all__ = ["Batches", "Corpus", "Split", "Store", "Tokens", "open_store"]
