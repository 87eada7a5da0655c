"""Evaluation: every cell of a study, computed once and kept."""

from lexp.evaluate.cell import (
    COLUMNS,
    LAST,
    NOT_DEFINED,
    NOT_FINITE,
    OK,
    OUT_OF_MEMORY,
    STEP,
    Cell,
    Result,
    read_cell,
)
from lexp.evaluate.run import evaluate
from lexp.evaluate.subject import (
    EvalTargets,
    Method,
    ModelUnderTest,
    cell_path,
    prepare,
    refuse_beyond,
)

__all__ = [
    "COLUMNS",
    "LAST",
    "NOT_DEFINED",
    "NOT_FINITE",
    "OK",
    "OUT_OF_MEMORY",
    "STEP",
    "Cell",
    "EvalTargets",
    "Method",
    "ModelUnderTest",
    "Result",
    "cell_path",
    "evaluate",
    "prepare",
    "read_cell",
    "refuse_beyond",
]
