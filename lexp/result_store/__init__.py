"""One store for everything that is measured: evaluations, probes, analyses and fine-tunings."""

from lexp.result_store.arrays import ArrayFile
from lexp.result_store.component import (
    Component,
    code_in,
    code_in_label,
    component_of,
    component_spec,
    is_same_part,
)
from lexp.result_store.csv_file import append_csv, write_csv
from lexp.result_store.json_values import from_json
from lexp.result_store.record import Record, Result, ResultKind, Spec
from lexp.result_store.status import (
    DAMAGED,
    FAILED,
    NOT_DEFINED,
    NOT_FINITE,
    OK,
    OUT_OF_MEMORY,
    Outcome,
    attempt,
)
from lexp.result_store.store import (
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
