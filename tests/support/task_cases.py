"""Each algorithmic task in each of its formats, with the oracle of that format."""

from functools import partial

from lexp.data.tasks.addition import HINTS, Addition
from lexp.data.tasks.base import Task
from lexp.data.tasks.bucket_sort import BucketSort
from lexp.data.tasks.copy import CopyWord
from lexp.data.tasks.cycle_navigation import CycleNavigation
from lexp.data.tasks.deduplicate import Deduplicate
from lexp.data.tasks.even_pairs import EvenPairs
from lexp.data.tasks.lego import Lego
from lexp.data.tasks.lookup import Lookup
from lexp.data.tasks.missing_duplicate import MissingDuplicate
from lexp.data.tasks.modular_addition import ModularAddition
from lexp.data.tasks.modular_arithmetic import ModularArithmetic
from lexp.data.tasks.mqar import AssociativeRecall
from lexp.data.tasks.multiplication import Multiplication
from lexp.data.tasks.parity import Parity
from lexp.data.tasks.path_star import PathStar
from lexp.data.tasks.polynomial import Polynomial
from lexp.data.tasks.reverse import Reverse
from lexp.data.tasks.scan import Scan
from lexp.data.tasks.sort import Sort
from lexp.data.tasks.stack_manipulation import StackManipulation
from lexp.data.tasks.sum_mod10 import SumMod10
from support import task_oracles as oracles

hinted = partial(oracles.hinted_addition, hints=HINTS)
SOLVED: list[tuple[Task, oracles.Solve]] = [
    (Addition(), oracles.addition),
    (Addition(reverse=True), oracles.backwards_addition),
    (Addition(pad=True), oracles.padded_addition),
    (Addition(pad=True, reverse=True), partial(oracles.padded_addition, backwards=True)),
    (Addition(operands=3), oracles.addition),
    *[
        (Addition(scratchpad=parts), partial(oracles.addition_steps, parts=parts))
        for parts in ("iov", "cr", "icovr")
    ],
    (Addition(operands=12, pad=True), oracles.padded_addition),
    (Addition(hints=True), hinted),
    (Addition(hints=True, reverse=True), partial(hinted, backwards=True)),
    (Addition(hints=True, reverse=True, pad=True), partial(hinted, backwards=True, padded=True)),
    (Multiplication(), oracles.multiplication),
    (Multiplication(reverse=True), partial(oracles.multiplication, backwards=True)),
    (Multiplication(pad=True), partial(oracles.multiplication, padded=True)),
    (Multiplication(modulus=100), partial(oracles.multiplication, modulus=100)),
    (ModularAddition(), partial(oracles.modular_addition, modulus=100)),
    (ModularAddition(101), partial(oracles.modular_addition, modulus=101)),
    (
        ModularAddition(11, reverse=True),
        partial(oracles.modular_addition, modulus=11, backwards=True),
    ),
    (CopyWord(), oracles.copy),
    (CopyWord(times=2), partial(oracles.copy, times=2)),
    (CopyWord(one_letter=True), oracles.one_letter),
    (Reverse(), oracles.reverse),
    (Reverse(then_copy=True), partial(oracles.reverse, then_copy=True)),
    (Sort(), oracles.sort_symbols),
    (Sort(digits=2), oracles.sort_numbers),
    (Sort(scratchpad="icor"), partial(oracles.sort_steps, parts="icor", comma="")),
    (Sort(digits=2, scratchpad="ir"), partial(oracles.sort_steps, parts="ir", comma=",")),
    (SumMod10(), oracles.sum_mod10),
    *[
        (SumMod10(parts), partial(oracles.sum_mod10_steps, parts=parts))
        for parts in ("i", "cv", "icovr")
    ],
    (Parity(), oracles.parity),
    (Parity(scratchpad=True), oracles.parities),
    (Parity(scratchpad="icovr"), partial(oracles.parity_steps, parts="icovr")),
    (Polynomial(), oracles.polynomial),
    *[
        (Polynomial(parts), partial(oracles.polynomial_steps, parts=parts))
        for parts in ("o", "icovr")
    ],
    (Lego(), oracles.lego),
    (Lego(shuffle=True), oracles.lego),
    *[
        (Lego(shuffle, parts), partial(oracles.lego_steps, parts=parts))
        for shuffle, parts in ((False, "icor"), (True, "cr"))
    ],
    (PathStar(), partial(oracles.path_star, arms=3)),
    (PathStar(arms=2), partial(oracles.path_star, arms=2)),
    (EvenPairs(), oracles.even_pairs),
    (ModularArithmetic(), oracles.modular_arithmetic),
    (CycleNavigation(), oracles.cycle_navigation),
    (BucketSort(), oracles.sort_symbols),
    (MissingDuplicate(), oracles.missing_duplicate),
    (StackManipulation(), oracles.stack_manipulation),
    (AssociativeRecall(), oracles.mqar),
    (AssociativeRecall(queries=2), partial(oracles.mqar, queries=2)),
    (AssociativeRecall(queries=1, key_letters=2), partial(oracles.mqar, queries=1, key_letters=2)),
    (Scan(), oracles.scan),
    (Deduplicate(), oracles.deduplicate),
]
TASKS = [*(task for task, _ in SOLVED), Lookup()]
