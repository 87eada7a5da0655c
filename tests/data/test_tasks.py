"""Algorithmic tasks: right answers, stated lengths, longest rows, numbers of problems, settings."""

import math
import re
from collections import Counter
from functools import cache
from itertools import product

import numpy as np
import pytest

from lexp.data.tasks import lego, mqar, path_star
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
from support.task_cases import SOLVED, TASKS

LENGTHS = (1, 2, 3, 4, 8, 21)
N = 60
OF_TWO = [pair for pair in SOLVED if pair[0].n_lengths == 2]
each_solved = pytest.mark.parametrize(
    ("task", "solve"), SOLVED, ids=[task.label for task, _ in SOLVED]
)
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.label)


@cache
def draws(task: Task, length, n: int = N):
    """Return n problems of a length."""
    rng = np.random.default_rng([n, *np.atleast_1d(length)])
    return [task.sample(length, rng) for _ in range(n)]


def lengths_of(task: Task) -> list[int]:
    return [length for length in LENGTHS if length >= task.shortest]


@each_solved
def test_answers_are_right_and_problems_have_the_length_they_are_drawn_with(task, solve):
    for length in lengths_of(task):
        for prompt, answer, _ in draws(task, length):
            expected, found = solve(prompt)
            assert (prompt, answer) == (prompt, expected)
            if task.name == "modular_arithmetic":
                length = length - 1 + length % 2  # expressions have odd lengths
            if task.n_lengths == 1:
                assert found == length
            elif getattr(task, "pad", False):
                assert set(found) == {length}
            else:
                assert max(found) == length


@pytest.mark.parametrize("lengths", [(1, 4), (4, 1), (3, 3), (12, 2)])
@pytest.mark.parametrize(
    ("task", "solve"),
    OF_TWO,
    ids=[task.label for task, _ in OF_TWO],
)
def test_two_lengths_are_those_of_the_operands_in_order(task, solve, lengths):
    if getattr(task, "operands", 2) != 2:
        with pytest.raises(
            ValueError, match=r"addition: length=\(\d+, \d\) \(one number for \d+ op"
        ):
            task.sample(lengths, np.random.default_rng(0))
        return
    for prompt, answer, _ in draws(task, lengths):
        expected, found = solve(prompt)
        assert answer == expected
        assert found == ((max(lengths),) * 2 if getattr(task, "pad", False) else lengths)


@pytest.mark.parametrize(
    "task",
    [task for task, _ in OF_TWO if getattr(task, "operands", 2) == 2],
    ids=lambda task: task.label,
)
def test_some_row_of_two_lengths_is_as_long_as_the_longest(task):
    for lengths in ((1, 2), (2, 1)):
        longest = max(example.n_chars for example in draws(task, lengths, 600))
        assert longest == task.longest_pair(*lengths) <= task.longest_row(2)


@pytest.mark.parametrize("task", [Addition(pad=True), Multiplication(pad=True)], ids=repr)
def test_zeros_stand_before_the_digits_that_were_asked_for(task):
    for prompt, _, _ in draws(task, (12, 2)):
        assert re.fullmatch(r"[1-9]\d{11}[+*]0{10}[1-9]\d=", prompt)


@each_task
def test_problems_are_printable_and_end_where_the_answer_begins(task):
    for length in lengths_of(task):
        for prompt, answer, _ in draws(task, length):
            assert prompt.isascii() and answer.isascii() and (prompt + answer).isprintable()
            assert prompt.endswith("=") and len(answer) >= 1 and "=" not in answer


@each_task
def test_no_row_is_longer_than_the_longest_and_some_row_is_as_long(task):
    for length in lengths_of(task):
        assert max(example.n_chars for example in draws(task, length)) <= task.longest_row(length)
    if task.name == "scan":  # shorter answers may have longer problems
        longest = [max(e.n_chars for e in draws(task, n, 600)) for n in range(1, 9)]
        assert max(longest) == task.longest_row(8)
    else:
        assert max(e.n_chars for e in draws(task, 2, 600)) == task.longest_row(2)
    rows = [task.longest_row(length) for length in range(task.shortest, 20)]
    assert rows == sorted(rows)  # a data set takes the row of its longest problems


