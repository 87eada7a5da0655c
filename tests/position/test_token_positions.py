"""Positions that follow from tokens: the papers' rules, their offsets, and where they are refused.

The oracles read the printed text of a row, character by character, and know what it means.
"""

from functools import partial

import numpy as np
import pytest
import torch

from lexp.attention import make_attend
from lexp.commands.evaluate import eval_
from lexp.commands.train import check, train
from lexp.data.tasks.addition import Addition
from lexp.data.tasks.copy import CopyWord
from lexp.data.tasks.modular_addition import ModularAddition
from lexp.data.tasks.multiplication import Multiplication
from lexp.data.tasks.parity import Parity
from lexp.data.tasks.position_ids import Abacus, Coupled
from lexp.data.tasks.reverse import Reverse
from lexp.data.tasks.rows import make_rows
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Transformer
from lexp.pattern import Full
from lexp.position import Learned, RoPE, Sinusoidal, Sum, TokenPositions
from lexp.system.errors import ConfigError
from support.config import TINY, compose, refusal
from support.schemes import CPU, D_MODEL, HEAD_DIM, dims


def abacus(text: str) -> list[int]:
    """McLeish et al. 2024, section 3: the index of a digit in its number, from 1, others 0."""
    ids: list[int] = []
    for character in text:
        last = ids[-1] if ids else 0
        ids.append(last + 1 if character.isdigit() else 0)
    return ids


def coupled_sum(text: str, is_reversed: bool, s: int = 1) -> list[int]:
    """Cho et al. 2024, section 3.1: digits of one significance share a position.

    Zero-padded: the most significant digit of the answer has s, those of the operands s + 1, and so
    on to the last digits; then + and =. Reversed: the same sequence from its end.
    """
    problem, _, answer = text.partition("=")
    operands = problem.split("+")
    longest = max(map(len, operands))

    def of(significance: int) -> int:
        return s + 1 + significance if is_reversed else s + longest - significance

    def of_number(number: str) -> list[int]:
        significances = range(len(number))
        return [of(m) for m in (significances if is_reversed else reversed(significances))]

    sign = s if is_reversed else s + longest + 1
    ids = [position for number in operands for position in (*of_number(number), sign)]
    return ids + of_number(answer)


def coupled_product(text: str, s: int = 1) -> list[int]:
    """The code's multiplication with reverse_input and reverse_output: a ruler for each number.

    It lays range(s, ...) along each number, whose first place is taken by the sign before it.
    """
    ids: list[int] = []
    for number in text.replace("=", "*").split("*"):
        ids.extend(range(s, s + len(number) + 1))
    return ids[1:]


def coupled_copy(text: str, s: int = 1) -> list[int]:
    """The code's copy: = has s, and letter n of both words s + n."""
    word = text.partition("=")[0]
    letters = [s + n for n in range(1, len(word) + 1)]
    return [*letters, s, *letters]


def coupled_reversal(text: str, s: int = 1) -> list[int]:
    """The code's copy with reverse_output: positions go up to = and down again."""
    word = text.partition("=")[0]
    letters = [s + n for n in range(len(word))]
    return [*letters, s + len(word), *letters[::-1]]


def coupled_parity(text: str, s: int = 1) -> list[int]:
    """The code's parity with scratchpad: = has the first bit's position, answers the next bit's."""
    bits = text.partition("=")[0]
    return [*[s + n for n in range(len(bits))], s, *[s + 1 + n for n in range(len(bits))]]


REVERSED, PADDED = (partial(coupled_sum, is_reversed=order) for order in (True, False))
RULES = [
    (Abacus, Addition(reverse=True), abacus),
    (Abacus, Addition(operands=3, reverse=True, pad=True), abacus),
    (Abacus, Multiplication(reverse=True), abacus),
    (Abacus, ModularAddition(reverse=True), abacus),
    (Coupled, Addition(reverse=True), REVERSED),
    (Coupled, Addition(operands=10, reverse=True), REVERSED),
    (Coupled, Addition(reverse=True, pad=True), REVERSED),
    (Coupled, Addition(pad=True), PADDED),
    (Coupled, Addition(operands=10, pad=True), PADDED),
    (Coupled, Multiplication(reverse=True), coupled_product),
    (Coupled, Multiplication(reverse=True, pad=True), coupled_product),
    (Coupled, CopyWord(), coupled_copy),
    (Coupled, Reverse(), coupled_reversal),
    (Coupled, Parity(scratchpad=True), coupled_parity),
]
each_rule = pytest.mark.parametrize(
    ("kind", "task", "oracle"),
    RULES,
    ids=[f"{kind.__name__}-{task.label}" for kind, task, _ in RULES],
)


