"""One run has one identity however it is spelt, and no two variants look alike in tables."""

import json
from pathlib import Path

import pytest

from lexp.commands import train as train_task
from lexp.commands.train import train
from lexp.extension import NTK
from lexp.result_store import component_spec
from lexp.runs.run import Run, open_run, run_name, run_notes, variant, variant_notes
from lexp.system.text import label_of
from support.config import compose


def name(*overrides: str) -> str:
    return run_name(train_task.check(compose("train", *overrides)).raw)


GLOBS = ("dataset=text", "dataset.validation=v/*.txt", "dataset.test=t/*.txt")
TRAIN = (*GLOBS, "dataset.train=x/*.txt")
FILE = ("tokenizer=file",)
# Spellings of one value each; {here} is the current folder.
SAME = {
    "floats that are whole": [
        (), ("model.position.base=10000",), ("model.position.base=10000.0",),
        ("model.position.base=1e4",), ("model.position.base=10_000",),
    ],
    "tokens": [("tokens=4000000",), ("tokens=4e6",), ("tokens=4_000_000",)],
    "small floats": [("lr=1e-3",), ("lr=0.001",), ("lr=1.0e-3",)],
    "globs": [
        (*GLOBS, f"dataset.train={glob}") for glob in (
            "a/*.txt", "./a/*.txt", "a//*.txt", "././a/*.txt", "a/../a/*.txt", "{here}/a/*.txt",
            "{here}//a/./*.txt", "[a/*.txt]", "[./a/*.txt]", "[a/*.txt,./a/*.txt]",
        )
    ],
    "several globs": [
        (*GLOBS, f"dataset.train={globs}")
        for globs in ("[a/*.txt,b/*.txt]", "[b/*.txt,a/*.txt]", "[b//*.txt,{here}/a/*.txt]")
    ],
    "a tokenizer": [
        (*FILE, f"tokenizer.path={path}")
        for path in ("a/t.json", "./a/t.json", "a//t.json", "{here}/a/t.json", "a/./t.json")
    ],
    "nulls": [(), ("init_from=null",), ("+model.pattern=null",)],
}  # fmt: skip


@pytest.mark.parametrize("what", SAME)
def test_one_run_has_one_name_however_it_is_spelt(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spelt = [[one.format(here=tmp_path) for one in overrides] for overrides in SAME[what]]
    assert len({name(*overrides) for overrides in spelt}) == 1


def test_the_current_folder_may_be_reached_through_a_link(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "link")
    monkeypatch.setenv("PWD", str(tmp_path / "link"))
    for here in ("link", "real"):
        glob = f"dataset.train={tmp_path}/{here}/a/*.txt"
        assert name(*GLOBS, glob) == name(*GLOBS, "dataset.train=a/*.txt")


OTHERS = [
    ("model.position.base=10001",), ("model.position.base=10000.5",), (*GLOBS, "dataset.train=a"),
    (*GLOBS, "dataset.train=b"), (*GLOBS, "dataset.train=../a"), (*GLOBS, "dataset.train=/a"),
    (*GLOBS, "dataset.train=[a,b]"), (*TRAIN, "dataset.validation=a"), (*TRAIN, "dataset.test=a"),
    (*FILE, "tokenizer.path=a"), (*FILE, "tokenizer.path=b"), ("init_from=null", "seed=1"),
    ("dataset=hub", "dataset.path=a/b"), ("dataset=hub", "dataset.path=a/c"),
    ("dataset=hub", "dataset.path=a/b", "dataset.max_documents=5"), (),
]  # fmt: skip


def test_other_runs_have_other_names():
    assert len({name(*overrides) for overrides in OTHERS}) == len(OTHERS)


def test_the_run_that_training_starts_from_is_one_however_its_folder_is_spelt(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    train(tiny("model=rope"))
    (source,) = (tmp_path / "outputs/default").iterdir()
    (tmp_path / "link").symlink_to(source)
    inside = source.relative_to(tmp_path)
    spelt = (
        f"{inside}",
        f"{inside}/",
        f"./{inside}",
        f"{source}",
        "link",
        f"{inside}/../{source.name}",
    )
    settings = [train_task.check(tiny("model=rope", f"init_from={path}")).raw for path in spelt]
    names = {run_name(one) for one in settings}
    assert len(names) == 1 and run_name(train_task.check(tiny("model=rope")).raw) not in names


def trained(folder: Path, *overrides: str, **data) -> Run:
    settings = train_task.check(compose("train", *overrides)).raw
    digests = {"fingerprint": "f", "tokenizer": "bytes", **data}
    return open_run(folder / run_name(settings), settings, digests, "float32")


def test_seeds_that_read_the_same_texts_are_one_variant_wherever_these_lay(tmp_path):
    same = [
        trained(tmp_path, *GLOBS, f"dataset.train={glob}", f"seed={seed}")
        for seed, glob in enumerate(("a/*.txt", "/mnt/a/*.txt", "[a/1*.txt,a/2*.txt]"))
    ]
    assert len({variant(run.made_of) for run in same}) == 1
    assert len(set(run_notes(same).values())) == 1


OTHERWISE = {
    "texts": {"fingerprint": "g"},
    "a vocabulary": {"tokenizer": "other"},
    "weights to start from": {"init_from": "a" * 64},
    "code": {"code": {"mine.Scheme": "b" * 64}},
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_seeds_made_of_something_else_are_another_variant_and_say_so(what, tmp_path):
    runs = [trained(tmp_path), trained(tmp_path, "seed=1", **OTHERWISE[what])]
    notes = list(run_notes(runs).values())
    assert len({variant(run.made_of) for run in runs}) == 2 == len(set(notes))
    assert any(notes)


# Pairs of values that are equal in Python or as text, and not in a digest.
ALIKE = [(1, True), (1, "1"), (0, False), ("None", None), ("true", True), ([1], "[1]")]


@pytest.mark.parametrize(("first", "second"), ALIKE)
def test_no_two_variants_look_alike_in_tables(first, second):
    settings = train_task.check(compose("train", "model=rope")).raw
    position = settings["model"]["position"]
    all_settings = [
        {**settings, "model": {**settings["model"], "position": {**position, "x": value}}}
        for value in (first, second)
    ]
    notes = variant_notes(all_settings)
    assert len(notes) == len(set(notes.values())) == 2


def test_labels_tell_values_apart_and_take_whole_floats_for_whole_numbers():
    same = {label_of("ntk", NTK(value)) for value in (2, 2.0)}
    assert same == {"ntk-2"}
    assert component_spec(NTK(2)) == component_spec(NTK(2.0))
    assert json.dumps(component_spec(NTK(2))) == json.dumps(component_spec(NTK(2.0)))
    labels = {label_of("ntk", NTK(value)) for value in (1234567.0, 1234568.0, 1.2345671, 1.2345672)}
    assert len(labels) == 4
