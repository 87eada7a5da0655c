"""Requests of a harness against naive forward passes, one text at a time and in float64."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from lexp.attention import make_attend
from lexp.data.tokenizer import Bytes, Subwords, train_bpe
from lexp.evaluate import partial_progress
from lexp.evaluate.partial_progress import PartialFile
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Full, Window
from lexp.position import ALiBi, Learned, RandomPositions, RoPE
from lexp.scoring.requests import (
    Completion,
    Continuation,
    Likelihood,
    RequestScorer,
    Response,
    TokenPair,
    WholeText,
)
from lexp.system.errors import NotDefined
from support.texts import make_text

LENGTH = 24
CPU = torch.device("cpu")
ASKED = [
    Continuation("a river of", " glass"),
    Continuation("a river of", " stone and paper"),
    Continuation("a river of ", "x"),
    Continuation("", "no context"),
    Continuation("much longer than what the model reads at most, it is", " cut"),
]


def make(position=None, pattern=None, kind=Transformer, **more) -> RequestScorer:
    torch.manual_seed(0)
    position = position or RoPE(8)
    model = kind(Dims(2, 16, 2, 8, 32), 256, [LayerEntry(lambda: position)]).eval()
    for parameter in model.parameters():  # far from uniform, so that likelihoods differ
        torch.nn.init.normal_(parameter, std=0.4)
    settings = {
        "prepare": lambda size: (model, pattern or Full()), "tokenizer": Bytes(),
        "length": LENGTH, "is_exact": False, "autocast": nullcontext(), **more,
    }  # fmt: skip
    return RequestScorer(**settings)


def logits(scorer: RequestScorer, tokens: list[int]) -> torch.Tensor:
    """Of one text alone, of exactly its length, float64 [T, V]."""
    model, pattern = scorer.prepare(len(tokens))
    attend = make_attend(pattern, len(tokens), model.schemes, CPU)
    with torch.inference_mode():
        return model(torch.tensor([tokens]), attend)[0].double()


def naive(scorer: RequestScorer, context: list[int], target: list[int]) -> tuple[float, bool]:
    """A token's likelihood in a text that loses its beginning so that `length` tokens are read."""
    text = (context + target)[-LENGTH - 1 :]
    given = logits(scorer, text[:-1])[-len(target) :]
    log_probs = given - given.logsumexp(-1, keepdim=True)
    total = sum(float(log_probs[n, token]) for n, token in enumerate(target))
    return total, all(int(given[n].argmax()) == token for n, token in enumerate(target))


@pytest.mark.parametrize(
    "position, pattern, is_exact",
    [
        (RoPE(8), Full(), False),
        (ALiBi(2), Window(5), False),
        (Learned(LENGTH, 16), Full(), False),
        (RandomPositions(RoPE(8), 64), Full(), True),
    ],
    ids=["rope", "alibi-window", "learned", "random"],
)
def test_continuations_are_those_of_one_text_at_a_time(position, pattern, is_exact):
    scorer = make(position, pattern, is_exact=is_exact)
    cut = [
        ("a river of", " glass"), ("a river of", " stone and paper"), ("a river of", " x"),
        ("\0", "no context"), ("much longer than what the model reads at most, it is", " cut"),
    ]  # fmt: skip
    answers = scorer.answer(ASKED)
    for answer, (context, target) in zip(answers, cut, strict=True):
        expected, greedy = naive(scorer, list(context.encode()), list(target.encode()))
        assert answer.log_prob == pytest.approx(expected, abs=1e-4) and answer.greedy == greedy


def test_the_greedy_continuation_is_known_for_one():
    scorer = make(tokenizer=Latin())
    (text,) = scorer.answer([Completion("a river of", (), 3)])
    right, wrong = Continuation("a river of", text), Continuation("a river of", text[:2] + "\x01")
    assert [answer.greedy for answer in scorer.answer([right, wrong])] == [True, False]


