"""Settings of algorithmic tasks: what is refused, and the choices of conf/dataset."""

import re
from functools import partial
from importlib import import_module

import numpy as np
import pytest
from omegaconf import OmegaConf

from lexp.config.instantiate import build
from lexp.config.validation import read_composed_train, read_train
from lexp.data.tasks.addition import Addition
from lexp.data.tasks.bucket_sort import BucketSort
from lexp.data.tasks.copy import CopyWord
from lexp.data.tasks.dataset import TaskDataset, held_out_examples
from lexp.data.tasks.lego import Lego
from lexp.data.tasks.lookup import Lookup
from lexp.data.tasks.modular_addition import ModularAddition
from lexp.data.tasks.modular_arithmetic import ModularArithmetic
from lexp.data.tasks.mqar import AssociativeRecall
from lexp.data.tasks.multiplication import Multiplication
from lexp.data.tasks.parity import Parity
from lexp.data.tasks.path_star import PathStar
from lexp.data.tasks.reverse import Reverse
from lexp.data.tasks.scan import Scan
from lexp.data.tasks.sort import Sort
from lexp.data.tasks.sum_mod10 import SumMod10
from lexp.system.errors import ConfigError
from support import ROOT
from support.config import compose
from support.task_cases import SOLVED, TASKS

each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.label)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Addition(operands=1), r"operands=1 \(from 2 to 100\)"),
        (lambda: CopyWord(n_letters=27), r"n_letters=27 \(from 2 to 26\)"),
        (lambda: CopyWord(times=0), r"times=0 \(from 1 to 1000\)"),
        (lambda: Reverse(n_letters=1), r"n_letters=1 \(from 2 to 26\)"),
        (lambda: Sort(n_letters=0), r"n_letters=0 \(from 2 to 26\)"),
        (lambda: Sort(digits=2, n_letters=5), r"n_letters=5 with digits=2 \(numbers have no .*"),
        (lambda: Addition(operands=101), r"operands=101 \(from 2 to 100\)"),
        (lambda: CopyWord(times=10**9), r"times=1000000000 \(from 1 to 1000\)"),
        (lambda: Sort(digits=-1), r"digits=-1 \(from 0 to 9\)"),
        (lambda: ModularAddition(1), r"modulus=1 \(at least 2\)"),
        (lambda: ModularArithmetic(11), r"modulus=11 \(from 2 to 10\)"),
        (lambda: Multiplication(modulus=0), r"modulus=0 \(at least 2, or null\)"),
        (lambda: BucketSort(1), r"n_digits=1 \(from 2 to 10\)"),
        (lambda: PathStar(1), r"arms=1 \(from 2 to 61\)"),
        (lambda: AssociativeRecall(queries=0), r"queries=0 \(at least 1\)"),
        (lambda: AssociativeRecall(key_letters=3), r"key_letters=3 \(1 or 2\)"),
        (
            lambda: SumMod10("co i"),
            "scratchpad=co i .some of icovr in this order, or empty for none.",
        ),
        (lambda: SumMod10("vo"), "scratchpad=vo .some of icovr in this order, or empty for none."),
        (lambda: Parity("yes"), "scratchpad=yes .some of icovr in this order, or empty for none."),
        (
            lambda: Sort(scratchpad="icovr"),
            "scratchpad=icovr .some of icor in this order, or empty for none.",
        ),
        (lambda: Lego(False, "v"), "scratchpad=v .some of icor in this order, or empty for none."),
        (
            lambda: Addition(reverse=True, scratchpad="c"),
            "scratchpad=c with operands=2, reverse=True, pad=False, hints=False .its steps are .*"
            "leave scratchpad or the others out.",
        ),
        (lambda: Addition(operands=3, scratchpad="c"), "scratchpad=c with operands=3, .*"),
        (lambda: Lookup(-1), r"tables_seed=-1 \(at least 0\)"),
    ],
)
def test_bad_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


