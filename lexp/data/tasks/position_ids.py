"""Rules from the tokens of a task's rows to positions, for lexp.position.TokenPositions.

Abacus: a digit's place within its number, from 1; other tokens have none. Numbers have their last
digit first, so that digits of the same significance have the same position (McLeish et al. 2024,
arXiv 2405.17399, section 3; released code mcleish7/arithmetic 55af9d5, abacus.py).

Coupled: tokens that belong together have the same position (Cho et al. 2024, arXiv 2405.20671,
sections 3 and 5; released code HanseulJo/position-coupling 01dd272, src/data/), with s = 1:

| task | the problem's tokens | operators, `=` | the answer's tokens |
| --- | --- | --- | --- |
| addition, reverse | digit of significance m: s + 1 + m | s | digit of significance m: s + 1 + m |
| multiplication, reverse | as in addition | s | as in addition |
| addition, pad | its digit n of L: s + n | s + L + 1 | its digit n of L + 1: s + n - 1 |
| copy | its letter n: s + n | s | its letter n: s + n |
| reverse | its letter n of N: s + n - 1 | s + N | its letter n: s + N - n |
| parity, scratchpad | its bit n: s + n - 1 | s | its bit n: s + n |

n counts from 1. Their numbers are padded and only the answer is reversed; `reverse` here has all
numbers reversed and positions as in a mirror. A position depends on the tokens up to it, so that
an answer is scored in one pass as it would be written. So the positions of unpadded numbers with
their first digit first are not defined: the end of a number would decide about its beginning. Nor
are those of padded products: the product has twice the digits, so the first digit of a number would
have a position that depends on how many follow.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from lexp.data.tasks.addition import Addition
from lexp.data.tasks.base import Task
from lexp.data.tasks.copy import CopyWord
from lexp.data.tasks.multiplication import Multiplication
from lexp.data.tasks.parity import Parity
from lexp.data.tasks.reverse import Reverse

EQUALS = ord("=")
# Sums of so many numbers have at most one digit more than the longest of them.
MOST_OPERANDS = 10


class Abacus:
    """The place of each digit in its number, of tasks whose numbers have their last digit first."""

    def __init__(self, task: Task):
        if getattr(task, "reverse", None) is not True or getattr(task, "hints", False):
            raise ValueError(
                f"abacus: {task.label} has no numbers with their last digit first; use a task of "
                "numbers with reverse=true and without hints"
            )

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the positions of tokens [B, T]."""
        return index_in_run(_are_digits(tokens))


class Coupled:
    """The same position for the tokens of problem and answer that belong together."""

    def __init__(self, task: Task):
        self.rule = _coupling(task)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the positions of tokens [B, T]."""
        return self.rule(tokens)


def _coupling(task: Task) -> Callable[[Tensor], Tensor]:
    """Return the rule of a task; ValueError for a task or a format that has none."""
    if isinstance(task, Addition) and not task.hints and task.operands <= MOST_OPERANDS:
        if task.reverse:
            return _of_reversed_numbers
        if task.pad:
            return _of_padded_sums
    if isinstance(task, Multiplication) and task.reverse and task.modulus is None:
        return _of_reversed_numbers
    if isinstance(task, CopyWord) and task.times == 1:
        return _of_copies
    if isinstance(task, Reverse) and not task.then_copy:
        return _of_reversals
    if isinstance(task, Parity) and task.scratchpad is True:
        return _of_running_parities
    raise ValueError(
        f"coupled: {task.label} has no coupled positions; they are defined for addition with "
        f"reverse=true or pad=true, without hints and with up to {MOST_OPERANDS} operands, "
        "multiplication with reverse=true and without modulus, copy with times=1, reverse without "
        "then_copy, and parity with scratchpad=true"
    )


def _of_reversed_numbers(tokens: Tensor) -> Tensor:
    index = index_in_run(_are_digits(tokens))
    return (index + 1).where(index > 0, _are_operators(tokens).long())


def _of_padded_sums(tokens: Tensor) -> Tensor:
    index = index_in_run(_are_digits(tokens))
    of_problem = (index + 1).where(index > 0, 0)
    of_operators = (_before(index) + 2).where(_are_operators(tokens), of_problem)
    return index.where(_follow_equals(tokens), of_operators)


def _of_copies(tokens: Tensor) -> Tensor:
    index = index_in_run(_are_letters(tokens))
    return (index + 1).where(index > 0, (tokens == EQUALS).long())


def _of_reversals(tokens: Tensor) -> Tensor:
    index = index_in_run(_are_letters(tokens))
    equals = tokens == EQUALS
    n_letters = _before(index).where(equals, 0).cummax(1).values  # of the problem, from `=` on
    of_answer = (n_letters + 1 - index).clamp(min=0).where(index > 0, 0)
    return of_answer.where(_follow_equals(tokens), (_before(index) + 1).where(equals, index))


def _of_running_parities(tokens: Tensor) -> Tensor:
    index = index_in_run(_are_digits(tokens))
    of_answer = (index + 1).where(index > 0, 0)
    return of_answer.where(_follow_equals(tokens), index.where(tokens != EQUALS, 1))


def index_in_run(members: Tensor) -> Tensor:
    """Return the place, from 1, of each member in its run of members; 0 elsewhere. [B, T]."""
    places = torch.arange(1, members.shape[1] + 1, device=members.device).expand(members.shape)
    last_other = places.masked_fill(members, 0).cummax(1).values
    return places - last_other


def _are_digits(tokens: Tensor) -> Tensor:
    return (tokens >= ord("0")) & (tokens <= ord("9"))


def _are_letters(tokens: Tensor) -> Tensor:
    return (tokens >= ord("a")) & (tokens <= ord("z"))


def _are_operators(tokens: Tensor) -> Tensor:
    return (tokens == ord("+")) | (tokens == ord("*")) | (tokens == EQUALS)


def _follow_equals(tokens: Tensor) -> Tensor:
    equals = tokens == EQUALS
    return (equals.cumsum(1) > 0) & ~equals


def _before(values: Tensor) -> Tensor:
    """Return each token's value of the token before it; 0 for the first."""
    return pad(values, (1, 0))[:, :-1]
