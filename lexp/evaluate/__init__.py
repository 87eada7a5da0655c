"""Evaluation: the losses of trained models on long texts, each computed once and stored."""

from lexp.evaluate.fit import Fit, frozen, make_fit, make_loss, steps_left
from lexp.evaluate.model_under_test import (
    LAST,
    FitText,
    Method,
    ModelIdentity,
    ModelUnderTest,
    RunInfo,
    methods_for,
    model_spec,
    text_names,
)
from lexp.evaluate.prepare import fit_ahead, prepare, prepare_unfitted, refuse_beyond, under_method
from lexp.evaluate.result import COLUMNS, EVALUATIONS, STEP, EvalResult, eval_spec
from lexp.evaluate.run import depends_on_length, evaluate
from lexp.evaluate.targets import EvalTargets, ScoredText
from lexp.evaluate.task_result import TASKS, TaskResult
from lexp.evaluate.task_run import TaskCase, TaskTargets, evaluate_task

__all__ = [
    "COLUMNS",
    "EVALUATIONS",
    "LAST",
    "STEP",
    "TASKS",
    "EvalResult",
    "EvalTargets",
    "Fit",
    "FitText",
    "Method",
    "ModelIdentity",
    "ModelUnderTest",
    "RunInfo",
    "ScoredText",
    "TaskCase",
    "TaskResult",
    "TaskTargets",
    "depends_on_length",
    "eval_spec",
    "evaluate",
    "evaluate_task",
    "fit_ahead",
    "frozen",
    "make_fit",
    "make_loss",
    "methods_for",
    "model_spec",
    "prepare",
    "prepare_unfitted",
    "refuse_beyond",
    "steps_left",
    "text_names",
    "under_method",
]
