"""One store for everything that is measured: evaluations, probes, analyses and fine-tunings.

Called, the package is the function `results` of `import lexp`, which has this name.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from lexp.results.arrays import ArrayFile
from lexp.results.component import (
    Component,
    code_in,
    code_in_label,
    component_of,
    component_spec,
    is_same_part,
)
from lexp.results.csv_file import append_csv, write_csv
from lexp.results.json_values import from_json
from lexp.results.record import Record, Result, ResultKind, Spec
from lexp.results.status import (
    DAMAGED,
    FAILED,
    NOT_DEFINED,
    NOT_FINITE,
    OK,
    OUT_OF_MEMORY,
    Outcome,
    attempt,
)
from lexp.results.store import (
    clean_leftovers,
    count_results,
    find,
    path_of,
    read,
    read_all,
    read_newest,
    recall,
    with_damage,
    write,
)

__all__ = [
    "DAMAGED",
    "FAILED",
    "NOT_DEFINED",
    "NOT_FINITE",
    "OK",
    "OUT_OF_MEMORY",
    "ArrayFile",
    "Component",
    "Outcome",
    "Record",
    "Result",
    "ResultKind",
    "Spec",
    "append_csv",
    "attempt",
    "clean_leftovers",
    "code_in",
    "code_in_label",
    "component_of",
    "component_spec",
    "count_results",
    "find",
    "from_json",
    "is_same_part",
    "path_of",
    "read",
    "read_all",
    "read_newest",
    "recall",
    "with_damage",
    "write",
    "write_csv",
]


class _CallablePackage(ModuleType):
    def __call__(self, *given: Any, **named: Any) -> Any:
        return import_module("lexp.commands.python").results(*given, **named)


sys.modules[__name__].__class__ = _CallablePackage
