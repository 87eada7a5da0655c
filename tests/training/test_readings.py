"""`lexp train reading=...`: what is trained on and refused, and that it resumes bit for bit."""

import json
from dataclasses import dataclass

import pytest
import torch
from hydra.errors import ConfigCompositionException

from lexp.attention import RowLayout, make_attend, make_moved
from lexp.commands.run_parts import make_model
from lexp.commands.train import check, train
from lexp.config.schema import plain
from lexp.config.validation import read_train
from lexp.model.chunked_cross_entropy import IGNORED
from lexp.pattern import Branch, Full, Pattern
from lexp.runs.run import run_name
from lexp.system.errors import ConfigError
from lexp.training.batches import TextBatches
from support.config import compose
from support.training import Killed, folder_of, result_of, stop_after

READINGS = (
    ("packed",), ("packed", "reading.mask=document"), ("padded",), ("segmented",),
    ("cream", "train_len=64"), ("documents", "length_warmup=[4,8]"),
)  # fmt: skip


@pytest.mark.parametrize("words", READINGS, ids="-".join)
def test_a_run_resumes_bit_for_bit(tiny, monkeypatch, tmp_path, words):
    reading = (f"reading={words[0]}", *words[1:])
    whole = tiny(*reading, f"outputs={tmp_path}/whole")
    train(whole)
    broken = tiny(*reading, f"outputs={tmp_path}/broken")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 6)
        train(broken)
    train(broken)
    assert result_of(folder_of(whole)) == result_of(folder_of(broken))


def test_a_packed_run_has_the_end_in_its_vocabulary_and_all_tokens_in_an_epoch(tiny, capsys):
    config = tiny("reading=packed", "tokenizer=bpe", "tokenizer.vocab_size=300", "tokens=64")
    train(config)
    facts = json.loads((folder_of(config) / "config.json").read_text())["data"]
    assert facts["vocab_size"] == 301
    assert "<|endoftext|>" in (folder_of(config) / "tokenizer.json").read_text()
    assert "left out" not in capsys.readouterr().err


def test_the_usual_reading_is_that_of_the_data_set_and_keeps_the_names_of_runs():
    name = {d: plain(compose("train", f"dataset={d}"))["reading"]["name"] for d in DATASETS}
    assert name == DATASETS
    usual, given = (plain(compose("train", *words)) for words in ((), ("reading=documents",)))
    assert run_name(usual) == run_name(given)
    assert run_name(plain(compose("train", "reading=packed"))) != run_name(usual)
    without = {key: value for key, value in usual.items() if key != "reading"}
    assert run_name(without) == run_name(usual)


DATASETS = {
    "stdlib": "documents", "pg19": "documents", "fineweb_edu": "packed", "c4": "packed",
    "copy": "documents",
}  # fmt: skip


@dataclass(frozen=True)
class Only(Pattern):
    """The keys at some places, and the query's own."""

    places: tuple[int, ...]
    name = "only"

    @property
    def branches(self) -> tuple[Branch, ...]:
        def allowed(i, j):
            seen = torch.isin(j, torch.tensor(self.places))
            return (j <= i) & (seen | (i == j))

        return (Branch(allowed, lambda start, end: (0, end)),)


@pytest.mark.parametrize("model", ["rope", "alibi", "sinusoidal", "learned", "rope_nope"])
def test_a_window_at_positions_is_a_longer_text_of_which_the_rest_is_not_seen(model):
    places = (0, 1, 2, 9, 10, 40, 41, 63)
    size = ("size.n_layers=2", "size.d_model=16", "size.n_heads=2", "size.head_dim=8")
    settings = read_train(plain(compose("train", f"model={model}", *size)))
    torch.manual_seed(3)
    network, cpu, pattern = make_model(settings, 40).double(), torch.device("cpu"), Full()
    for name, parameter in network.named_parameters():
        if "qkv" in name:  # as drawn they attend to all alike
            parameter.data *= 50
    tokens = torch.randint(40, (2, 8))
    longer, targets = torch.zeros(2, 64, dtype=torch.long), torch.full((2, 64), IGNORED)
    longer[:, places], targets[:, places] = tokens, tokens
    layout = RowLayout(positions=torch.tensor(places).double())
    ours = network.loss(tokens, tokens, make_moved(pattern, 8, network.schemes, cpu), layout)
    theirs = network.loss(longer, targets, make_attend(Only(places), 64, network.schemes, cpu))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    plainly = network.loss(tokens, tokens, make_attend(pattern, 8, network.schemes, cpu))
    assert ours.item() != pytest.approx(plainly.item(), rel=1e-4)


