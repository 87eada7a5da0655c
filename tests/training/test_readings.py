"""`lexp train reading=...`: what is trained on and refused, and that it resumes bit for bit."""

import json

import pytest
from hydra.errors import ConfigCompositionException

from lexp.commands.train import check, train
from lexp.config.schema import plain
from lexp.runs.run import run_name
from lexp.system.errors import ConfigError
from support.config import compose
from support.training import Killed, folder_of, result_of, stop_after

READINGS = (("packed",), ("packed", "reading.mask=document"), ("padded",))


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


def test_parts_of_a_step_keep_their_documents(tiny, tmp_path):
    """Accumulated or not, with documents of their own in each row: the same losses."""
    losses = []
    for n_parts in (1, 2):
        config = tiny(*MASK, f"accumulation={n_parts}", f"outputs={tmp_path}/{n_parts}")
        train(config)
        events = map(json.loads, (folder_of(config) / "metrics.jsonl").read_text().splitlines())
        losses.append([event["loss"] for event in events if event["event"] == "train"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


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
            "reading=packed: is for texts, dataset=copy is a task",
        ),
        ((*MASK, "objective=mlm"), "reading.mask=document: is for models that see one side"),
        ((*MASK, "kernel=flex"), "reading.mask=document: kernel=flex is compiled for one shape"),
        ((*MASK, "compile=true"), "reading.mask=document: compile=true compiles for one shape"),
        ((*MASK, "model=random_rope"), "reading.mask=document: RandomPositions(RoPE) samples"),
        (("reading=packed", "reading.mask=word"), "mask=word (document, or null)"),
    ],
)
def test_what_cannot_be_read_so_is_refused(words, line):
    with pytest.raises(ConfigError) as error:
        check(compose("train", *words))
    assert line in str(error.value) and "\n" not in str(error.value)
