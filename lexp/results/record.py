"""What a record is: its spec, from which its path follows, and what was measured."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from lexp.results.arrays import ArrayFile
from lexp.results.json_values import to_json
from lexp.results.status import OK
from lexp.system.files import digest

T = TypeVar("T")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """A kind of record.

    name: stands in every file. folder: within a run's folder. numerics: raised whenever a change
    of the code changes numbers, so that records of another version are computed again. key: values
    by dotted name (`run.seed`); of records that agree in all of them tables show the newest.
    parse: builds the typed result from a record; ValueError if its values have other types.
    """

    name: str
    folder: str
    numerics: int
    key: tuple[str, ...]
    parse: Callable[["Record"], T]


@dataclass(frozen=True)
class Spec(Generic[T]):
    """Everything on which a record's numbers depend.

    label: readable beginning of the file's name; numbers do not depend on it. fields: JSON values,
    everything that could change a number beside the kind's numerics.
    """

    kind: Kind[T]
    label: str
    fields: dict[str, Any]

    @property
    def content(self) -> dict[str, Any]:
        """The fields as the file holds them, with the numerics of the kind."""
        return {**to_json(self.fields), "numerics": self.kind.numerics}

    @property
    def digest(self) -> str:
        """Hex digest of the content."""
        return digest(self.content)


@dataclass(frozen=True)
class Record:
    """What was measured, as it is stored.

    spec: content of the Spec. values: JSON values, with NaN and infinities as floats. arrays: None
    where there are none. reason: why there is no number, or "". sealed: when it was written, UTC,
    ISO 8601; later records sort after earlier ones. path: of its file.
    """

    kind: str
    spec: dict[str, Any]
    values: dict[str, Any]
    arrays: ArrayFile | None
    status: str
    reason: str
    sealed: str
    path: Path

    @property
    def ok(self) -> bool:
        """Return True if there are numbers."""
        return self.status == OK

    def value(self, name: str) -> Any:
        """Return the value of a dotted name, such as `run.seed`; KeyError if there is none."""
        value: Any = self.values
        for part in name.split("."):
            value = value[part]
        return value
