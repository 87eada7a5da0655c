"""Records as files: one JSON object each in a run's folder, its arrays beside it.

    outputs/<study>/<run>/<kind.folder>/<label>-<digest of the spec>.json
                                        <label>-<digest of the spec>.npz

Files are written whole, arrays first, and carry digests. A damaged one is reported with a warning
and taken for absent, so that the same command computes it again. Tables show the others.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from lexp.result_store.arrays import ArrayFile, Arrays, write_arrays
from lexp.result_store.component import named_apart
from lexp.result_store.json_values import with_floats
from lexp.result_store.record import Record, Result, ResultKind, Spec, key_of, result_of, values_of
from lexp.result_store.status import DAMAGED, STATUSES, worth_another_try
from lexp.system.errors import CheckpointError, DataError
from lexp.system.files import clean, make_folder, read_sealed, write_sealed
from lexp.system.links import refuse_links
from lexp.system.output import warn
from lexp.system.text import file_stem

T = TypeVar("T", bound=Result)


def path_of(folder: Path, spec: Spec) -> Path:
    """Return where the record of a spec is in a run's folder."""
    stem = f"{file_stem(spec.label)}-{spec.digest[:8]}"
    return folder / spec.kind.folder / f"{stem}.json"


def write(folder: Path, spec: Spec[T], result: T, arrays: Arrays | None = None) -> T:
    """Write a result and its arrays into a run's folder; return it as `find` would."""
    path = path_of(folder, spec)
    make_folder(path.parent)
    order = _next_order(path.parent)
    file = None if arrays is None else write_arrays(path.with_suffix(".npz"), arrays)
    stored = {
        "kind": spec.kind.name,
        "spec": spec.content,
        "values": values_of(result),
        "arrays_sha256": None if file is None else file.sha256,
        "status": result.status,
        "reason": result.reason,
        "order": order,
        "sealed": datetime.now(UTC).isoformat(timespec="microseconds"),
    }
    write_sealed(path, stored)
    return replace(result, arrays=file)


def clean_leftovers(folder: Path, kind: ResultKind) -> None:
    """Delete what killed writers of records left in a run's folder.

    Another process that writes there at this moment writes again (`write_bytes`).
    """
    clean(folder / kind.folder, "*.json", "*.npz", "*.part")


def find(folder: Path, spec: Spec[T], read_arrays: bool = True) -> T | None:
    """Return the result of a spec, or None if it has to be computed.

    That is: it is absent or damaged, its arrays are, or its status is worth another try.
    read_arrays: False to check their digest alone, which is enough to say what is left to do.
    """
    path = path_of(folder, spec)
    record = _read_record(path, spec.kind)
    if record is None or record.spec != spec.content or worth_another_try(record.status):
        return None
    result = _parsed(record, spec.kind)
    try:
        if result is not None and read_arrays:
            result.check_arrays()
        elif result is not None and result.arrays is not None:
            result.arrays.check()
    except DataError as error:
        warn(f"{path} is left out: {error}", stacklevel=2)
        return None
    return result


def recall(folder: Path, spec: Spec[T]) -> T | None:
    """Return the result of a spec as `find` does, as the newest one of its key from now on.

    Of two requests that no table tells apart tables show the last one, whether it was computed or
    not.
    """
    result, path = find(folder, spec), path_of(folder, spec)
    if result is None:
        return None
    order, key = _order(path), key_of(spec.kind, result)
    for rival in path.parent.glob(f"{path.stem.removesuffix(spec.digest[:8])}*.json"):
        if rival == path or _order(rival) < order:
            continue
        other = read(rival, spec.kind)
        if other is not None and key_of(spec.kind, other) == key:
            write_sealed(path, {**read_sealed(path), "order": _next_order(path.parent)})
            break
    return result


def read(path: Path, kind: ResultKind[T]) -> T | None:
    """Return the result in a file; None, with a warning if it is damaged, where there is none."""
    record = _read_record(path, kind)
    return None if record is None else _parsed(record, kind)