class Latin(Bytes):
    """Bytes as characters of Latin-1: any bytes are a text."""

    end = None

    def encode(self, texts):
        return [super(Latin, self).encode(["a" * len(text)])[0]._replace(
            ids=torch.tensor(list(text.encode("latin-1")), dtype=torch.uint8).numpy()
        ) for text in texts]  # fmt: skip

    def decode(self, rows):
        return [bytes(row).decode("latin-1") for row in rows]


def test_requests_of_one_size_share_a_pass_and_equal_texts_a_row():
    shapes = []
    scorer = make()
    model, _ = scorer.prepare(0)
    hidden = model.hidden
    model.hidden = lambda tokens, attend: (
        shapes.append(tuple(tokens.shape)) or hidden(tokens, attend)
    )
    scorer.answer([Continuation("which?", letter) for letter in "ABCD"])
    assert shapes == [(1, LENGTH)]  # one text, filled up
    shapes.clear()
    scorer.answer([Continuation("which?", f" {letter}") for letter in "ABCD"])
    assert shapes == [(1, LENGTH)]  # all but the last token is the same
    shapes.clear()
    scorer.answer([Continuation("which?", f"{letter} ") for letter in "ABCD"])
    assert shapes == [(4, LENGTH)]
    shapes.clear()
    exact = replace(scorer, is_exact=True)
    exact.answer([Continuation("which?", "A"), Continuation("what?", "A")])
    assert shapes == [(1, 6), (1, 5)]
    shapes.clear()
    replace(exact, batch_tokens=12).answer([Continuation(f"which{n}", "A") for n in range(5)])
    assert shapes == [(2, 6), (2, 6), (1, 6)]


def test_progress_counts_requests_and_windows_of_texts_share_passes():
    told, sizes = [], []
    scorer = make(advance=told.append)
    model, _ = scorer.prepare(0)
    hidden = model.hidden
    model.hidden = lambda tokens, attend: sizes.append(len(tokens)) or hidden(tokens, attend)
    texts = [WholeText(make_text(1, 60)[:100]), WholeText(make_text(2, 60)[:60]), WholeText("")]
    asked = [*texts, Continuation("a", "b"), Completion("a", (), 2)]
    answers = scorer.answer(asked)
    assert sum(told) == len(asked)
    # Of 24 tokens each: five windows of the first text, three of the second.
    assert sizes[1] == 5 + 3
    alone = [scorer.answer([text])[0].log_prob for text in texts]
    assert [answer.log_prob for answer in answers[:3]] == pytest.approx(alone, abs=1e-4)
    assert alone[2] == 0


def test_an_interrupted_start_goes_on_and_has_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(partial_progress, "SAVE_EVERY_S", 0)

    def partial(kind: str, n: int) -> PartialFile:
        return PartialFile(tmp_path / f"{kind}.part", "spec", n, "<f8")

    asked = [*ASKED, WholeText(make_text(1, 60)[:100]), WholeText("ab"), Completion("a", (), 2)]
    expected = make(batch_tokens=32).answer(asked)
    make_pass, n_passes = RequestScorer._pass, []

    def start(stop: int | None = None) -> list[Response]:
        n_passes.append(0)

        def counted(self, *arguments):
            n_passes[-1] += 1
            if n_passes[-1] == stop:
                raise KeyboardInterrupt
            return make_pass(self, *arguments)

        monkeypatch.setattr(RequestScorer, "_pass", counted)
        return make(batch_tokens=32, partial=partial).answer(asked)

    # Passes of one row: five continuations, then five windows of a text and one of the other.
    for stop in (4, 6):
        with pytest.raises(KeyboardInterrupt):
            start(stop)
    assert start() == expected
    assert n_passes == [4, 2 + 4, 3]


def test_windows_predict_each_token_once():
    scorer = make(length=3)
    windows = list(scorer._windows("abcdefg"))
    a = ord("a")
    assert windows == [
        TokenPair([0], [a, a + 1, a + 2]),
        TokenPair([a + 2], [a + 3, a + 4, a + 5]),
        TokenPair([a + 3, a + 4, a + 5], [a + 6]),  # the last has all the context there is room for
    ]
    assert list(scorer._windows("ab")) == [TokenPair([0], [a, a + 1])]
    assert not list(scorer._windows(""))
    text = make_text(3, 60)
    (answer,) = make().answer([WholeText(text)])
    parts = [naive(make(), *pair)[0] for pair in make()._windows(text)]
    assert len(parts) > 2 and answer.log_prob == pytest.approx(sum(parts), abs=1e-3)


