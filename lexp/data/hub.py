"""Datasets of the Hugging Face hub (or a local folder laid out like one), read as documents."""

import itertools
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from lexp.data.corpus import Corpus, Document, Split, text_field
from lexp.data.hub_folder import (
    check_card,
    check_files,
    check_names,
    check_reader,
    digest_of_folder,
)
from lexp.system.errors import ConfigError, DataError, first_line
from lexp.system.files import digest, one_number


class Hub(Corpus):
    """Rows of a hub dataset, one document each.

    path, config: as in `datasets.load_dataset`. revision: branch, tag or commit; it is resolved to
    a commit at the first use, and the commit is part of the fingerprint.
    train, validation, test: hub split names, rows of one (`train[1000:2000]`), or None.
    column: the field that holds the text. max_documents: how many of each split are read, or None.
    max_tokens: a split is streamed until it has so many; None: to its end.
    reading: how training reads it unless the run says so; not read here.
    """

    def __init__(
        self,
        path: str,
        config: str | None = None,
        revision: str | None = None,
        train: str | None = "train",
        validation: str | None = "validation",
        test: str | None = "test",
        column: str = "text",
        max_documents: int | None = None,
        max_tokens: int | None = None,
        reading: dict | None = None,
    ):
        self.path, self.config, self.revision = path, config, revision
        self.splits: dict[Split, str | None] = {
            "train": train, "validation": validation, "test": test,
        }  # fmt: skip
        self.column = column
        self.max_documents, self.max_tokens = one_number(max_documents), one_number(max_tokens)
        for key in ("max_documents", "max_tokens"):
            most = getattr(self, key)
            if most is not None and (not isinstance(most, int) or most < 1):
                raise ConfigError(f"dataset.{key}={most} (a whole number from 1, or null)")
        self._failure: DataError | None = None

    @property
    def commit(self) -> str:
        """Return the commit of `revision` now; for a local folder, a digest of its files."""
        return self._commit

    @cached_property
    def _commit(self) -> str:
        folder = Path(self.path)
        if folder.is_dir():
            files = [path for path in folder.rglob("*") if path.is_file()]
            found = self.findings.about(
                ["folder"], files, lambda: {"digest": digest_of_folder(folder)}
            )
            return str(found["digest"])
        from huggingface_hub import HfApi

        try:
            info = HfApi().dataset_info(self.path, revision=self.revision, timeout=10)
        except Exception as error:
            # A full commit needs no hub to be resolved: its texts may be tokenised here already.
            self._failure = self._unreachable(error)
            if self.revision and re.fullmatch("[0-9a-f]{40}", self.revision):
                return self.revision
            raise self._failure from None
        check_names(info.card_data.to_dict() if info.card_data else {}, f"README of {self.path}")
        return str(info.sha)

    def fingerprint(self) -> str:
        """Return a digest of the dataset's commit and of every choice made from it."""
        choices = [self.config, self.splits, self.column, self.max_documents]
        if self.max_tokens is not None:
            choices.append(self.max_tokens)
        return digest([self.path if not Path(self.path).is_dir() else "", self.commit, choices])

    def documents(self, split: Split) -> Iterator[Document]:
        """Yield the rows of a split, streamed; code that the dataset ships is never run."""
        for where, row in self.rows(split):
            if text := text_field(row, self.column, where):
                # Where the data set lies is no part of a document's name.
                yield Document(where.removeprefix(f"{self.path}/"), text)

    def rows(self, split: Split) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the rows of a split unchanged, each with its place."""
        hub_split = self.splits[split]
        if hub_split is None:
            return
        name, first, stop = parse_split(hub_split)
        if self.max_documents is not None:
            most = first + self.max_documents
            stop = most if stop is None else min(stop, most)
        for number, row in enumerate(itertools.islice(self._rows(name), first, stop), first):
            yield f"{self.path}/{name}:{number}", row

    def _rows(self, name: str) -> Iterator[dict[str, Any]]:
        import datasets

        local, commit = Path(self.path).is_dir(), self.commit
        if self._failure:  # the hub's own client would try again for half a minute
            raise self._failure
        if local:
            check_card(Path(self.path))
        n_read = 0
        try:
            builder = datasets.load_dataset_builder(
                self.path, self.config, revision=None if local else commit
            )
            check_reader(type(builder), self.path)
            files = builder.config.data_files or {}
            check_files((file for some in files.values() for file in some), self.path)
            stream = builder.as_streaming_dataset(split=name)
            if stream.features is not None:
                # An image or audio of a row may name a file of elsewhere, which decoding opens.
                stream = stream.decode(False)
            for row in stream:
                yield row
                n_read += 1
        except DataError:
            raise
        except Exception as error:
            raise self._unreachable(error, f" after row {n_read - 1}" * bool(n_read)) from None

    def _unreachable(self, error: Exception, after: str = "") -> DataError:
        reason = first_line(error)
        return DataError(
            f"dataset {self.path} (config {self.config}, revision {self.revision}) "
            f"cannot be loaded{after}: {reason}"
        )


def parse_split(text: str) -> tuple[str, int, int | None]:
    """Parse `train`, `train[:1000]` or `train[1000:]` into name, first row and end row."""
    match = re.fullmatch(r"([\w.-]+)(?:\[(\d*):(\d*)\])?", text)
    if not match:
        raise DataError(f"split {text!r}: expected a name, or rows of it such as train[1000:2000]")
    name, first, stop = match.groups()
    return name, int(first or 0), int(stop) if stop else None
