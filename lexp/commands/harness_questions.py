"""Values of single questions behind a value of lm-evaluation-harness, to compare methods by."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.metrics import bits_per_byte, mean, perplexity, weighted_perplexity

from lexp.evaluate.harness_result import EXP_OF_MEAN, MEAN, QuestionValues

# What each aggregation of the harness is of log-likelihoods or scores: the factor of the mean of
# questions, and what the value is of that mean. Others (F1, BLEU, medians) have no such mean.
AGGREGATIONS = {
    mean: (1.0, MEAN),
    perplexity: (-1.0, EXP_OF_MEAN),
    weighted_perplexity: (-1.0, EXP_OF_MEAN),
    bits_per_byte: (-1.0 / math.log(2), MEAN),
}


def question_values(task: Any) -> dict[tuple[str, str], QuestionValues]:
    """Return the values of a measured task's questions, in order, by metric and filter.

    Left out are metrics that do not follow from a mean over questions, or that some lack.
    """
    by_question: dict[int, list[Any]] = {}
    for instance in sorted(task.instances, key=lambda one: (one.doc_id, one.idx)):
        by_question.setdefault(instance.doc_id, []).append(instance)
    scores: dict[tuple[str, str], list[Any]] = {}
    for filter_name in task.instances[0].filtered_resps:
        for asked in by_question.values():
            answers = [one.filtered_resps[filter_name] for one in asked]
            for metric, score in task.process_results(asked[0].doc, answers).items():
                scores.setdefault((metric, filter_name), []).append(score)
    found = {}
    for (metric, filter_name), of_questions in scores.items():
        factor, follows = AGGREGATIONS.get(task.aggregation().get(metric, mean), (0.0, ""))
        if follows and len(of_questions) == len(by_question):
            table = np.array([_with_size(score) for score in of_questions], dtype=np.float64)
            found[metric, filter_name] = QuestionValues(factor * table[:, 0], table[:, 1], follows)
    return found


def _with_size(score: Any) -> tuple[float, float]:
    """Return a question's score and its size: of a text its words or bytes, of others 1."""
    if isinstance(score, tuple | list):
        log_prob, size = score
        return log_prob, size
    return float(score), 1.0


def of_group(
    tasks: Sequence[Mapping[tuple[str, str], QuestionValues]], key: tuple[str, str], by_size: bool
) -> QuestionValues | None:
    """Return the values of the questions of all tasks of a group; None if one of them has none.

    by_size: every question counts alike; if not, every task does.
    """
    parts = [values[key] for values in tasks if key in values]
    if len(parts) < len(tasks) or any(part.follows != MEAN for part in parts):
        return None
    weights = [1.0 if by_size else 1.0 / part.sizes.sum() for part in parts]
    pairs = list(zip(parts, weights, strict=True))
    return QuestionValues(
        np.concatenate([part.sums * weight for part, weight in pairs]),
        np.concatenate([part.sizes * weight for part, weight in pairs]),
        MEAN,
    )
