"""Training on tasks: rows and their loss, which problems are drawn, settings that follow."""

import json
import re
from collections import Counter
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from numpy.random import default_rng

from lexp.attention import RowLayout, WithinDocuments, fold_documents, make_attend
from lexp.commands.train import check, train
from lexp.data.tasks.addition import Addition
from lexp.data.tasks.copy import CopyWord
from lexp.data.tasks.dataset import TEST_SHARE, TaskDataset, held_out_examples, is_tested
from lexp.data.tasks.lego import Lego
from lexp.data.tasks.mqar import AssociativeRecall
from lexp.data.tasks.parity import Parity
from lexp.data.tasks.path_star import PathStar
from lexp.data.tasks.rows import first_fit, make_rows
from lexp.model.chunked_cross_entropy import IGNORED, head_loss
from lexp.pattern import Full
from lexp.system.errors import ConfigError
from lexp.training.batches import PackedTaskBatches, TaskBatches
from lexp.training.objective import Batch
from support.config import TINY, compose
from support.training import interrupt_after, result_of

SMALL = (*TINY[:5], "tokens=2000", "batch_tokens=100", "save_every=7", "eval_every=10",
         "eval_tokens=64", "precision=float32", "device=cpu", "dataset=copy",
         "dataset.max_length=4")  # fmt: skip


def small(outputs, *overrides: str):
    return compose("train", *SMALL, f"outputs={outputs}", *overrides)


def model_of(name: str):
    from lexp.commands.run_parts import make_model

    torch.manual_seed(0)
    return make_model(check(small("none", f"model={name}")), 256).double()


def test_rows_are_prompt_answer_end_token_and_padding():
    dataset = TaskDataset(CopyWord(), max_length=3)
    batch = TaskBatches(dataset, 8, seed=1, n_steps=5).batch(2)
    inputs, targets = batch.tensors
    assert dataset.train_len == 8 and inputs.shape == targets.shape == (8, 8)
    examples = sorted(dataset.training_examples(1, 2, 5, 8), key=lambda example: example.n_chars)
    for row, wanted, example in zip(inputs.tolist(), targets.tolist(), examples, strict=True):
        text = [*f"{example.prompt}{example.answer}".encode(), 0]
        assert row == [*text, *[0] * 8][:8]
        # Token t is predicted at t - 1, from the first of the answer to the end token.
        first, last = len(example.prompt) - 1, len(text) - 1
        assert [n for n, target in enumerate(wanted) if target != IGNORED] == [*range(first, last)]
        assert wanted[first:last] == text[first + 1 :]
    assert batch.n_targets == sum(len(example.answer) + 1 for example in examples)


