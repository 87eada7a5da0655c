"""Measures of answers to a task: those of GLUE (Wang et al. 2019, arXiv 1804.07461).

Answers and truths are arrays [n]: numbers of classes, or reals for correlations. An undefined
measure (no positive example, or one side constant) is 0, as in the benchmark's code.
"""

from collections.abc import Callable

import numpy as np


def accuracy(answers: np.ndarray, truths: np.ndarray) -> float:
    """Return the share of correct answers."""
    return float(np.mean(answers == truths))


def f1(answers: np.ndarray, truths: np.ndarray) -> float:
    """Return 2 precision recall / (precision + recall) of class 1."""
    right = float(np.sum((answers == 1) & (truths == 1)))
    claimed_or_true = float(np.sum(answers == 1) + np.sum(truths == 1))
    return 2 * right / claimed_or_true if claimed_or_true else 0.0


def matthews(answers: np.ndarray, truths: np.ndarray) -> float:
    """Return the Matthews correlation of any number of classes (Gorodkin 2004)."""
    n = len(truths)
    classes = np.union1d(answers, truths)
    answered = np.array([np.sum(answers == c) for c in classes], dtype=float)
    true = np.array([np.sum(truths == c) for c in classes], dtype=float)
    below = (n**2 - answered @ answered) * (n**2 - true @ true)
    above = np.sum(answers == truths) * n - answered @ true
    return float(above / np.sqrt(below)) if below else 0.0


def pearson(answers: np.ndarray, truths: np.ndarray) -> float:
    """Return the correlation of values."""
    from scipy import stats  # half a second to import

    if np.ptp(answers) == 0 or np.ptp(truths) == 0:
        return 0.0
    return float(stats.pearsonr(answers, truths).statistic)


def spearman(answers: np.ndarray, truths: np.ndarray) -> float:
    """Return the correlation of ranks."""
    from scipy import stats

    if np.ptp(answers) == 0 or np.ptp(truths) == 0:
        return 0.0
    return float(stats.spearmanr(answers, truths).statistic)


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
