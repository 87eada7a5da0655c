"""Settings of algorithmic tasks: what is refused, and the choices of conf/dataset."""

import re
from functools import partial
from importlib import import_module

import numpy as np
import pytest
from omegaconf import OmegaConf

from lexp.config.instantiate import build
from lexp.data.tasks.addition import Addition
from lexp.data.tasks.bucket_sort import BucketSort
from lexp.data.tasks.copy import CopyWord
from lexp.data.tasks.dataset import TaskDataset
from lexp.data.tasks.lego import Lego
from lexp.data.tasks.lookup import Lookup
from lexp.data.tasks.modular_addition import ModularAddition
from lexp.data.tasks.modular_arithmetic import ModularArithmetic
from lexp.data.tasks.mqar import AssociativeRecall
from lexp.data.tasks.multiplication import Multiplication
from lexp.data.tasks.path_star import PathStar
from lexp.data.tasks.reverse import Reverse
from lexp.data.tasks.sort import Sort
from support import ROOT
from support.task_cases import SOLVED, TASKS

each_task = pytest.mark.parametrize("task", TASKS, ids=repr)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Addition(operands=1), r"operands=1 \(at least 2\)"),
        (lambda: CopyWord(n_letters=27), r"n_letters=27 \(from 2 to 26\)"),
        (lambda: CopyWord(times=0), r"times=0 \(at least 1\)"),
        (lambda: Reverse(n_letters=1), r"n_letters=1 \(from 2 to 26\)"),
        (lambda: Sort(n_letters=0), r"n_letters=0 \(from 2 to 26\)"),
        (lambda: Sort(digits=-1), r"digits=-1 \(from 0 to 9\)"),
        (lambda: ModularAddition(1), r"modulus=1 \(at least 2\)"),
        (lambda: ModularArithmetic(11), r"modulus=11 \(from 2 to 10\)"),
        (lambda: Multiplication(modulus=0), r"modulus=0 \(at least 2, or null\)"),
        (lambda: BucketSort(1), r"n_digits=1 \(from 2 to 10\)"),
        (lambda: PathStar(1), r"arms=1 \(from 2 to 61\)"),
        (lambda: AssociativeRecall(queries=0), r"queries=0 \(at least 1\)"),
        (lambda: AssociativeRecall(key_letters=3), r"key_letters=3 \(1 or 2\)"),
        (lambda: Lookup(-1), r"tables_seed=-1 \(at least 0\)"),
    ],
)
def test_bad_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


@each_task
def test_lengths_that_no_problem_has_are_refused(task):
    rng = np.random.default_rng(0)
    for length in (0, -1, task.shortest - 1):
        with pytest.raises(
            ValueError, match=rf"^{task.name}: length={length} \(at least {task.shortest}\)$"
        ):
            task.sample(length, rng)
    if task.n_lengths == 1:
        with pytest.raises(ValueError, match=rf"^{task.name}: length=\(2, 3\) \(one number\)$"):
            task.sample((2, 3), rng)
    elif getattr(task, "operands", 2) == 2:
        with pytest.raises(
            ValueError, match=rf"^{task.name}: length=\(0, 3\) \(each at least 1\)$"
        ):
            task.sample((0, 3), rng)


@pytest.mark.parametrize(
    ("task", "longest", "message"),
    [
        (Addition(hints=True), 81, r"length=82 with hints=true \(at most 82 digits in the sum"),
        (Lego(), 52, r"length=53 \(at most 52 variables\)"),
        (PathStar(), 21, r"length=22 with arms=3 \(at most 21: there are 62 names of nodes\)"),
        (PathStar(arms=2), 31, r"length=32 with arms=2 \(at most 31"),
        (AssociativeRecall(), 52, r"length=53 with key_letters=1 \(at most 52"),
        (AssociativeRecall(key_letters=2), 2704, r"length=2705 with key_letters=2 \(at most 2704"),
    ],
    ids=repr,
)
def test_lengths_beyond_the_names_that_there_are(task, longest, message):
    rng = np.random.default_rng(0)
    assert task.sample(longest, rng).n_chars <= task.longest_row(longest)
    for ask in (partial(task.sample, rng=rng), task.longest_row, task.n_problems):
        with pytest.raises(ValueError, match=f"^{task.name}: {message}"):
            ask(longest + 1)


CONFS = [
    path
    for path in sorted((ROOT / "conf" / "dataset").glob("*.yaml"))
    if "TaskDataset" in path.read_text()
]


@pytest.mark.parametrize("path", CONFS, ids=lambda path: path.stem)
def test_each_choice_names_its_task_and_all_its_fields(path):
    node = OmegaConf.to_container(OmegaConf.load(path))
    dataset = build(node, TaskDataset, "dataset")
    task = dataset.task
    module = import_module(type(task).__module__)
    assert node["name"] == task.name == path.stem == module.__name__.rpartition(".")[2]
    given = {key: value for key, value in node["task"].items() if key != "_target_"}
    assert given == vars(type(task)())  # every field with its default
    for length in range(task.shortest, dataset.max_length + 1):
        assert task.sample(length, np.random.default_rng(0)).n_chars < dataset.train_len


def test_each_task_has_a_choice():
    assert {path.stem for path in CONFS} == {task.name for task in TASKS}


@pytest.mark.parametrize("path", CONFS, ids=lambda path: path.stem)
def test_examples_in_docstrings_and_settings_are_right(path):
    """Every `problem=` -> `answer` is right in one of the formats that are tested above."""
    solvers = [solve for task, solve in SOLVED if task.name == path.stem]
    text = import_module(f"lexp.data.tasks.{path.stem}").__doc__ + path.read_text()
    text = re.sub(r"\s+", " ", text)
    examples = re.findall(r"`([^`\s|][^`]*=)`(?: ->|,| \|)+ `([^`]+)`", text)
    assert len(examples) >= 2
    for prompt, answer in examples if solvers else []:
        assert any(is_right(solve, prompt, answer) for solve in solvers), (prompt, answer)


def is_right(solve, prompt: str, answer: str) -> bool:
    """Return True if a solver reads the problem and finds the answer."""
    try:
        return solve(prompt)[0] == answer
    except (AssertionError, AttributeError, StopIteration, TypeError, ValueError, KeyError):
        return False