@pytest.mark.parametrize(
    ("task", "length", "n"),
    [
        (Addition(), 1, 100),
        (Multiplication(), 1, 100),
        (ModularAddition(7), 1, 100),
        (CopyWord(n_letters=3), 4, 81),
        (CopyWord(n_letters=3, one_letter=True), 4, 3),
        (Reverse(n_letters=5), 3, 125),
        (Sort(n_letters=4), 3, 64),
        (Sort(digits=1), 2, 100),
        (SumMod10(), 2, 81),
        (Parity(), 6, 64),
        (Polynomial(), 1, 140),
        (EvenPairs(), 5, 32),
        (ModularArithmetic(), 1, 5),
        (ModularArithmetic(), 4, 75),
        (CycleNavigation(), 4, 81),
        (BucketSort(n_digits=3), 4, 81),
        (MissingDuplicate(), 5, 16),
        (MissingDuplicate(), 6, 48),
        (StackManipulation(), 1, 2),
        (StackManipulation(), 4, 2 * 27 + 4 * 9 + 8 * 3),
        (Deduplicate(), 1, 30),
        (Deduplicate(), 2, 810),
        (Lookup(), 2, 288),
    ],
    ids=repr,
)
def test_all_problems_of_a_short_length_occur_and_their_number_is_known(task, length, n):
    found = {example.prompt for example in draws(task, length, 15 * n)}
    assert task.n_problems(length) == len(found) == n


def test_number_of_problems_with_few_names(monkeypatch):
    for module, names in ((path_star, "NODES"), (lego, "VARIABLES"), (mqar, "KEYS")):
        monkeypatch.setattr(module, names, "abcd")
    monkeypatch.setattr(mqar, "DIGITS", "01")
    counts = {
        (PathStar(arms=2), 2): 4 * (3 * 2) * 2,  # start; leaf and other leaf; order of edges
        (PathStar(arms=3), 2): 4 * 3 * 6,  # start; leaf, the others in any order; order of edges
        (Lego(), 2): (4 * 3) * 4,
        (Lego(), 4): (4 * 3 * 2 * 1) * 16 * 2,  # names; signs; one of the last two is asked for
        (Lego(shuffle=True), 2): (4 * 3) * 4 * 2,
        (AssociativeRecall(queries=1), 2): (4 * 3)
        * 4
        * 2,  # keys; values; the key that is asked for
        (AssociativeRecall(queries=3), 2): (4 * 3) * 4 * 2,  # both keys in either order
    }
    for (task, length), n in counts.items():
        rng = np.random.default_rng(length)
        found = {task.sample(length, rng).prompt for _ in range(15 * n)}
        assert (task, task.n_problems(length), len(found)) == (task, n, n)
    monkeypatch.setattr(path_star, "NODES", "abcde")
    assert PathStar(arms=2).n_problems(3) == (5 * 4 * 3 * 2 * 1) * (4 * 3 * 2 * 1)


def test_number_of_sums_by_counting_them():
    numbers = range(100)
    pairs = Counter(max(len(f"{a}"), len(f"{b}")) for a, b in product(numbers, repeat=2))
    for task in (Addition(), Multiplication(), ModularAddition(101)):
        assert {n: task.n_problems(n) for n in (1, 2)} == pairs
    triples: Counter[int] = Counter()
    for three in product(Counter(len(f"{n}") for n in numbers).items(), repeat=3):
        triples[max(length for length, _ in three)] += math.prod(count for _, count in three)
    assert {n: Addition(operands=3).n_problems(n) for n in (1, 2)} == triples
    assert Addition(hints=True).n_problems(1) == 100  # whatever the hints


def test_scan_is_the_published_grammar_and_split():
    task = Scan()
    drawn = Counter(len(oracles.scan(f"{command}=")[0]) for command in oracles.grammar_of_scan())
    assert {n: task.n_problems(n) for n in drawn} == drawn
    assert sum(drawn.values()) == 20910
    assert sum(n for length, n in drawn.items() if length <= 22) == 16990
    assert sorted(length for length in drawn if length > 22) == [
        24,
        25,
        26,
        27,
        28,
        30,
        32,
        33,
        36,
        40,
        48,
    ]
    with pytest.raises(ValueError, match=r"scan: no command has 23 actions \(but 1, 2, 3"):
        task.sample(23, np.random.default_rng(0))


@each_task
def test_problems_beyond_counting(task):
    limited = {"lego": 52, "path_star": 20, "mqar": 52, "scan": 48}.get(task.name, 2000)
    length = 81 if getattr(task, "hints", False) else limited
    n = task.n_problems(length)
    assert isinstance(n, float) and n >= 20
    assert len(draws(task, length, 1)[0].prompt) >= length - 1 or task.name == "scan"
    if length == 2000 and not getattr(task, "one_letter", False):
        assert n > 1e300  # math.inf where a float holds no more


