"""What training and evaluation set up alike."""

from pathlib import Path
from typing import Any

from lexp.build import build
from lexp.data import Corpus, Store, open_store
from lexp.data.tokenizer import TokenizerSpec
from lexp.files import make_folder
from lexp.model import Dims, Transformer
from lexp.position import Position


def make_corpus(node: dict[str, Any]) -> Corpus:
    """The corpus of a dataset node."""
    return build(node, Corpus, "dataset")


def make_store(dataset: dict[str, Any], tokenizer: dict[str, Any], outputs: Path) -> Store:
    """The tokenised corpus; the vocabulary is trained or fetched if this is its first use."""
    corpus, cache = make_corpus(dataset), make_folder(outputs / ".cache")
    spec = build(tokenizer, TokenizerSpec, "tokenizer")
    return open_store(corpus, spec.load(corpus, cache), cache)


def make_model(settings: dict[str, Any], vocab_size: int) -> Transformer:
    """The model that the settings of a run describe, freshly initialised."""
    size = settings["size"]
    dims = Dims(
        **{key: size[key] for key in ("n_layers", "d_model", "n_heads", "head_dim", "d_ff")}
    )
    position = build(settings["model"]["position"], Position, "model.position")
    return Transformer(dims, vocab_size, position)