def test_parts_of_a_step_keep_their_documents(tiny, tmp_path):
    """Accumulated or not, with documents of their own in each row: the same losses."""
    losses = []
    for n_parts in (1, 2):
        config = tiny(*MASK, f"accumulation={n_parts}", f"outputs={tmp_path}/{n_parts}")
        train(config)
        events = map(json.loads, (folder_of(config) / "metrics.jsonl").read_text().splitlines())
        losses.append([event["loss"] for event in events if event["event"] == "train"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_lengths_grow_in_equal_shares_of_the_steps_and_batches_keep_their_tokens(tiny, monkeypatch):
    shapes = []
    original = TextBatches.batch

    def batch(self, step):
        made = original(self, step)
        shapes.append(tuple(made.tensors[0].shape))
        return made

    monkeypatch.setattr(TextBatches, "batch", batch)
    config = tiny("length_warmup=[4,8]", "tokens=576")
    train(config)
    assert shapes == [(16, 4)] * 3 + [(8, 8)] * 3 + [(4, 16)] * 3
    settings = plain(config)
    assert run_name(settings) != run_name({**settings, "length_warmup": []})
    assert run_name(plain(tiny())) == run_name({**plain(tiny()), "length_warmup": []})


def test_a_mask_is_for_packed_windows_alone():
    with pytest.raises(ConfigCompositionException, match="reading.mask"):
        compose("train", "reading=documents", "reading.mask=document")


MASK = ("reading=packed", "reading.mask=document")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("reading=padded", "objective=mlm"), "reading=padded: is for models that see one side"),
        (
            ("reading=packed", "dataset=copy"),
            "reading=packed: is for texts, dataset=copy is a task; add reading.mask=document",
        ),
        ((*MASK, "objective=mlm"), "reading.mask=document: is for models that see one side"),
        ((*MASK, "kernel=flex"), "reading.mask=document: kernel=flex is compiled for one shape"),
        ((*MASK, "compile=true"), "reading.mask=document: compile=true compiles for one shape"),
        ((*MASK, "model=random_rope"), "reading.mask=document: RandomPositions(RoPE) samples"),
        (("reading=packed", "reading.mask=word"), "mask=word (document, or null)"),
        (
            ("reading=pose", "reading.target_len=100", "train_len=128"),
            "reading: target_len=100 is less than train_len=128",
        ),
        (("reading=cream", "train_len=32"), "train_len=32 is too short for two ends of 16"),
        (("reading=pose", "model=nope"), "reading=pose: NoPE has no positions to move"),
        (("reading=pose", "model=gla"), "has no positions to move"),
        (
            ("reading=randpos", "model=random_rope"),
            "RandomPositions(RoPE) samples",
        ),
        (("reading=pose", "model=fire"), "reading=pose: FIRE reads indices of tokens"),
        (
            ("reading=segmented", "model=learned"),
            "Learned has 128 positions, reading.target",
        ),
        (("reading=pose", "kernel=flex"), "reading=pose: kernel=flex has positions 0 .. T-1 alone"),
        (
            ("length_warmup=[64,32]",),
            "length_warmup=[64, 32] (ascending lengths below",
        ),
        (("length_warmup=[64,128]",), "(ascending lengths below train_len=128)"),
        (("length_warmup=[0,64]",), "(ascending lengths below train_len=128)"),
        (("length_warmup=64",), "length_warmup=64 (a list of lengths such as [128,256])"),
        (("length_warmup=[1.5]",), "length_warmup=[1.5] (a list of lengths such as [128,256])"),
        (("length_warmup=[48]",), "a multiple of 48 of length_warmup * accumulation = 48: "),
        (
            ("length_warmup=[64]", "tokens=4096"),
            "(fewer lengths: there are 1 steps)",
        ),
        (("length_warmup=[8]", "dataset=copy"), "length_warmup=[8]: dataset=copy, a task, has"),
        (("length_warmup=[64]", "reading=pose"), "length_warmup=[64]: reading=pose spreads train_"),
        (("reading=pose", "objective=mlm"), "reading=pose: is for models that see one side"),
    ],
)
def test_what_cannot_be_read_so_is_refused(words, line):
    with pytest.raises(ConfigError) as error:
        check(compose("train", *words))
    assert line in str(error.value) and "\n" not in str(error.value)