def rows_of(task, lengths=(1, 2, 3, 7, 12), n: int = 4):
    """Texts of a task and their tokens, with the end token and padding."""
    rng = np.random.default_rng(0)
    examples = [task.sample(length, rng) for length in lengths for _ in range(n)]
    n_tokens = max(example.n_chars for example in examples) + 3
    texts = [example.prompt + example.answer for example in examples]
    return texts, make_rows(examples, n_tokens).tokens


@each_rule
def test_the_position_of_every_token_is_the_papers(kind, task, oracle):
    texts, tokens = rows_of(task)
    found = kind(task)(tokens).tolist()
    for text, ids in zip(texts, found, strict=True):
        wanted = oracle(text)
        assert ids == [*wanted, *[0] * (len(ids) - len(wanted))], text


@pytest.mark.parametrize(
    ("rule", "text", "ids"),
    [
        # McLeish et al., figure 2: numbers with their last digit first.
        (Abacus(Addition(reverse=True)), "8472+946=", [1, 2, 3, 4, 0, 1, 2, 3, 0]),
        # Cho et al., figure 1: 653+049=0702 with the answer's first digit at s = 1.
        (Coupled(Addition(pad=True)), "653+049=0702", [2, 3, 4, 5, 2, 3, 4, 5, 1, 2, 3, 4]),
    ],
)
def test_worked_examples(rule, text, ids):
    assert rule(torch.tensor([[*text.encode()]]))[0].tolist() == ids


@each_rule
def test_a_position_depends_on_the_tokens_up_to_it_alone(kind, task, oracle):
    """So that one pass over problem and answer gives what writing the answer would."""
    rule, (_, tokens) = kind(task), rows_of(task)
    noise = torch.randint(0, 128, (300, 12), generator=torch.Generator().manual_seed(0))
    for rows in (tokens, noise.where(noise % 3 > 0, ord("="))):
        whole = rule(rows)
        assert whole.min() >= 0 and whole.max() <= rows.shape[1] + 1
        for n in range(1, rows.shape[1]):
            assert torch.equal(rule(rows[:, :n]), whole[:, :n])