DATASETS = [
    (Addition(), {"max_length": 0}, "max_length=0 (at least 1: addition has no shorter problem)"),
    (Addition(), {"max_length": 10**9}, "addition: length=1000000000 (at most 4000)"),
    (Multiplication(), {"max_length": 2001}, "multiplication: length=2001 (at most 2000)"),
    (ModularAddition(), {"prime_length": 10**6}, "modular_addition: length=1000000 (at most 4000)"),
    (CopyWord(), {"max_length": 10**20}, f"copy: length={10**20} (at most 100000)"),
    (Addition(), {"draw": "typo"}, "draw=typo (one of uniform, balanced, grow)"),
    (Addition(), {"prime_length": 20}, "prime_length=20 (more than max_length=20)"),
    (Addition(), {"prime_examples": 0}, "prime_examples=0 (at least 1)"),
    (Addition(hints=True), {"max_length": 82}, "addition: length=82 with hints=true (at most 82 "),
    (Addition(hints=True), {"prime_length": 90}, "addition: length=90 with hints=true (at most"),
    (Lego(), {"max_length": 53}, "lego: length=53 (at most 52 variables)"),
    (PathStar(), {"max_length": 30}, "path_star: length=22 with arms=3 (at most 21: there are 62"),
    (AssociativeRecall(), {"max_length": 53}, "mqar: length=53 with key_letters=1 (at most 52"),
    (
        Sort(scratchpad="c"),
        {"max_length": 4001},
        "sort: length=4001 with scratchpad=c (at most 4000)",
    ),
    (
        Parity("c"),
        {"prime_length": 5000},
        "parity: length=5000 with scratchpad=c (at most 4000)",
    ),
    (Scan(), {"max_length": 24}, "scan: no command has 23 actions (but 1, 2, 3"),
]


@pytest.mark.parametrize(("task", "values", "said"), DATASETS, ids=[repr(c[1]) for c in DATASETS])
def test_lengths_that_cannot_all_be_trained_on_are_refused_at_once(task, values, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        TaskDataset(task, **values)


@pytest.mark.parametrize("task", [CopyWord(), Addition(), Multiplication()], ids=repr)
def test_no_endless_problem_is_asked(task):
    for length in (10**9, *[(3, 10**9)] * (task.n_lengths == 2)):
        with pytest.raises(ValueError, match=r"length=(3x)?1000000000 \(at most \d+\)$"):
            held_out_examples(task, length, 1, 0)
    assert len(task.sample(task.longest, np.random.default_rng(0)).prompt) > task.longest


@pytest.mark.parametrize("kind", [Addition, Sort, Lego], ids=lambda kind: kind.__name__)
def test_the_same_problems_are_tested_with_and_without_a_scratchpad(kind):
    plain, stepwise = kind(), kind(scratchpad="io")
    pairs = [held_out_examples(task, 6, 20, 0) for task in (plain, stepwise)]
    for without, steps in zip(*pairs, strict=True):
        assert without.prompt == steps.prompt
        assert steps.answer.endswith(f"|{without.answer}")
    assert TaskDataset(plain).fingerprint() != TaskDataset(stepwise).fingerprint()


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


# Choices of a task in another format than its default.
TASK_OF = {"reversed_addition": "addition"}
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
    assert node["name"] == path.stem
    assert task.name == TASK_OF.get(path.stem, path.stem) == module.__name__.rpartition(".")[2]
    given = {key: value for key, value in node["task"].items() if key != "_target_"}
    assert given == vars(task)  # every field
    assert (given == vars(type(task)())) == (path.stem not in TASK_OF)  # with its default
    for length in range(task.shortest, dataset.max_length + 1):
        assert task.sample(length, np.random.default_rng(0)).n_chars < dataset.train_len


def test_each_task_has_a_choice():
    assert {TASK_OF.get(path.stem, path.stem) for path in CONFS} == {task.name for task in TASKS}
    assert len(CONFS) == len({task.name for task in TASKS}) + len(TASK_OF)


@pytest.mark.parametrize("path", CONFS, ids=lambda path: path.stem)
def test_examples_in_docstrings_and_settings_are_right(path):
    """Every `problem=` -> `answer` is right in one of the formats that are tested above."""
    name = TASK_OF.get(path.stem, path.stem)
    solvers = [solve for task, solve in SOLVED if task.name == name]
    text = import_module(f"lexp.data.tasks.{name}").__doc__ + path.read_text()
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


@pytest.mark.parametrize(
    ("model", "parameter"),
    [("learned", "max_len"), ("fire", "train_len"), ("hope", "train_len"), ("fope", "train_len")],
)
def test_what_a_scheme_reads_of_the_training_length_is_the_tokens_of_the_longest_row(
    model, parameter
):
    """Copies of 7 letters are rows of 7 + 1 + 7 + 1 tokens."""
    config = compose("train", "dataset=copy", "dataset.max_length=7", f"model={model}")
    settings = read_composed_train(config)
    assert settings.train_len == settings.raw["model"]["position"][parameter] == 16
    assert read_train(settings.raw) == settings  # as `lexp eval` reads it from the run
    texts = read_composed_train(compose("train", f"model={model}"))
    assert texts.train_len == texts.raw["model"]["position"][parameter] == 128


def test_another_train_len_than_that_of_the_task_is_refused():
    for given in (128, 14):
        with pytest.raises(ConfigError, match=r"longest training row has 16 tokens"):
            words = ("dataset=copy", "dataset.max_length=7", f"train_len={given}")
            read_composed_train(compose("train", *words))