def test_lookup_uses_the_same_tables_in_all_problems():
    """Read the tables from some problems and solve others with them."""
    tables: dict[str, dict[str, str]] = {}
    for length in (8, 21):
        for prompt, answer, _ in draws(Lookup(), length):
            value, names = re.fullmatch(r"([0-7]):([a-f]+)=", prompt).groups()
            assert len(names) == len(answer) == length
            for name, after in zip(names, answer, strict=True):
                assert tables.setdefault(name, {}).setdefault(value, after) == after
                value = after
    assert [sorted(table.values()) for table in tables.values()] == [list("01234567")] * 6
    own, other = (task.sample(21, np.random.default_rng(0)) for task in (Lookup(), Lookup(1)))
    assert own.prompt == other.prompt and own.answer != other.answer


def is_uniform(values, symbols) -> bool:
    """Return True if each symbol occurs about as often: within five standard deviations."""
    counts, n = Counter(values), len(values)
    share = 1 / len(symbols)
    room = 5 * math.sqrt(n * share * (1 - share))
    return set(counts) <= set(symbols) and all(abs(counts[s] - n * share) < room for s in symbols)


@pytest.mark.parametrize("task", [Addition(), Multiplication(), ModularAddition(101)], ids=repr)
def test_operands_are_drawn_by_length_and_evenly_within_it(task):
    operands = [re.findall(r"\d+", example.prompt) for example in draws(task, 5, 3000)]
    lengths = [tuple(map(len, pair)) for pair in operands]
    # One operand is the longest, each as likely; the other has 1 to 5 digits, each as likely.
    assert is_uniform(
        [first < second for first, second in lengths if first != second], [True, False]
    )
    assert is_uniform([min(pair) for pair in lengths], [1, 2, 3, 4, 5])
    longest = [text for pair in operands for text in pair if len(text) == 5]
    assert is_uniform([text[0] for text in longest], "123456789")
    assert all(is_uniform([text[place] for text in longest], "0123456789") for place in (1, 4))
    assert is_uniform([text for pair in operands for text in pair if len(text) == 1], "0123456789")


def test_symbols_hints_and_questions_are_drawn_evenly():
    words = [example.prompt[:-1] for example in draws(CopyWord(), 8, 1500)]
    assert is_uniform("".join(words), "abcdefghijklmnopqrstuvwxyz")
    hints = [example.prompt[0] for example in draws(Addition(hints=True, pad=True), 40, 1500)]
    assert is_uniform(hints, HINTS[1 : 1 + 82 - 40])  # the first is that of the carry alone
    chains = [example.prompt.split(";") for example in draws(Lego(), 8, 1500)]
    places = [[c[0] for c in chain].index(chain[-1][0]) for chain in chains]
    assert is_uniform(places, [4, 5, 6, 7])
    assert is_uniform([example.answer for example in draws(Lego(), 8, 1500)], ["+1", "-1"])
    for task in (Parity(), EvenPairs(), MissingDuplicate()):
        assert is_uniform([example.answer for example in draws(task, 8, 1500)], "01")
    assert is_uniform(
        [len(e.prompt.rstrip("-ab=")) for e in draws(StackManipulation(), 8, 1500)], range(1, 8)
    )
    stars = [example.prompt.split("/") for example in draws(PathStar(), 4, 1500)]
    assert is_uniform([edges.index(query[1]) // 3 for edges, query in stars], range(9))
    alphabets = (
        (Reverse(), "abcdefghijklmnopqrstuvwxyz"), (Sort(), "abcdefghijklmnopqrstuvwxyz"),
        (Parity(), "01"), (EvenPairs(), "01"), (CycleNavigation(), "+-0"), (BucketSort(), "01234"),
        (SumMod10(), "123456789"), (ModularArithmetic(), "01234"), (ModularArithmetic(), "+-*"),
    )  # fmt: skip
    for task, symbols in alphabets:
        text = "".join(example.prompt for example in draws(task, 9, 400))
        assert is_uniform([symbol for symbol in text if symbol in symbols], symbols), task
    polynomials = "".join(
        f"+{e.prompt.split(':')[1]}".replace("+-", "-") for e in draws(Polynomial(), 9, 400)
    )
    assert is_uniform(
        re.findall(r"[+-]\d", polynomials), ["-3", "-2", "-1", "+0", "+1", "+2", "+3"]
    )
    assert is_uniform(re.findall(r"x(\d)", polynomials), "0123")
    assert is_uniform(
        [e.prompt.split(":")[0] for e in draws(Polynomial(), 9, 400)],
        [f"x={x}" for x in range(-2, 3)],
    )
    assert is_uniform(
        re.findall(r"[a-z](\d)", "".join(e.prompt for e in draws(AssociativeRecall(), 9, 400))),
        "0123456789",
    )
    commands = [example.prompt for example in draws(Scan(), 1, 1500)]
    assert is_uniform(commands, ["walk=", "look=", "run=", "jump=", "turn left=", "turn right="])
