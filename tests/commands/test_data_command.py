"""lexp data: texts tokenised before runs need them, and what training would leave out of them."""

import json
import re

import numpy as np
import pytest

import lexp.data.store as store_module
from lexp.commands.data import READINGS, check, data, unpredicted
from lexp.commands.train import train
from lexp.data.tokens import Tokens
from lexp.system.errors import ConfigError, DataError
from support.config import compose

LENGTHS = [1, 0, 40, 129, 300, 1000]


def predicted(name: str, n: int, length: int) -> int:
    """Tokens of a document of n that an epoch predicts, from what docs/reading.md says."""
    most, least = {
        "documents": (length, length), "randpos": (length, length),
        "segmented": (4 * length, 4 * length), "pose": (4 * length, length),
        "cream": (4 * length, length),
    }[name]  # fmt: skip
    windows, left = 0, n - 1
    while left >= least:
        windows, left = windows + 1, left - most
    return windows * length


@pytest.mark.parametrize("length", [64, 128, 2048])
def test_shares_are_those_of_the_readings(length):
    ids = np.zeros(sum(LENGTHS), dtype=np.uint8)
    tokens = Tokens([""] * len(LENGTHS), ids, np.cumsum([0, *LENGTHS]), None)
    total = sum(LENGTHS)
    for name, reading in READINGS.items():
        if name == "packed":  # an end token after each of the five documents that have tokens
            n_targets = (total + 5 - 1) // length * length
        elif name == "padded":
            n_targets = sum(max(n - 1, 0) for n in LENGTHS)
        else:
            n_targets = sum(predicted(name, n, length) for n in LENGTHS)
        expected = max(0.0, 1 - n_targets / total)
        assert unpredicted(tokens, reading, length) == pytest.approx(expected), name


@pytest.fixture
def asked(texts, tmp_path):
    def compose_data(*overrides: str):
        return compose("data", f"outputs={tmp_path}/outputs", "dataset=text",
                       f"dataset.train={texts}/train/*.txt", f"dataset.test={texts}/test/*.txt",
                       f"dataset.validation={texts}/validation/*.txt", *overrides)  # fmt: skip

    return compose_data


def test_a_data_set_without_documents_is_refused(tmp_path):
    with pytest.raises(DataError, match="dataset=text has no documents in any split; set "):
        data(compose("data", f"outputs={tmp_path}/outputs", "dataset=text"))


def test_what_it_prepares_is_what_training_reads(asked, tiny, texts, monkeypatch, capsys):
    data(asked("show=1"))
    shown = capsys.readouterr()
    sizes = [path.stat().st_size for path in texts.glob("train/*.txt")]
    assert re.search(rf"train\W+{len(sizes)}\W+{sum(sizes)}\W", shown.out)
    first = (texts / "train" / "0.txt").read_bytes().decode()
    assert f"0.txt: {len(first.encode())} tokens, {list(first.encode()[:12])}" in shown.err
    assert json.dumps(first[:200], ensure_ascii=False)[:60] in shown.err

    monkeypatch.setattr(store_module, "_write", lambda *_: pytest.fail("tokenised again"))
    train(tiny("tokens=64"))
    data(asked("verify=true"))
    assert "all digests are right" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["3", "1", "no", "null"])
def test_verify_is_true_or_false(asked, value):
    with pytest.raises(ConfigError, match=r"^not allowed: verify=\S+ \(true or false\)$"):
        check(asked(f"verify={value}"))


def test_verify_reads_what_has_not_changed(asked, tmp_path, monkeypatch):
    data(asked())
    (path,) = tmp_path.glob("outputs/.cache/*/train-00000.tokens")
    state = store_module.state_of(path)
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    # As if neither inode nor times had been changed by it.
    monkeypatch.setattr(store_module, "read_states", lambda _: {path.name: state})
    original = store_module.state_of
    monkeypatch.setattr(
        store_module, "state_of", lambda p: state if p.name == path.name else original(p)
    )
    data(asked())
    with pytest.raises(DataError, match="train-00000.tokens is damaged"):
        data(asked("verify=true"))


def test_packed_training_gets_its_own_vocabulary(asked, tmp_path):
    for reading in ("documents", "packed"):
        data(asked("tokenizer=bpe", "tokenizer.vocab_size=300", f"reading={reading}"))
    assert len(list(tmp_path.glob("outputs/.cache/*/manifest.json"))) == 2
    assert len(list(tmp_path.glob("outputs/.cache/bpe-*"))) == 1


@pytest.mark.parametrize(
    "overrides, reason",
    [(["dataset=copy"], "is a task; texts are needed"), (["show=-1"], "show=-1")],
)
def test_what_it_cannot_prepare_is_refused(overrides, reason):
    with pytest.raises(ConfigError, match=reason):
        check(compose("data", *overrides))
