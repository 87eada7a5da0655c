"""The texts of a command are read and verified once, for all of its runs and their workers."""

import errno
import os
import stat
from pathlib import Path

import pytest

import lexp.data.store as store_module
import lexp.data.text as text_module
import lexp.system.files as files_module
from lexp.commands.analyze import analyze
from lexp.commands.evaluate import check, eval_
from lexp.commands.load_runs import open_run_with_data, open_runs, raise_problems
from lexp.commands.probe import probe
from lexp.commands.study.command import _run
from lexp.commands.study.file import Stage
from lexp.commands.study.jobs import StudyJob
from lexp.commands.texts import Texts, TrainingTexts
from lexp.commands.train import check as check_training
from lexp.commands.train import train
from lexp.config.schema import plain
from lexp.config.settings import Node
from lexp.data import unchanged
from lexp.data.tokenizer import Bytes
from lexp.system.errors import ConfigError, DataError, OutOfMemory, StorageError
from support.config import compose, dataset
from support.forked import lexp, words_for


@pytest.fixture(autouse=True)
def first_start(monkeypatch) -> None:
    """No earlier start of a command has left digests of these texts."""
    monkeypatch.setattr(unchanged, "SETTLED_NS", 10**18)


@pytest.fixture
def counted(monkeypatch) -> dict[str, int]:
    """How often texts are read whole, and stores verified and mapped."""
    counts = {"read": 0, "verified": 0, "mapped": 0}

    def count(module, name, what):
        original = getattr(module, name)

        def counting(*arguments, **named):
            counts[what] += 1
            return original(*arguments, **named)

        monkeypatch.setattr(module, name, counting)

    count(text_module, "content_fingerprint", "read")
    count(store_module, "_verify", "verified")
    count(store_module, "_read", "mapped")
    return counts


@pytest.fixture
def runs(tiny) -> None:
    """Three finished runs on one text, one of them in tokens of its own."""
    for overrides in (["seed=0"], ["seed=1"], ["tokenizer=bpe", "tokenizer.vocab_size=300"]):
        train(tiny("tokens=64", *overrides))


def composed(tmp_path: Path, word: str, *overrides: str):
    return compose(
        word, f"outputs={tmp_path}/outputs", "lengths=[16]", "device=cpu", "precision=float32",
        *overrides,
    )  # fmt: skip


def test_texts_are_read_once_and_stores_verified_once_for_all_runs(runs, counted, tmp_path, texts):
    for word, run in (
        ("eval", eval_), ("probe", probe), ("analyze", analyze),
    ):  # fmt: skip
        more = {"probe": ["probes=[copy]", "samples=2"], "analyze": ["instruments=[heads]"]}
        counted.update(read=0, verified=0, mapped=0)
        run(composed(tmp_path, word, *more.get(word, ())))
        assert counted == {"read": 1, "verified": 2, "mapped": 6}, word


def test_runs_of_one_process_say_once_what_is_to_be_said_of_their_problems(tmp_path, capsys):
    texts = TrainingTexts()
    size = ("size.n_layers=1", "size.d_model=16", "size.n_heads=1", "size.head_dim=16")
    for seed in (0, 1):
        words = ("dataset=copy", "dataset.max_length=2", "tokens=96", "batch_tokens=96", *size)
        train(compose("train", f"outputs={tmp_path}", f"seed={seed}", "device=cpu", *words), texts)
    said = capsys.readouterr().err
    assert said.count("copy has few problems (26 of length 1, 676 of length 2)") == 1
    assert said.count("(from the start)") == 2


def test_a_worker_maps_what_its_parent_has_verified(runs, counted, tmp_path):
    plan = check(composed(tmp_path, "eval"))
    opened, problems = open_runs(plan)
    assert len(opened) == 3 and not problems
    counted.update(read=0, verified=0, mapped=0)
    of_worker = Texts(plan, opened[0].texts.places)
    again = [open_run_with_data(one.run, plan, of_worker) for one in opened]
    assert counted == {"read": 0, "verified": 0, "mapped": 6}
    for one, other in zip(opened, again, strict=True):
        assert one.targets == other.targets
        names = list(other.store.splits["test"].names)
        assert list(one.store.splits["test"].names) == names
    shared = {id(one.store.splits["test"].names) for one in again}
    assert len(shared) == 2


def test_bpe_reads_its_texts_once_for_their_fingerprint(tiny, counted):
    train(tiny("tokens=64", "tokenizer=bpe", "tokenizer.vocab_size=300"))
    assert counted["read"] == 1


def test_texts_of_one_process_are_opened_once_each(tiny, counted, texts, tmp_path):
    """And one text in several vocabularies is read once."""
    shared = TrainingTexts()
    bpe = ["tokenizer=bpe", "tokenizer.vocab_size=300"]
    for overrides, read, verified in (
        ([], 1, 1), (bpe, 1, 2), (["seed=1"], 1, 2), ([*bpe, "seed=1"], 1, 2),
        ([f"dataset.test={texts}/test/0.txt"], 2, 3), ([f"outputs={tmp_path}/other"], 2, 4),
    ):  # fmt: skip
        settings = check_training(tiny(*overrides))
        corpus, store = shared.load(settings.dataset, settings.tokenizer, settings.cache)
        assert counted == {"read": read, "verified": verified, "mapped": 3 * verified}, overrides
        assert store.fingerprint == corpus.fingerprint()
        assert store.tokenizer.vocab_size == (300 if "tokenizer=bpe" in overrides else 256)
    TrainingTexts().load(settings.dataset, settings.tokenizer, settings.cache)
    assert counted["verified"] == 5


