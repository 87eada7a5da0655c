"""Labelled texts for fine-tuning, from your own files or from a dataset of the hub (GLUE)."""

import hashlib
import json
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from lexp.data.corpus import Split, text_field
from lexp.data.hub import Hub
from lexp.data.readers import jsonl_rows
from lexp.data.text import TextFiles
from lexp.system.errors import DataError


class LabelledExample(NamedTuple):
    """One or two texts, and their class (0, 1, ..) or number."""

    texts: tuple[str, ...]
    label: float


class LabelledDataset:
    """Rows with one or two texts and a label.

    columns: of the texts, one or two. n_classes: labels are 0 .. n_classes-1; 1: any number.
    measures: names of lexp.statistics.scores.
    """

    def __init__(self, columns: list[str], label: str, n_classes: int, measures: list[str]):
        if not 1 <= len(columns) <= 2 or n_classes < 1 or not measures:
            raise ValueError(
                f"a task has one or two columns, n_classes from 1 and measures, got {columns}, "
                f"{n_classes} and {measures}"
            )
        if len({*columns, label}) <= len(columns):
            raise ValueError(
                f"columns={columns} and label={label}: a field would be read twice; name each once"
            )
        self.columns, self.label, self.n_classes = columns, label, n_classes
        self.measures = measures

    def rows(self, split: Split) -> Iterator[tuple[str, Any]]:
        """Yield the rows of `train` or `validation`, each with its place for messages."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """Say which files that were asked for are not read, a line each."""
        return []

    def examples(self, split: Split) -> list[LabelledExample]:
        """Return the examples of a split; DataError names a row with a wrong text or label."""
        examples = [
            LabelledExample(
                tuple(text_field(row, c, where) for c in self.columns), self._label(row, where)
            )
            for where, row in self.rows(split)
        ]
        if not examples:
            raise DataError(f"task.{split} has no rows")
        return examples

    def _label(self, row: dict[str, Any], where: str) -> float:
        value: Any = row.get(self.label)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if self.n_classes == 1:
            # An integer can be beyond what a float holds.
            if number and abs(value) <= sys.float_info.max:
                return float(value)
            raise DataError(f"{where}: {self.label}={value!r}: expected a number")
        if not number or value not in range(self.n_classes):
            raise DataError(
                f"{where}: {self.label}={value!r}: expected a class from 0 to {self.n_classes - 1}"
            )
        return int(value)


class LabelledFiles(LabelledDataset):
    """Lines of .jsonl files. train, validation: a glob or a list of globs each."""

    def __init__(
        self,
        train: str | list[str],
        validation: str | list[str],
        columns: list[str],
        label: str,
        n_classes: int,
        measures: list[str],
    ):
        super().__init__(columns, label, n_classes, measures)
        self.files = TextFiles(train, validation)

    def notes(self) -> list[str]:
        """Say how many files of each glob have another type."""
        return [line.replace("dataset.", "task.", 1) for line in self.files.notes()]

    def rows(self, split: Split) -> Iterator[tuple[str, Any]]:
        """Yield the lines; files in order of their names."""
        for path in self.files.files(split):
            if path.suffix.lower() != ".jsonl":
                raise DataError(f"task.{split}: {path} is not a .jsonl file")
            try:
                for number, row in jsonl_rows(path):
                    yield f"{path}: line {number}", row
            except OSError as error:
                raise DataError(f"{path}: {error.strerror or error}") from None


class LabelledHub(LabelledDataset):
    """Rows of a dataset of the hub, or of a local folder laid out like one.

    path, config, revision: as of `dataset=hub`. train, validation: names of its splits.
    """

    def __init__(
        self,
        path: str,
        config: str | None,
        revision: str | None,
        train: str,
        validation: str,
        columns: list[str],
        label: str,
        n_classes: int,
        measures: list[str],
    ):
        super().__init__(columns, label, n_classes, measures)
        self.hub = Hub(path, config, revision, train, validation, None)

    def rows(self, split: Split) -> Iterator[tuple[str, Any]]:
        """Yield the rows in the order of the dataset."""
        yield from self.hub.rows(split)


def common_texts(train: list[LabelledExample], held_out: list[LabelledExample]) -> list[str]:
    """Say how many held-out examples have the texts of a training example."""
    learned = {example.texts for example in train}
    n_common = sum(example.texts in learned for example in held_out)
    line = f"{n_common} of {len(held_out)} examples of task.validation are in task.train too"
    return [line] * (n_common > 0)


def fingerprint(examples: list[LabelledExample]) -> str:
    """Return a hex digest of texts and labels, in order."""
    rows = hashlib.sha256()
    for example in examples:
        rows.update(json.dumps(example).encode())
    return rows.hexdigest()