def read_all(study: Path, kind: ResultKind[T]) -> list[T]:
    """Return all results of a kind in the runs of a study, by path."""
    return named_apart([result for _, result in _current(study, kind)])


def count_results(study: Path, kind: ResultKind) -> int:
    """Return how many results of a kind a study has, of all times."""
    return len(_paths(study, kind))


def read_newest(study: Path, kind: ResultKind[T]) -> list[T]:
    """Return the newest result of each key of a kind, in the order of keys."""
    newest: dict[tuple, tuple[tuple[int, str], T]] = {}
    for record, result in _current(study, kind):
        key = key_of(kind, result)
        place = record.order, record.sealed
        if key not in newest or newest[key][0] < place:
            newest[key] = place, result
    return named_apart([newest[key][1] for key in sorted(newest, key=str)])


def with_damage(results: Iterable[T]) -> list[T]:
    """Return results; one whose arrays are not its own has the status DAMAGED, with a warning."""
    checked = []
    for result in results:
        try:
            result.check_arrays()
        except DataError as error:
            warn(f"{error}; the command that made it makes it again", stacklevel=2)
            result = replace(result, status=DAMAGED, reason=str(error), arrays=None)
        checked.append(result)
    return checked


def _paths(study: Path, kind: ResultKind) -> list[Path]:
    """Return the files of a kind; CheckpointError for a link on the way, before it is followed."""
    paths = []
    for run in sorted(study.glob("*")):
        folder = run / kind.folder
        if os.path.lexists(folder):  # a link that leads nowhere is there too
            refuse_links(folder, CheckpointError)
            paths += sorted(folder.glob("*.json"))
    return paths


def _current(study: Path, kind: ResultKind[T]) -> Iterator[tuple[Record, T]]:
    """Yield the results of a kind in a study, but for those whose numerics are others than now."""
    n_others = 0
    for path in _paths(study, kind):
        record = _read_record(path, kind)
        if record is not None and record.spec.get("numerics") != kind.numerics:
            n_others += 1
            continue
        result = None if record is None else _parsed(record, kind)
        if record is not None and result is not None:
            yield record, result
    if n_others:
        warn(
            f"{study}: {n_others} results of kind {kind.name} are of a version of lexp with other "
            "numbers and left out; the commands that made them make them again",
            stacklevel=3,
        )


def _next_order(folder: Path) -> int:
    return 1 + max(map(_order, folder.glob("*.json")), default=0)


def _order(path: Path) -> int:
    """Return the order of a record of any kind; 0 of a file that is damaged."""
    try:
        order = read_sealed(path).get("order")
    except (OSError, ValueError):
        return 0
    return order if type(order) is int else 0


def _read_record(path: Path, kind: ResultKind) -> Record | None:
    try:
        return _record(path, read_sealed(path), kind)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        warn(f"{path} is left out: {error}", stacklevel=3)
        return None


def _parsed(record: Record, kind: ResultKind[T]) -> T | None:
    try:
        return result_of(kind, record)
    except ValueError as error:
        warn(f"{record.path} is left out: {error}", stacklevel=3)
        return None


def _record(path: Path, stored: dict[str, Any], kind: ResultKind) -> Record:
    """Return the record that a JSON object holds; ValueError if it is not one of this kind."""
    arrays_sha256 = stored.get("arrays_sha256")
    types = {"spec": dict, "values": dict, "status": str, "reason": str, "sealed": str,
             "order": int}  # fmt: skip
    if (
        stored.get("kind") != kind.name
        or not all(isinstance(stored.get(name), cls) for name, cls in types.items())
        or stored["status"] not in STATUSES
        or not isinstance(arrays_sha256, str | None)
    ):
        raise ValueError(f"not a record of kind {kind.name}")
    arrays = None if arrays_sha256 is None else ArrayFile(path.with_suffix(".npz"), arrays_sha256)
    return Record(
        kind.name, stored["spec"], with_floats(stored["values"]), arrays, stored["status"],
        stored["reason"], stored["order"], stored["sealed"], path,
    )  # fmt: skip