def test_trainings_of_a_stage_of_a_study_share_their_texts(tiny, counted):
    stage = Stage(1, "train", {})
    plans = [check_training(tiny("tokens=64", f"seed={seed}")) for seed in (0, 1)]
    assert _run([StudyJob(stage, plan) for plan in plans]) == []
    assert counted["verified"] == 1


def test_a_sweep_in_one_process_opens_its_text_once(texts, tmp_path):
    def count() -> None:
        verify = store_module._verify

        def counting(*arguments):
            print("verified once more")
            verify(*arguments)

        store_module._verify = counting

    words = ("train", "-m", *words_for(texts), "tokens=64", "seed=0,1")
    ended = lexp(*words, cwd=tmp_path, setup=count)
    assert ended.code == 0 and ended.said.count("verified once more") == 1, ended.said
    assert len(list(tmp_path.glob("outputs/default/*/done.json"))) == 2


def test_a_test_split_of_training_texts_is_said_at_eval(runs, tmp_path, texts, capsys):
    other = ["dataset=text", f"dataset.test=[{texts}/test/0.txt,{texts}/train/*.txt]"]
    eval_(composed(tmp_path, "eval", *other))
    said = capsys.readouterr().err
    assert said.count("6 of 7 documents of dataset.test are in the run's dataset.train too") == 1


def test_what_a_text_lacks_is_said_at_train(tiny, own_texts, capsys):
    (own_texts / "train" / "more.gz").write_bytes(b"x")
    (own_texts / "test" / "copy.txt").write_bytes((own_texts / "train" / "0.txt").read_bytes())
    _, _, *others = dataset(own_texts)
    train(tiny("tokens=64", f"dataset.train={own_texts}/train/*", *others))
    said = capsys.readouterr().err.splitlines()
    left_out, copied = said[:2]
    assert "1 of 7 files left out (.gz)" in left_out
    assert copied == "1 of 4 documents of dataset.test is in dataset.train too"


def test_memory_that_runs_out_in_tokenising_is_no_matter_of_accumulation(tiny, monkeypatch):
    def encode(self, texts):
        raise MemoryError("cannot allocate 6 GB")

    monkeypatch.setattr(Bytes, "encode", encode)
    with pytest.raises(OutOfMemory, match="tokenise text .*6 GB.*split long ones") as error:
        train(tiny("tokens=64"))
    assert "accumulation" not in str(error.value)


def test_a_store_is_one_mapping_for_all_runs_that_holds_its_files_once(runs, tmp_path):
    plan = check(composed(tmp_path, "eval", "attention=[full]"))
    before = len(os.listdir("/proc/self/fd"))
    opened, problems = open_runs(plan)
    assert len(opened) == 3 and problems == []
    assert len({id(one.store) for one in opened}) == len({one.store.folder for one in opened}) == 2
    # Of each split where documents begin, and their hashes; ids are mapped when they are read.
    assert len(os.listdir("/proc/self/fd")) == before + 2 * 3 * 2
    for one in opened:
        one.store.splits["test"].window(0, 0, 1)
    assert len(os.listdir("/proc/self/fd")) == before + 2 * 3 * 2 + 2


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ESTALE])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_store_that_cannot_be_read_now_is_not_called_damaged(
    tiny, tmp_path, code, first, monkeypatch
):
    """Or the advice would be to delete it. first: at which of the files it begins."""
    settings = plain(tiny())
    parts = Node(settings["dataset"]), Node(settings["tokenizer"]), tmp_path / "cache"
    TrainingTexts().load(*parts)
    n_read = []
    original = files_module.read_own

    def fail(path):
        n_read.append(path)
        if len(n_read) > first:
            raise OSError(code, os.strerror(code))
        return original(path)

    monkeypatch.setattr(files_module, "read_own", fail)
    with pytest.raises(StorageError, match=f"cannot read .*: {os.strerror(code)}; "):
        TrainingTexts().load(*parts)


@pytest.mark.parametrize("mask", [0o002, 0o027, 0o077])
def test_caches_follow_the_umask(tiny, tmp_path, mask):
    settings = plain(tiny("tokenizer=bpe", "tokenizer.vocab_size=300"))
    before = os.umask(mask)
    try:
        dataset, tokenizer = Node(settings["dataset"]), Node(settings["tokenizer"])
        TrainingTexts().load(dataset, tokenizer, tmp_path / "cache")
    finally:
        os.umask(before)
    found = list((tmp_path / "cache").rglob("*"))
    assert len(found) > 10
    for path in [tmp_path / "cache", *found]:
        whole = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == whole & ~mask, path


def test_what_is_wrong_with_all_runs_is_said_once(capsys):
    """The last different problem is raised, the others are said before it."""
    problems = [ConfigError("no such file"), DataError("lengths: 1"), DataError("lengths: 1")]
    with pytest.raises(DataError, match=r"^lengths: 1$"):
        raise_problems(problems, [], False)
    assert capsys.readouterr().err.splitlines() == ["lexp: no such file"]