@pytest.mark.parametrize("inner", [Learned(200, D_MODEL), Sinusoidal(D_MODEL)], ids=str)
def test_the_model_is_the_embedding_at_the_tokens_positions_values_and_gradients(inner):
    """Hidden states of a model whose embeddings have each token's row added by hand."""
    torch.manual_seed(0)
    task = Addition(reverse=True)
    texts, tokens = rows_of(task, (2, 3))
    scheme = TokenPositions(inner, Coupled(task), train_len=tokens.shape[1])
    model = Transformer(dims(), 128, [LayerEntry(lambda: scheme)]).double().eval()
    attend = make_attend(Full(), tokens.shape[1], model.schemes, CPU)
    found = model.hidden(tokens, attend)

    by_hand = []
    for text, row in zip(texts, tokens, strict=True):
        ids = [*coupled_sum(text, is_reversed=True), *[0] * len(row)][: len(row)]
        x = model.embedding(row)
        by_hand.append(
            torch.stack([inner.embed(x[t], torch.tensor(c), None) for t, c in enumerate(ids)])
        )
    x = torch.stack(by_hand)
    for block in model.blocks:
        x = block(x, model.position, attend, None)
    expected = model.norm(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    learned = [model.embedding.weight, *inner.parameters()]
    pull = torch.randn(found.shape, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((y * pull).sum(), learned) for y in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_training_row_has_one_offset_which_tokens_without_a_position_do_not_get():
    task = Addition(reverse=True)
    table = Learned(60, 1)
    table.table = torch.nn.Parameter(torch.arange(60.0)[:, None])
    scheme = TokenPositions(table, Abacus(task), train_len=40, max_offset=9)
    tokens = torch.tensor([[*b"75+8=56"]]).expand(200, -1)
    plain = torch.tensor(abacus("75+8=56"))

    def ids() -> torch.Tensor:
        return scheme.embed(torch.zeros(200, 7, 1), torch.arange(7), tokens)[..., 0].long()

    drawn = ids()
    offset = drawn[:, :1] - 1
    assert torch.equal(drawn, torch.where(plain > 0, plain + offset, 0))
    assert set(offset.flatten().tolist()) == set(range(10))  # 0 to 9, each row its own
    assert not torch.equal(ids(), drawn)
    scheme.eval()
    assert torch.equal(ids(), plain.expand(200, -1))


def test_it_is_one_of_several_schemes():
    """McLeish et al. combine Abacus with relative positions."""
    task = Addition(reverse=True)
    whole = Sum([TokenPositions(Learned(200, D_MODEL), Abacus(task), 64), RoPE(HEAD_DIM)])
    assert whole.reads_tokens and whole.max_len == 198 and whole.title == "Abacus + RoPE"
    tokens = rows_of(task, (3,))[1]
    model = Transformer(dims(), 128, [LayerEntry(lambda: whole)]).eval()
    attend = make_attend(Full(), tokens.shape[1], model.schemes, CPU)
    both = model.hidden(tokens, attend)
    whole.parts[0].inner.table.data.zero_()
    alone = Transformer(dims(), 128, [LayerEntry(lambda: RoPE(HEAD_DIM))]).eval()
    alone.load_state_dict(model.state_dict(), strict=False)
    attend_alone = make_attend(Full(), tokens.shape[1], alone.schemes, CPU)
    expected = alone.hidden(tokens, attend_alone)
    assert not torch.allclose(both, expected, atol=1e-4)
    torch.testing.assert_close(model.hidden(tokens, attend), expected)


COUPLED_FOR = (
    "; they are defined for addition with reverse=true or pad=true, without hints and with up to "
    "10 operands, multiplication with reverse=true and without modulus, copy with times=1, reverse "
    "without then_copy, and parity with scratchpad=true"
)
REVERSE_IT = "; use a task of numbers with reverse=true and without hints"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=abacus"], "abacus: addition has no numbers with their last digit first"
                           + REVERSE_IT),
        (["model=abacus", "dataset.task.reverse=true", "dataset.task.hints=true"],
         "abacus: addition-reverse-hints has no numbers with their last digit first" + REVERSE_IT),
        (["model=abacus", "dataset=copy"],
         "abacus: copy has no numbers with their last digit first" + REVERSE_IT),
        (["model=coupled"], "coupled: addition has no coupled positions" + COUPLED_FOR),
        (["model=coupled", "dataset.task.pad=true", "dataset.task.operands=11"],
         "coupled: addition-operands=11-pad has no coupled positions" + COUPLED_FOR),
        (["model=coupled", "dataset=parity", "dataset.task.scratchpad=icovr"],
         "coupled: parity-scratchpad=icovr has no coupled positions" + COUPLED_FOR),
        (["model=coupled", "dataset=multiplication", "dataset.task.pad=true"],
         "coupled: multiplication-pad has no coupled positions" + COUPLED_FOR),
        (["model=coupled", "dataset=multiplication", "dataset.task.reverse=true",
          "dataset.task.modulus=101"],
         "coupled: multiplication-reverse-modulus=101 has no coupled positions" + COUPLED_FOR),
        (["model=coupled", "dataset=sort"],
         "coupled: sort has no coupled positions" + COUPLED_FOR),
    ],
)  # fmt: skip
def test_tasks_that_have_no_such_positions_are_refused(overrides, message):
    found = refusal(check, "train", "dataset=addition", *overrides)
    assert found == f"model.position.ids: {message}"


@pytest.mark.parametrize("model", ["abacus", "coupled"])
def test_texts_are_refused(model):
    assert refusal(check, "train", f"model={model}", "dataset=stdlib") == (
        f"model={model}: its positions follow from the problems of a task, dataset=stdlib is "
        "texts; use a task, for example dataset=addition dataset.task.reverse=true"
    )


def test_a_table_without_room_is_refused():
    words = ("dataset=addition", "dataset.task.reverse=true", "train_len=64", "model=abacus")
    assert refusal(check, "train", *words, "model.position.inner.max_len=164") == (
        "model.position: Abacus needs 165 rows, train_len=64, max_offset=99 and 2, Learned has 164"
    )


def test_a_run_is_asked_longer_problems_and_no_other_task(tmp_path):
    words = ("dataset=copy", "dataset.max_length=2", "model=coupled", f"outputs={tmp_path}")
    train(compose("train", *TINY[:5], *TINY[7:], "batch_tokens=60", "tokens=600", *words))
    asked = (
        f"outputs={tmp_path}",
        "device=cpu",
        "precision=float32",
        "examples=8",
        "attention=[full]",
    )
    eval_(compose("eval", *asked, "lengths=[2,9]"))
    table = next(tmp_path.rglob("tasks.csv")).read_text().splitlines()
    assert len(table) == 3 and all(",ok," in line for line in table[1:])
    with pytest.raises(ConfigError) as refused:
        eval_(compose("eval", *asked, "lengths=[2]", "dataset=sort"))
    assert str(refused.value).endswith("takes positions from problems of copy, this is sort")
