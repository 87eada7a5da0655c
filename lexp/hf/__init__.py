"""Causal language models of Hugging Face: their layers, with attention and positions of lexp.

Queries, keys and values come out of a model's own layers before any position is in them; patterns,
extensions and instruments then work on them as on lexp's own models. `transformers` is imported
when a model is opened, and is optional.
"""

from lexp.hf.config import Described, describe
from lexp.hf.general import DescribedGeneral
from lexp.hf.load import fresh_model, load_model, require_transformers
from lexp.hf.source import Source, find_source

__all__ = [
    "Described",
    "DescribedGeneral",
    "Source",
    "describe",
    "find_source",
    "fresh_model",
    "load_model",
    "require_transformers",
]