def test_micro_batches_are_no_longer_than_their_longest_row():
    dataset = TaskDataset(CopyWord(), max_length=20)  # rows of 3 to 41 characters, train_len 42
    batch = TaskBatches(dataset, 48, seed=1, n_steps=5).batch(0)
    examples = dataset.training_examples(1, 0, 5, 48)
    lengths = sorted(len(example.prompt + example.answer) for example in examples)
    shortest, longest = (part.tensors for part in batch.parts(2))
    assert shortest[0].shape == (24, -(-lengths[23] // 8) * 8) and lengths[23] < 30
    assert longest[0].shape == (24, 42)  # 41 and no multiple of 8, but there are no more tokens
    targets = [int((part[1] != IGNORED).sum()) for part in (shortest, longest)]
    assert sum(targets) == batch.n_targets and targets[0] < targets[1]
    # At most eight lengths occur, however long rows are.
    long = TaskBatches(TaskDataset(CopyWord(), max_length=400), 200, seed=1, n_steps=5).batch(0)
    assert {part.tensors[0].shape[1] for part in long.parts(200)} == {
        104 * n for n in range(1, 8)
    } | {802}
    # Texts are no rows of a task: nothing is cut.
    assert [part.tensors[0].shape for part in Batch((torch.zeros(4, 9),), 36).parts(2)] == [
        (2, 9)
    ] * 2


def test_a_step_is_the_same_however_many_micro_batches_it_has(tmp_path):
    losses = []
    for words in (["accumulation=1"], ["accumulation=5"]):
        config = small(
            tmp_path, "dataset.max_length=12", "batch_tokens=520", "tokens=10400", *words
        )
        train(config)
        lines = (folder_of_task(config) / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines if '"loss"' in line])
    assert len(losses[0]) == 20 and losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[0][-1] < losses[0][0] - 0.1


@pytest.mark.parametrize("name", ["rope", "alibi", "gla"])
def test_the_loss_is_that_of_answers_alone_whatever_stands_beside_a_row(name):
    model = model_of(name)
    examples = TaskDataset(CopyWord(), max_length=4).training_examples(0, 0, 1, 6)

    def loss(chosen, n_tokens):
        rows = make_rows(chosen, n_tokens + 1)
        targets = rows.tokens[:, 1:].masked_fill(~rows.is_answer[:, 1:], IGNORED)
        attend = make_attend(Full(), n_tokens, model.schemes, torch.device("cpu"))
        return float(model.loss(rows.tokens[:, :-1], targets, attend).detach()), rows, attend

    together, rows, attend = loss(examples, 10)
    alone = [loss([example], 10)[0] for example in examples]
    assert together == pytest.approx(sum(alone), rel=1e-12)
    assert loss(examples, 25)[0] == pytest.approx(together, rel=1e-12)  # more padding
    logits = model.head(model.hidden(rows.tokens[:, :-1], attend)).log_softmax(-1)
    by_hand = 0.0
    for n, example in enumerate(examples):
        text = [*f"{example.prompt}{example.answer}".encode(), 0]
        places = range(len(example.prompt), len(text))
        by_hand -= sum(float(logits[n, t - 1, text[t]]) for t in places)
    assert together == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("name", ["rope", "t5", "learned", "gla"])
def test_problems_that_share_a_row_have_the_loss_and_gradients_of_padded_rows(name):
    model = model_of(name)
    dataset = TaskDataset(CopyWord(), max_length=4)  # rows of 3 to 9 characters, train_len 10
    sizes = dataset, 24, 1, 5
    padded, packed = TaskBatches(*sizes).batch(2), PackedTaskBatches(*sizes).batch(2)
    assert len(packed.tensors[0]) < 0.8 * 24 and packed.n_targets == padded.n_targets

    @cache
    def attend_at(length):
        return make_attend(Full(), length, model.schemes, torch.device("cpu"))

    documents = fold_documents(packed.starts)
    layout = RowLayout(documents=documents)
    losses = [
        model.loss(*padded.tensors, attend_at(dataset.train_len)),
        model.loss(*packed.tensors, WithinDocuments(attend_at, documents), layout),
    ]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    theirs, ours = (torch.autograd.grad(loss, list(model.parameters())) for loss in losses)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_packed_rows_hold_each_problem_once_and_divide_into_equal_parts():
    dataset = TaskDataset(Addition(), max_length=6)
    batch = PackedTaskBatches(dataset, 40, seed=1, n_steps=5, n_parts=6).batch(3)
    (inputs, targets), starts = batch.tensors, batch.starts
    assert inputs.shape[1] == dataset.train_len and len(inputs) % 6 == 0
    found = []
    for row, wanted, begins in zip(*(t.tolist() for t in (inputs, targets, starts)), strict=True):
        firsts = [n for n, begin in enumerate(begins) if begin]
        assert firsts[:1] == [0] or (not any(row) and set(wanted) == {IGNORED})
        for first, end in zip(firsts, [*firsts[1:], len(row)], strict=False):
            text = bytes(row[first:end]).rstrip(b"\0").decode()
            prompt, answer = text[: text.index("=") + 1], text[text.index("=") + 1 :]
            found.append((prompt, answer))
            ignored = [IGNORED] * (len(prompt) - 1)
            rest = [IGNORED] * (end - first - len(text))
            assert wanted[first:end] == [*ignored, *answer.encode(), 0, *rest]
    drawn = dataset.training_examples(1, 3, 5, 40)
    assert sorted(found) == sorted((example.prompt, example.answer) for example in drawn)
    n_characters = sum(example.n_chars for example in drawn)
    assert len(inputs) <= 6 * (-(-1.1 * n_characters // (6 * dataset.train_len)) + 1)
    assert first_fit([3, 7, 5, 2, 4], 9) == [[1, 3], [2, 4], [0]]
    with pytest.raises(ValueError, match="an item of 10, room for 9"):
        first_fit([10], 9)


def test_a_packed_run_of_a_task_has_the_losses_of_a_padded_one(tmp_path, capsys):
    losses = []
    words = ("dataset.max_length=12", "batch_tokens=520", "tokens=5200")
    for more in ([], ["reading=packed", "reading.mask=document", "accumulation=2"]):
        config = small(tmp_path, *words, *more)
        train(config)
        lines = (folder_of_task(config) / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines if '"loss"' in line])
    assert len(losses[0]) == 10 and losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][-1] < losses[0][0]
    shown = capsys.readouterr().err
    assert shown.count("problems of lengths 1 to 12, packed into fewer rows") == 1


def test_ignored_rows_give_no_loss_and_no_gradient():
    torch.manual_seed(0)
    hidden = torch.randn(50, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (50,)).masked_fill(torch.rand(50) < 0.4, IGNORED)
    ours = head_loss(hidden, weight, targets, max_logits=70)
    theirs = F.cross_entropy(hidden @ weight.T, targets, ignore_index=IGNORED, reduction="sum")
    assert float(ours) == pytest.approx(float(theirs), rel=1e-12)
    for a, b in zip(torch.autograd.grad(ours, [hidden, weight]),
                    torch.autograd.grad(theirs, [hidden, weight]), strict=True):  # fmt: skip
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    (nothing,) = torch.autograd.grad(head_loss(hidden, weight, targets * 0 + IGNORED), hidden)
    assert not nothing.any()


def test_no_problem_is_trained_on_and_tested_where_a_length_has_enough():
    dataset = TaskDataset(Addition(), max_length=4)
    trained = {
        example.prompt
        for step in range(100)
        for example in dataset.training_examples(0, step, 100, 50)
    }
    for length in (2, 3, 4):  # 2: 9,900 problems and more
        tested = {example.prompt for example in held_out_examples(Addition(), length, 100, 0)}
        assert len(tested) > 80 and not tested & trained
    # Lengths with few problems are named, and shared.
    shared = TaskDataset(Parity(), max_length=12)
    (line,) = shared.notes()
    assert line == (
        "parity has few problems (2 of length 1, 4 of length 2, 8 of length 3, 16 of length 4, 32 "
        "of length 5, 64 of length 6 and 3 more lengths): test examples of these lengths occur in "
        "training"
    )
    assert {e.prompt for e in held_out_examples(Parity(), 1, 40, 0)} == {"0=", "1="}
    assert TaskDataset(CopyWord(), max_length=3).notes()[0].startswith("copy has few problems")


def test_one_problem_in_sixteen_is_kept_for_the_test():
    rng, task = default_rng(0), CopyWord()
    share = sum(is_tested(task.sample(10, rng)) for _ in range(4000)) / 4000
    assert share == pytest.approx(1 / TEST_SHARE, abs=0.012)


FORMATS = (
    Addition(), Addition(reverse=True), Addition(pad=True), Addition(hints=True),
    Addition(reverse=True, pad=True, hints=True),
)  # fmt: skip


def operands_of(prompt: str, task: Addition) -> tuple[int, ...]:
    """Read the numbers of a sum in any format, in ascending order."""
    texts = re.sub(r"[^\d+]", "", prompt).split("+")
    return tuple(sorted(int(text[::-1] if task.reverse else text) for text in texts))


def test_a_tested_sum_is_not_trained_on_in_another_format_or_order():
    trained, tested = set(), set()
    for task in FORMATS:
        dataset = TaskDataset(task, max_length=3)
        for step in range(60):
            rows = dataset.training_examples(0, step, 60, 40)
            trained |= {operands_of(row.prompt, task) for row in rows}
        for length in (2, 3):  # 5,000 and more pairs, 2400 rows of each format
            rows = held_out_examples(task, length, 100, 0)
            tested |= {operands_of(row.prompt, task) for row in rows}
    one_digit = {pair for pair in tested if max(pair) < 10}
    assert len(trained) > 2000 and len(tested) > 400 and not one_digit
    assert not tested & {pair for pair in trained if max(pair) > 9}


@pytest.mark.parametrize("task", [PathStar(), AssociativeRecall(), Lego(shuffle=True)], ids=repr)
def test_parts_in_another_order_are_the_same_problem(task):
    """Whatever the order of edges, pairs or clauses, what is asked is one text."""
    prompts, drawn = set(), [task.sample(4, default_rng(seed)) for seed in range(20)]
    for example in drawn:
        body, _, query = example.prompt.rstrip("=").rpartition(";" if task.name == "lego" else "/")
        parts, _, own = example.asked.rpartition("/" if "/" in example.asked else ";")
        assert own == query
        assert sorted(re.split("[,;]", parts)) == sorted(re.split("[,;]", body))
        prompts.add(example.prompt != f"{example.asked}=")
    assert prompts == {True, False} or task.name != "lego"
    assert len({example.asked for example in drawn}) == 20


def lengths_drawn(dataset: TaskDataset, steps, n_steps=100, n_rows=40) -> list[int]:
    return [
        len(example.answer)
        for step in steps
        for example in dataset.training_examples(3, step, n_steps, n_rows)
    ]


def test_lengths_are_drawn_as_asked():
    uniform = Counter(lengths_drawn(TaskDataset(CopyWord(), max_length=4), range(50)))
    assert set(uniform) == {1, 2, 3, 4} and min(uniform.values()) > 430  # 500 each
    balanced = TaskDataset(CopyWord(), max_length=8, draw="balanced")
    assert set(Counter(lengths_drawn(balanced, [7])).values()) == {5}
    odd = Counter(lengths_drawn(balanced, [7], n_rows=11))
    assert set(odd) == set(range(1, 9)) and set(odd.values()) == {1, 2}
    grow = TaskDataset(CopyWord(), max_length=21, draw="grow")
    reached = [max(lengths_drawn(grow, [step], n_rows=400)) for step in (0, 10, 25, 50, 99)]
    assert reached == [1, 5, 11, 21, 21]


def test_primed_training_has_a_few_problems_of_the_longer_length():
    dataset = TaskDataset(CopyWord(), max_length=3, prime_length=9, prime_examples=5)
    assert dataset.train_len == 2 * 9 + 1 + 1
    rows = [dataset.training_examples(0, step, 60, 4) for step in range(60)]
    assert all([len(e.answer) > 3 for e in row] == [True, False, False, False] for row in rows)
    primed = {row[0].prompt for row in rows}
    assert len(primed) == 5
    assert not primed & {e.prompt for e in held_out_examples(CopyWord(), 9, 400, 0)}


def test_batches_depend_on_seed_and_step_alone():
    dataset = TaskDataset(Addition(), max_length=5)

    def tokens(seed, step):
        return TaskBatches(dataset, 16, seed, 10).batch(step).tensors[0]

    assert torch.equal(tokens(0, 3), tokens(0, 3))
    assert not torch.equal(tokens(0, 3), tokens(0, 4))
    assert not torch.equal(tokens(0, 3), tokens(1, 3))


def test_a_run_of_a_task_resumes_bit_for_bit(tmp_path, monkeypatch):
    whole = small(tmp_path / "whole")
    train(whole)
    broken = small(tmp_path / "broken")
    with interrupt_after(monkeypatch, 9):
        train(broken)
    train(broken)
    assert result_of(folder_of_task(whole)) == result_of(folder_of_task(broken))
    last = [line for line in (folder_of_task(whole) / "metrics.jsonl").read_text().splitlines()
            if "validation" in line][-1]  # fmt: skip
    assert all(f"exact_match@{n}" in last for n in (2, 4, 8))


def folder_of_task(config):
    from lexp.runs.run import run_folder

    settings = check(config)
    return run_folder(settings.study_folder, settings.raw)


def test_the_context_length_and_whole_rows_follow_from_the_task():
    settings = check(small("none"))
    assert (settings.train_len, settings.batch_tokens, settings.n_steps) == (10, 100, 20)
    assert settings.raw["train_len"] == 10
    rows = check(small("none", "dataset.max_length=5", "accumulation=4"))
    assert (rows.train_len, rows.batch_tokens) == (12, 96)  # 8 rows of 12: a multiple of 4
    assert check(small("none", "batch_tokens=3")).batch_tokens == 10  # one row at least
    assert check(small("none", "train_len=10")).train_len == 10
    # A task has its own budget, unless one is given.
    plain = check(compose("train", "dataset=copy"))
    assert plain.tokens == plain.raw["dataset"]["tokens"] != plain.raw["size"]["tokens"]
    assert (plain.optim.final, plain.optim.matrices) == (0.01, "muon")
    own = check(compose("train", "dataset=copy", "optim.final=0.2", "optim.matrices=adamw")).optim
    assert (own.final, own.matrices) == (0.2, "adamw")
    for words in ([], ["dataset=sort"]):
        other = check(compose("train", *words))
        assert (other.optim.final, other.optim.matrices) == (0.1, "adamw")
    of_text = check(compose("train"))
    assert of_text.tokens == of_text.raw["size"]["tokens"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train_len=64"], "train_len=64: dataset=copy is a task, its longest training row has 10 "
                           "tokens; leave train_len out, or change dataset.max_length"),
        (["tokenizer=bpe"], "tokenizer=bpe: dataset=copy is a task, in which each character is one "
                            "token; use tokenizer=bytes"),
        (["objective=mlm"], "objective=mlm: dataset=copy is a task, which is trained with "
                            "objective=causal"),
        (["dataset.draw=often"], "dataset: draw=often (one of uniform, balanced, grow)"),
        (["dataset.max_length=0"], "dataset: max_length=0 (at least 1: copy has no shorter "
                                   "problem)"),
        (["dataset.prime_length=4"], "dataset: prime_length=4 (more than max_length=4)"),
        (["dataset.prime_examples=0"], "dataset: prime_examples=0 (at least 1)"),
        (["dataset.task.n_letters=1"], "dataset.task: n_letters=1 (from 2 to 26)"),
        (["model=learned", "model.position.max_len=9"],
         "model.position ends at 9 tokens, train_len=10"),
        (["batch_tokens=0"], "not allowed: batch_tokens=0 (at least 1)"),
        (["reading=packed"], "reading=packed: is for texts, dataset=copy is a task; add "
                             "reading.mask=document, or leave reading out"),
        (["reading=padded"],
         "reading=padded: is for texts, dataset=copy is a task; leave reading out"),
        (["reading=packed", "reading.mask=document", "model=coupled"],
         "reading.mask=document: Coupled reads the tokens of whole rows; use another model, or "
         "leave reading out"),
        (["reading=packed", "reading.mask=document", "model=random_rope"],
         "reading.mask=document: RandomPositions(RoPE) samples positions for whole rows; use "
         "another model, or leave reading out"),
        (["dataset.lr=null"],
         "dataset.lr=null: lr is taken from it; give it a value, or write lr=VALUE"),
        (["dataset.max_length=30000000"], "dataset: copy: length=30000000 (at most 100000)"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_a_task_is_refused_before_training(overrides, message):
    with pytest.raises(ConfigError) as refused:
        check(small("none", *overrides))
    assert str(refused.value) == message
