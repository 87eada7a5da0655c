"""The command `lexp data`."""

import json
from dataclasses import dataclass
from itertools import islice

from omegaconf import DictConfig

from lexp.commands.run_parts import make_corpus
from lexp.config.data_settings import DataConfig
from lexp.config.validation import read_data
from lexp.data import Corpus, Store, Tokens, open_store
from lexp.data.corpus import SPLITS
from lexp.data.reading import (
    CREAM,
    Documents,
    Packed,
    Padded,
    PoSE,
    RandPos,
    Reading,
    Segmented,
)
from lexp.data.remarks import percent, remarks
from lexp.data.store import enough_memory
from lexp.data.tokenizer import TokenizerSpec
from lexp.display.table import Table, TableCell
from lexp.display.terminal import table_console
from lexp.system.errors import DataError
from lexp.system.files import make_folder
from lexp.system.output import say

TRAIN_LENS = (128, 256, 512, 1024, 2048, 4096, 8192)
READINGS: dict[str, Reading] = {
    "documents": Documents(), "packed": Packed(), "padded": Padded(), "segmented": Segmented(),
    "pose": PoSE(), "cream": CREAM(), "randpos": RandPos(),
}  # fmt: skip
# Of a document that is shown.
N_CHARACTERS, N_IDS = 200, 12


@dataclass(frozen=True)
class DataPlan:
    """What is tokenised. reading: of the training that comes; it may need a token of its own."""

    settings: DataConfig
    corpus: Corpus
    tokenizer: TokenizerSpec
    reading: Reading


def check(config: DictConfig) -> DataPlan:
    """Return the plan; ConfigError before any work if a value is not allowed."""
    settings = read_data(config)
    return DataPlan(
        settings,
        # Without a cache nothing is known of the texts, and all are read.
        make_corpus(settings.dataset, None if settings.verify else settings.cache),
        settings.tokenizer.build(TokenizerSpec, "tokenizer"),
        settings.reading.build(Reading, "reading"),
    )


def data(config: DictConfig) -> None:
    """Tokenise a data set unless it is, and print what is in it and what training leaves out."""
    plan = check(config)
    settings, corpus = plan.settings, plan.corpus
    folder = make_folder(settings.cache)
    load = plan.tokenizer.load_with_end if plan.reading.needs_end else plan.tokenizer.load
    with enough_memory(settings.dataset.name):
        store = open_store(corpus, load(corpus, folder), folder, anew=settings.verify)
    if not any(len(tokens.lengths) for tokens in store.splits.values()):
        name = settings.dataset.name
        raise DataError(
            f"dataset={name} has no documents in any split; set dataset.train=FOLDER, or another "
            "dataset"
        )
    console = table_console()
    console.table(splits_table(store, settings))
    if len(store.splits["train"].lengths):
        console.table(lost_table(store.splits["train"]))
    if settings.verify:
        say("all texts were read again, and all digests are right")
    say(*corpus.notes(), *remarks(store, settings.tokenizer.name))
    say(*samples(corpus, store.splits["train"], settings.show))


def splits_table(store: Store, settings: DataConfig) -> Table:
    """Return documents, tokens and bytes of each split."""
    rows = []
    for split in SPLITS:
        tokens, n_bytes = store.splits[split], store.facts[split].n_bytes
        n_tokens = int(tokens.starts[-1])
        per_token = f"{n_bytes / n_tokens:.2f}" if n_tokens else ""
        cells = (split, f"{len(tokens.lengths)}", f"{n_tokens}", f"{n_bytes / 1e6:.1f}", per_token)
        rows.append(tuple(map(TableCell, cells)))
    title = f"dataset={settings.dataset.name} tokenizer={settings.tokenizer.name}"
    heads = ("split", "documents", "tokens", "MB", "bytes/token")
    return Table(title, heads, tuple(rows), notes=(f"tokens are in {store.folder}",))


def lost_table(tokens: Tokens) -> Table:
    """Return what share of the tokens an epoch leaves out, by train_len and reading."""
    rows = [
        tuple(map(TableCell, (f"{length}", *(_lost(tokens, r, length) for r in READINGS.values()))))
        for length in TRAIN_LENS
    ]
    title = "Tokens of the train split that an epoch does not predict"
    return Table(title, ("train_len", *READINGS), tuple(rows), notes=(
        "padded: in brackets the share of what is read that is padding; segmented, pose and cream "
        "read texts of 4 x train_len, in part",
    ))  # fmt: skip


def unpredicted(tokens: Tokens, reading: Reading, length: int) -> float:
    """Return the share of the tokens that an epoch does not predict; 1 if it has no window."""
    try:
        targets = reading.batches(tokens, 0, length, 1, 0).epoch_targets
    except DataError:
        return 1.0
    return max(0.0, 1 - targets / int(tokens.starts[-1]))


def _lost(tokens: Tokens, reading: Reading, length: int) -> str:
    lost = percent(unpredicted(tokens, reading, length))
    if not isinstance(reading, Padded) or lost == percent(1.0):
        return lost
    batches = reading.batches(tokens, None, length, 1, 0)
    padding = 1 - batches.epoch_targets / (batches.n_windows * length)
    return f"{lost} ({100 * padding:.0f} %)"


def samples(corpus: Corpus, tokens: Tokens, n: int) -> list[str]:
    """Return the beginnings of the first n documents of the train split, and of their ids."""
    lines = []
    for number, document in enumerate(islice(corpus.documents("train"), n)):
        n_tokens = int(tokens.lengths[number])
        ids = tokens.window(number, 0, min(n_tokens, N_IDS)).tolist()
        # Quotes, and escapes where the text has line ends or quotes itself.
        text = json.dumps(document.text[:N_CHARACTERS], ensure_ascii=False)
        lines += [f"{document.name}: {n_tokens} tokens, {ids}", f"  {text}"]
    return lines
