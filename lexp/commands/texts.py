"""The texts of a command: each is read, verified and mapped once, for all runs and workers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lexp.commands.run_parts import make_corpus
from lexp.commands.run_plan import RunPlan
from lexp.config.settings import Node
from lexp.data import Corpus, Store, open_store
from lexp.data.remarks import common_documents, remarks
from lexp.data.store import enough_memory, map_store, store_folder, stored_hashes
from lexp.data.tokenizer import Tokenizer, TokenizerSpec
from lexp.evaluate import EvalTargets
from lexp.system.errors import ConfigError, DataError, LexpError
from lexp.system.files import digest, make_folder

# A data set as it is configured, and the digest of a vocabulary.
Key = tuple[str, str]


@dataclass
class TrainingTexts:
    """The texts that the runs of one process are trained on, each opened at its first use.

    All of them train on what a text was then.
    """

    _corpora: dict[str, Corpus] = field(default_factory=dict)
    _stores: dict[tuple[str, str, Path, bool], Store] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def unsaid(self, notes: Sequence[str]) -> list[str]:
        """Return those notes on texts and tasks that no run of this process has said yet."""
        new = [note for note in notes if note not in self._said]
        self._said.update(new)
        return new

    def load(
        self, dataset: Node, tokenizer: Node, cache: Path, with_end: bool = False
    ) -> tuple[Corpus, Store]:
        """Return a corpus, tokenised; its vocabulary is trained or fetched at its first use.

        with_end: the vocabulary needs a token that ends texts; DataError if it has none.
        """
        key = digest(dataset.values), digest(tokenizer.values), cache, with_end
        corpus = self._corpora.get(key[0]) or make_corpus(dataset, cache)
        if key not in self._stores:
            folder, spec = make_folder(cache), tokenizer.build(TokenizerSpec, "tokenizer")
            load = spec.load_with_end if with_end else spec.load
            with enough_memory(dataset.name):
                self._stores[key] = open_store(corpus, load(corpus, folder), folder)
            self._corpora[key[0]] = corpus
        return corpus, self._stores[key]


def text_digests(corpus: Corpus, store: Store) -> dict[str, Any]:
    """Return the digests of a run's texts and vocabulary, kept in its config."""
    return {
        "fingerprint": store.fingerprint,
        "commit": corpus.commit,
        "tokenizer": store.tokenizer.digest,
        "vocab_size": store.tokenizer.vocab_size,
    }


@dataclass(frozen=True)
class StorePlace:
    """A store that another process of this command has verified: its folder and fingerprint."""

    folder: Path
    fingerprint: str


@dataclass(frozen=True)
class TextUnderTest:
    """A tokenised text, and what of its test split is scored."""

    store: Store
    targets: tuple[EvalTargets, ...]


@dataclass
class Texts:
    """The texts that the runs of a plan are scored on, opened at their first use.

    places: of stores that the process that started this one has verified already.
    """

    plan: RunPlan
    places: dict[Key, StorePlace] = field(default_factory=dict)
    _corpora: dict[str, Corpus] = field(default_factory=dict)
    _stores: dict[Key, Store] = field(default_factory=dict)
    _tests: dict[Key, TextUnderTest | LexpError] = field(default_factory=dict)

    def store(self, dataset: Node, tokenizer: Tokenizer) -> Store:
        """Return the tokenised texts of a data set."""
        key = digest(dataset.values), tokenizer.digest
        if key not in self._stores:
            if place := self.places.get(key):
                self._stores[key] = map_store(place.folder, place.fingerprint, tokenizer)
            else:
                with enough_memory(dataset.name):
                    store = open_store(self._corpus(dataset), tokenizer, self.plan.config.cache)
                self._stores[key] = store
                self.places[key] = StorePlace(store.folder, store.fingerprint)
        return self._stores[key]

    def test(self, dataset: Node, tokenizer: Tokenizer) -> TextUnderTest:
        """Return a data set with what is scored of it; DataError if the lengths do not fit.

        What is wrong with a text is found once, and raised for each of its runs.
        """
        key = digest(dataset.values), tokenizer.digest
        if key not in self._tests:
            try:
                store = self.store(dataset, tokenizer)
                self._tests[key] = TextUnderTest(store, self._targets(store, dataset.name))
            except LexpError as error:
                self._tests[key] = error
        found = self._tests[key]
        if isinstance(found, LexpError):
            raise found
        return found

    def _targets(self, store: Store, dataset: str) -> tuple[EvalTargets, ...]:
        plan, tokens = self.plan, store.splits["test"]
        if min(plan.lengths) < 2:
            raise ConfigError(f"lengths: 1 (of texts: whole numbers from 2; {dataset} has texts)")
        if not len(tokens.lengths):
            raise DataError(f"dataset.test: {dataset} has no test documents; name some there")
        try:
            return tuple(
                EvalTargets(
                    protocol, plan.lengths, protocol.spans(tokens, plan.lengths, plan.max_tokens)
                )
                for protocol in plan.protocols
            )
        except DataError as error:
            raise DataError(f"lengths: test split of {dataset}: {error}") from None

    def remarks(self, test: Store, dataset: Node, trained_on: str, vocabulary: str) -> list[str]:
        """Return what a user should know of a test split, and of its documents in training.

        trained_on: fingerprint of a run's texts; "" if nobody knows them. vocabulary: its name.
        """
        lines = [*self._corpus(dataset).notes(), *remarks(test, vocabulary, ("test",))]
        trained: np.ndarray | None = test.facts["train"].hashes
        if trained_on != test.fingerprint:
            folder = store_folder(self.plan.config.cache, trained_on, test.tokenizer)
            trained = stored_hashes(folder, "train") if trained_on else None
        if trained is not None:
            lines += common_documents(test, "test", trained, "the run's dataset.train")
        return lines

    def _corpus(self, dataset: Node) -> Corpus:
        key = digest(dataset.values)
        if key not in self._corpora:
            self._corpora[key] = make_corpus(dataset, self.plan.config.cache)
        return self._corpora[key]