def test_a_context_loses_its_last_white_space_to_what_follows():
    pairs = make()._pairs([Continuation("ab \n", "c"), Continuation("  ", "c")])
    assert pairs == [TokenPair([97, 98], [32, 10, 99]), TokenPair([32, 32], [99])]


def test_a_vocabulary_that_begins_texts_does_so_here():
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    fast = Tokenizer.from_str(train_bpe(["a river of glass and stone"], 270))
    fast.add_special_tokens(["<s>"])
    begin = fast.token_to_id("<s>")
    bare = Subwords(fast.to_str(), "bare")
    assert bare.begin == ()
    fast.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    tokenizer = Subwords(fast.to_str(), "begun")
    assert tokenizer.begin == (begin,)
    scorer = make(tokenizer=tokenizer)
    ids = tokenizer.encode(["a river", " of"])
    (pair,) = scorer._pairs([Continuation("a river", " of")])
    assert pair == TokenPair([begin, *ids[0].ids.tolist()], ids[1].ids.tolist())
    assert scorer._pairs([Continuation("", " of")]) == [TokenPair([begin], ids[1].ids.tolist())]
    assert tokenizer.decode([[begin, *ids[0].ids.tolist()]]) == ["a river"]


def grown(scorer: RequestScorer, context: str, n_tokens: int) -> list[int]:
    """Greedy tokens, each from a pass over the text so far."""
    tokens = list(context.encode())[-(LENGTH - n_tokens) :]
    for _ in range(n_tokens):
        tokens.append(int(logits(scorer, tokens)[-1].argmax()))
    return tokens[-n_tokens:]


class Whole(Transformer):
    """A model that has to read all of a text at once."""

    def hidden(self, tokens, attend, first=0):
        return super().hidden(tokens, attend, first)


@pytest.mark.parametrize("kind", [Transformer, Whole])
def test_completions_are_greedy_and_end_where_they_are_told_to(kind):
    scorer = make(kind=kind, tokenizer=Latin())
    read: list[int] = []
    model, _ = scorer.prepare(0)
    embed = model.embedding.forward
    model.embedding.forward = lambda tokens: read.append(tokens.numel()) or embed(tokens)
    scorer.answer([Completion("a river of", (), 3)])
    assert read == ([10, 1, 1] if kind is Transformer else [10, 11, 12])
    contexts = ["a river of", "stone", "much longer than what the model reads at most, it is"]
    asked = [Completion(context, (), 8) for context in contexts]
    texts = scorer.answer(asked)
    expected = [bytes(grown(scorer, context, 8)).decode("latin-1") for context in contexts]
    assert texts == expected and len(set(texts)) == 3
    stop = expected[0][3]
    short = scorer.answer([Completion(contexts[0], (stop, "never"), 8)])
    assert short == [expected[0].partition(stop)[0]]
    ending = Latin()
    ending.end = ord(expected[1][2])
    ended = replace(scorer, tokenizer=ending).answer([asked[1]])
    assert ended == [expected[1].partition(expected[1][2])[0]]


def test_what_cannot_be_asked_says_why():
    scorer = make(length=8)
    with pytest.raises(NotDefined, match="an answer has 9 tokens, the length is 8"):
        scorer.answer([Continuation("a", "123456789")])
    with pytest.raises(NotDefined, match="the answer '' has no token of its own"):
        scorer.answer([Continuation("a", "")])
    with pytest.raises(NotDefined, match="8 new tokens leave no room .* the length is 8"):
        scorer.answer([Completion("a", (), 8)])
    with pytest.raises(NotDefined, match="no token that begins or ends a text"):
        replace(scorer, tokenizer=Latin()).answer([WholeText("a")])
    assert isinstance(scorer.answer([Continuation("a", "12345678")])[0], Likelihood)
