"""The classes of a stored record: its spec, from which its path follows, and its values."""

import operator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from lexp.result_store.arrays import ArrayFile
from lexp.result_store.json_values import from_json, to_json
from lexp.result_store.status import OK
from lexp.system.files import digest


@dataclass(frozen=True, kw_only=True)
class Result:
    """The fields that every result has; a subclass adds the values of its record.

    reason: why there is no number, or "". arrays: None where there are none, or not yet. weights:
    digest of the checkpoint that was measured, known once the result is read back.
    """

    status: str = OK
    reason: str = ""
    arrays: ArrayFile | None = None
    weights: str = ""

    @property
    def ok(self) -> bool:
        """Return True if there are numbers, all of them finite."""
        return self.status == OK

    @property
    def failure(self) -> str:
        """Return the status with its reason, or "" where there are numbers."""
        if self.ok:
            return ""
        return f"{self.status} ({self.reason})" if self.reason else self.status

    def check_arrays(self) -> None:
        """Raise DataError if the arrays are not those of this result; a subclass reads them."""
        if self.arrays is not None:
            self.arrays.check()


T = TypeVar("T", bound=Result)


@dataclass(frozen=True)
class ResultKind(Generic[T]):
    """A kind of record.

    name: stands in every file. folder: within a run's folder. numerics: raised whenever a change
    of the code changes numbers, so that records of another version are computed again. result: the
    dataclass that a record's values are read into. key: values by dotted name (`run.seed`); of
    records that agree in all of them tables show the newest. Without a key tables show all.
    """

    name: str
    folder: str
    numerics: int
    result: type[T]
    key: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spec(Generic[T]):
    """Everything on which a record's numbers depend.

    label: readable beginning of the file's name; numbers do not depend on it. fields: JSON values,
    everything that could change a number beside the kind's numerics.
    """

    kind: ResultKind[T]
    label: str
    fields: dict[str, Any]

    @cached_property
    def content(self) -> dict[str, Any]:
        """Return the fields as the file holds them, with the numerics of the kind."""
        return {**to_json(self.fields), "numerics": self.kind.numerics}

    @cached_property
    def digest(self) -> str:
        """Return the hex digest of the content."""
        return digest(self.content)


@dataclass(frozen=True)
class Record:
    """A measurement as it is stored.

    spec: content of the Spec. values: JSON values, with NaN and infinities as floats. arrays: None
    where there are none. reason: why there is no number, or "". order: counts the records of the
    kind in the run's folder as they are written; the greatest is the newest, whatever clocks and
    copies make of times. sealed: when it was written, UTC, ISO 8601. path: of its file.
    """

    kind: str
    spec: dict[str, Any]
    values: dict[str, Any]
    arrays: ArrayFile | None
    status: str
    reason: str
    order: int
    sealed: str
    path: Path


def key_of(kind: ResultKind[T], result: T) -> tuple:
    """Return the values that tell a result from others of its kind."""
    return tuple(operator.attrgetter(name)(result) for name in kind.key)


def values_of(result: Result) -> dict[str, Any]:
    """Return a result's own fields as JSON values."""
    shared = {field.name for field in fields(Result)}
    names = [field.name for field in fields(result) if field.name not in shared]
    return {name: to_json(getattr(result, name)) for name in names}


def result_of(kind: ResultKind[T], record: Record) -> T:
    """Return the result in a record; ValueError names a value of another type than declared."""
    shared = {"status": record.status, "reason": record.reason}
    result = from_json(kind.result, {**record.values, **shared})
    return replace(result, arrays=record.arrays, weights=_weights(record.spec))


def _weights(spec: dict[str, Any]) -> str:
    """Return the digest of the checkpoint in a spec; "" where there is none."""
    model = spec.get("model_under_test", spec)
    return str(model.get("checkpoint", "")) if isinstance(model, dict) else ""
