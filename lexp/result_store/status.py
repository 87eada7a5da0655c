"""Statuses: what became of a computation, and which outcomes are worth another try."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from lexp.system.errors import NotDefined
from lexp.system.runtime import catch_out_of_memory

OK, NOT_DEFINED, NOT_FINITE, OUT_OF_MEMORY = "ok", "not defined", "not finite", "out of memory"
# What is asked could not be read or asked: data out of reach, an error in somebody's code.
FAILED = "failed"
STATUSES = (OK, NOT_DEFINED, NOT_FINITE, OUT_OF_MEMORY, FAILED)
# Never stored: of a record whose arrays are not the ones that were written.
DAMAGED = "damaged"

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """The value of a computation, or its status and the reason why there is no value."""

    value: T | None
    status: str = OK
    reason: str = ""


def worth_another_try(status: str) -> bool:
    """Return True if the same command computes a record of this status again.

    Another machine, or the same one with fewer processes, may have the memory that was missing, or
    the data that was out of reach.
    """
    return status in (OUT_OF_MEMORY, FAILED)


def attempt(compute: Callable[[], T]) -> Outcome[T]:
    """Compute a value; NotDefined and exhausted memory become statuses, other errors are raised."""
    try:
        value, missing = catch_out_of_memory(compute)
    except NotDefined as error:
        return Outcome(None, NOT_DEFINED, str(error))
    return Outcome(None, OUT_OF_MEMORY, missing) if missing else Outcome(value)
