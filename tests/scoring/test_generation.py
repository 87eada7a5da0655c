"""How a token is chosen, and what is shown of it."""

import contextlib

import pytest
import torch

from lexp.data.text_stream import TextStream
from lexp.data.tokenizer import Bytes, Subwords, train_bpe
from lexp.model.decoder import Decoder
from lexp.pattern import Full
from lexp.position import NoPE
from lexp.scoring.generation import Sampling, greedy_text
from lexp.system.errors import Diverged
from lexp.system.text import escaped
from support.evaluation import tiny_model

LOGITS = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15]).log()


def shares(sampling: Sampling, n: int = 4000) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    chosen = torch.tensor([sampling.choose(LOGITS, generator) for _ in range(n)])
    return (torch.bincount(chosen, minlength=5) / n).tolist()


def test_tokens_are_drawn_as_temperature_and_top_p_say():
    assert shares(Sampling(), 20) == [0, 1, 0, 0, 0]
    assert shares(Sampling(1.0)) == pytest.approx(LOGITS.exp().tolist(), abs=0.03)
    squared = LOGITS.exp().square() / LOGITS.exp().square().sum()
    assert shares(Sampling(0.5)) == pytest.approx(squared.tolist(), abs=0.03)
    # 0.4 and 0.3 are below 0.8, so the third is among them: 0.4, 0.3 and 0.15 of 0.85.
    kept = [0, 0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85]
    assert shares(Sampling(1.0, top_p=0.8)) == pytest.approx(kept, abs=0.03)
    assert shares(Sampling(1.0, top_p=0.4), 20) == [0, 1, 0, 0, 0]


def test_a_prediction_that_is_not_finite_is_an_error_and_no_token():
    model = tiny_model(NoPE()).eval()
    with torch.no_grad():
        model.head.weight[3] = torch.nan
    with pytest.raises(Diverged, match="the prediction after 2 tokens is not finite"):
        greedy_text(Decoder(model, Full(), 4), [1, 2], Bytes(), contextlib.nullcontext())


def streamed(tokenizer, prompt: list[int], ids: list[int]) -> list[str]:
    stream = TextStream(tokenizer, prompt)
    return [*map(stream.push, ids), stream.finish()]


def test_characters_of_several_tokens_are_shown_once_they_are_whole():
    text = "aé中🙂b"
    ids = list(text.encode())
    assert streamed(Bytes(), [], ids) == [
        "a", "", "é", "", "", "中", "", "", "", "🙂", "b", "",
    ]  # fmt: skip
    broken = streamed(Bytes(), list(b"x" * 20), [0xFF] * 3 + list("é".encode()) + [0xC3])
    assert "".join(broken) == "\ufffd\ufffd\ufffdé\ufffd"


def test_words_keep_their_spaces():
    text = "the cat, the hat and the bat: é"
    words = Subwords(train_bpe([text * 9], 280), "made")
    (encoded,) = words.encode([text])
    ids = encoded.ids.tolist()
    assert "".join(streamed(words, ids[:3], ids[3:])) == text.removeprefix(
        words.decode([ids[:3]])[0]
    )


def test_what_a_terminal_acts_on_is_escaped():
    assert escaped("a\tb\n\x1b[31m\x07\r\u202e\u200b é中🙂 \ud800") == (
        "a\tb\n\\x1b[31m\\x07\\r\\u202e\\u200b é中🙂 \\ud800"
    )
