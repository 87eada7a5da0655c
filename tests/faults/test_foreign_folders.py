"""Run folders of somebody else: whatever is in them, nothing is run, followed out, or believed.

Digests are made anew after every edit, as one would who wants to be read.
"""

import io
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lexp.system.files import digest, sha256
from support.faults.payloads import KEYS, Gadget
from support.forked import lexp, words_for


def config(change):
    def edit(run: Path, canary: Path) -> None:
        path = run / "config.json"
        value = json.loads(path.read_text())
        change(value, canary)
        path.write_text(json.dumps(value))

    return edit


def gadget(canary: Path) -> dict:
    return {"_target_": "builtins.open", "file": str(canary), "mode": "w"}


def put(*keys):
    """Put the gadget into the config below these keys."""

    def change(value, canary):
        for key in keys[:-1]:
            value = value[key]
        value[keys[-1]] = gadget(canary)

    return config(change)


def text(words, *keys):
    def change(value, canary):
        for key in keys[:-1]:
            value = value[key]
        value[keys[-1]] = words.replace("CANARY", str(canary))

    return config(change)


def last(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def sealed(name: str, data):
    """A file of the last checkpoint with other contents, and the manifest to go with it."""

    def edit(run: Path, canary: Path) -> None:
        for step in (run / "checkpoints").glob("step-*"):
            (step / name).write_bytes(data(canary))
            manifest = json.loads((step / "manifest.json").read_text())
            size = (step / name).stat().st_size
            manifest["files"][name] = {"bytes": size, "sha256": sha256(step / name)}
            (step / "manifest.json").write_text(json.dumps(manifest) + "\n")

    return edit


def as_pickle(protocol: int):
    return lambda canary: pickle.dumps(Gadget(canary), protocol)


def as_torch(canary: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": Gadget(canary)}, buffer)
    return buffer.getvalue()


def whole_file(name: str, data):
    def edit(run: Path, canary: Path) -> None:
        for path in run.glob(name):
            path.write_bytes(data(canary))

    return edit


def manifest_entry(name: str):
    """A manifest that names a file elsewhere."""

    def edit(run: Path, canary: Path) -> None:
        for step in (run / "checkpoints").glob("step-*"):
            path = step / "manifest.json"
            manifest = json.loads(path.read_text())
            manifest["files"][name] = manifest["files"].pop("model.safetensors")
            path.write_text(json.dumps(manifest) + "\n")

    return edit


def linked(run: Path, canary: Path) -> None:
    for step in (run / "checkpoints").glob("step-*"):
        (step / "model.safetensors").rename(run.parent / f"{step.name}.safetensors")
        (step / "model.safetensors").symlink_to(run.parent / f"{step.name}.safetensors")


def beside(run: Path, canary: Path) -> None:
    """Files that other trainers would load: nobody asks for them here."""
    for name in ("pytorch_model.bin", "model.pt", "optimizer.pt", ".metadata", "rng_state.pth"):
        (last(run) / name).write_bytes(as_torch(canary))
        (run / name).write_bytes(as_torch(canary))
    (run / "sitecustomize.py").write_text(f"open({str(canary)!r}, 'w')")


def objects(run: Path, canary: Path) -> None:
    """Losses as an array of objects, which numpy would unpickle."""
    for path in run.glob("eval/*.npz"):
        with np.load(path) as stored:
            arrays = dict(stored)
        arrays["nats"] = np.array([Gadget(canary)], dtype=object)
        np.savez(path.with_suffix(".npz"), **arrays)


def partial_objects(run: Path, canary: Path) -> None:
    """Every place where an unfinished cell might be."""
    for path in list(run.glob("eval/*.json")):
        for name in (f"{path.stem}.part.npz", f"{path.stem}.partial.npz", f"{path.stem}.npz"):
            np.savez(run / "eval" / name, nats=np.array([Gadget(canary)], dtype=object), n_done=1)
        path.unlink()


def cell(*keys, value):
    """A stored evaluation with another value below these keys."""

    def edit(run: Path, canary: Path) -> None:
        for path in run.glob("eval/*.json"):
            record = json.loads(path.read_text())
            record.pop("sha256")
            place = record
            for key in keys[:-1]:
                place = place[key]
            assert keys[-1] in place
            place[keys[-1]] = value
            path.write_text(json.dumps({**record, "sha256": digest(record)}))

    return edit


EVAL = ("eval", "lengths=[8,16,32]", "attention=[full]")
REPORT = ("report",)
MODEL = ("values", "run", "model")
# What is edited, the command that then reads it, and the codes it may end with.
FOLDERS = {
    "position": (put("settings", "model", "position"), EVAL, {4, 2}),
    "position's target": (text("os.system", "settings", "model", "position", "_target_"), EVAL,
                          {4, 2}),
    "lexp's own module": (text("lexp.cli.main.main", "settings", "model", "position", "_target_"),
                          EVAL, {4, 2}),
    "pattern": (put("settings", "model", "pattern"), EVAL, {4, 2}),
    "dataset": (put("settings", "dataset"), EVAL, {4, 2}),
    "dataset's writer": (text("lexp.system.files.make_folder", "settings", "dataset", "_target_"),
                         EVAL, {4, 2}),
    "size": (put("settings", "size", "d_model"), EVAL, {4, 2}),
    "callbacks": (put("settings", "hydra"), EVAL, {4, 2}),
    "interpolated secret": (text("${oc.env:WANDB_API_KEY}", "settings", "model", "name"), EVAL,
                            {4, 2}),
    "interpolated path": (text("${oc.env:HOME}", "settings", "tokenizer", "name"), EVAL, {4, 2}),
    "model elsewhere": (text("../../../canary", "settings", "model", "name"), EVAL, {4, 2}),
    "dataset elsewhere": (text("CANARY", "settings", "dataset", "name"), EVAL, {4, 2}),
    "study elsewhere": (text("../canary", "settings", "name"), EVAL, {4, 2}),
    "kind": (text("evil", "kind"), EVAL, {0, 4, 2}),
    "hf path": (text("hf", "kind"), EVAL, {4, 2, 3}),
    "column of texts": (text("\x1b[31m=1+1", "settings", "dataset", "column"), EVAL, {0}),
    "huge": (config(lambda v, c: v["settings"]["size"].update(d_model=1 << 40)), EVAL,
             {4, 2, 9, 7}),
    "deep": (whole_file("config.json", lambda c: b"[" * 100_000), EVAL, {4, 2}),
    "config is a pickle": (whole_file("config.json", as_pickle(0)), EVAL, {4, 2}),
    "tokenizer is a pickle": (whole_file("tokenizer.json", as_pickle(4)), EVAL, {3, 4}),
    "tokenizer is another": (whole_file("tokenizer.json", lambda c: b"{}"), EVAL, {3, 4}),
    "weights are a pickle": (sealed("model.safetensors", as_pickle(5)), EVAL, {4}),
    "weights are an old pickle": (sealed("model.safetensors", as_pickle(0)), EVAL, {4}),
    "weights are torch's": (sealed("model.safetensors", as_torch), EVAL, {4}),
    "weights have a long header": (
        sealed("model.safetensors", lambda c: (1 << 40).to_bytes(8, "little") + b"{}"), EVAL, {4}),
    "state is a pickle": (sealed("state.json", as_pickle(2)), EVAL, {4}),
    "state has no step": (sealed("state.json", lambda c: b'{"step": "../x"}'), EVAL, {4}),
    "state is a list": (sealed("state.json", lambda c: b"[1]"), EVAL, {4}),
    "manifest elsewhere": (manifest_entry("../../../../canary"), EVAL, {4}),
    "manifest is a pickle": (whole_file("checkpoints/*/manifest.json", as_pickle(3)), EVAL, {4}),
    "manifest is deep": (whole_file("checkpoints/*/manifest.json", lambda c: b"[" * 100_000), EVAL,
                         {4}),
    "linked weights": (linked, EVAL, {4}),
    "files beside": (beside, EVAL, {0}),
    "losses are objects": (objects, REPORT, {0}),
    "unfinished cells are objects": (partial_objects, EVAL, {0}),
    "cell is a pickle": (whole_file("eval/*.json", as_pickle(4)), REPORT, {0, 2}),
    "done is a pickle": (whole_file("done.json", as_pickle(4)), EVAL, {0}),
    "status is a pickle": (whole_file("status.json", as_pickle(4)), ("status",), {0}),
    "status is code": (whole_file("status.json", lambda c: b"__import__('os')"), ("status",), {0}),
    "formula in a cell": (cell(*MODEL, value="=HYPERLINK(1)"), REPORT, {0}),
    "markup in a cell": (cell(*MODEL, value="<script>alert(1)</script>"), REPORT, {0}),
    "escapes in a cell": (cell(*MODEL, value="\x1b]0;owned\x07\x1b[31m"), REPORT, {0}),
    "a list for a number": (cell("values", "nll", value=[1]), REPORT, {2}),
    "a number for a label": (cell("values", "pattern", "label", value=3), REPORT, {2}),
    "a time that is none": (cell("sealed", value=[]), REPORT, {2}),
    "an object for a status": (cell("status", value={}), REPORT, {2}),
    "no losses": (cell("arrays_sha256", value=None), REPORT, {3}),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_somebody_else_runs_nothing(foreign_study, tmp_path, name):
    edit, command, codes = FOLDERS[name]
    desk, canary = tmp_path / "desk", tmp_path / "canary"
    shutil.copytree(foreign_study, desk)
    (run,) = (desk / "outputs/default").glob("rope-*")
    edit(run, canary)
    before = {path for path in tmp_path.rglob("*") if desk not in path.parents}
    ended = lexp(*command, cwd=desk, **KEYS)
    assert not canary.exists(), "the payload ran"
    assert ended.code in codes and "Traceback" not in ended.said, (ended.code, ended.said[-1500:])
    assert {path for path in tmp_path.rglob("*") if desk not in path.parents} == before
    assert ended.seconds < 20
    assert not [key for key in KEYS.values() if key in ended.said]
    assert "\x1b" not in ended.said
    for path in desk.rglob("*"):
        if path.suffix in (".csv", ".md", ".html", ".tex") and "outputs" in path.parts:
            shown = path.read_text()
            assert "\x1b" not in shown, path
            assert path.suffix == ".csv" or "<script>alert(1)" not in shown, path
            if path.suffix == ".csv":
                assert not [x for x in shown.replace(",", "\n").split("\n") if x.startswith("=")]


def test_secrets_are_nowhere(foreign_study, tmp_path):
    """Keys in the environment: not in a file, not in what is said, not in any process's words."""
    desk = tmp_path / "desk"
    shutil.copytree(foreign_study / "texts", desk / "texts")
    environment = {**KEYS, "WANDB_MODE": "offline", "WANDB_DIR": str(desk)}
    ended = lexp("train", *words_for(desk / "texts"), "wandb=offline", cwd=desk, **environment)
    assert ended.code == 0, ended.said
    assert lexp("eval", "lengths=[8,16]", cwd=desk, **KEYS).code == 0
    assert lexp("report", cwd=desk, **KEYS).code == 0
    files = [path for path in desk.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 20 and any("wandb" in str(path) for path in files)
    for path in files:
        data = path.read_bytes()
        assert not [name for name, key in KEYS.items() if key.encode() in data], path
        assert not path.stat().st_mode & 0o002, path
    assert not [k for k in KEYS.values() for word in os.sys.argv if k in word]


def test_there_are_enough_folders():
    print(f"RESULT payloads in run folders: {len(FOLDERS)}, run: 0")
    assert len(FOLDERS) >= 40


@pytest.mark.parametrize("text", ["\x1b]0;owned\x07\x1b[31m", "\u202egnp", "\x9b31m", "a\nlexp: b"])
def test_names_and_values_of_others_are_shown_and_act_on_nothing(foreign_study, tmp_path, text):
    """Run folders, cells without a run, several bad runs, versions, a study's words."""
    desk = tmp_path / "desk"
    shutil.copytree(foreign_study, desk)
    (run,) = (desk / "outputs/default").glob("rope-*")
    for name in ("unfinished", "bad", "worse"):
        shutil.copytree(run, run.parent / f"{name}{text}")
    (run.parent / f"unfinished{text}" / "done.json").unlink()
    for name in ("bad", "worse"):
        path = run.parent / f"{name}{text}" / "config.json"
        value = json.loads(path.read_text())
        value["settings"]["model"]["position"]["_target_"] = f"os.{text}"
        path.write_text(json.dumps(value))
    cell("values", "run", "name", value=f"ghost{text}")(run, tmp_path)
    words = {"name": text, "scale": text, "claim": text, "source": text, "command": text}
    markup = {"deviations": [text, "<script>alert(1)</script> [x](http://x)"], "expected": []}
    (run.parent / "study.json").write_text(json.dumps(words | markup))
    for command in (("status",), EVAL, REPORT):
        ended = lexp(*command, cwd=desk)
        assert ended.code in (0, 2, 4) and "Traceback" not in ended.said, ended.said[-1500:]
        acting = {c for c in ended.said if not c.isprintable() and c != "\n"}
        assert not acting and "\nlexp: b" not in ended.said, ended.said
    written = [p for p in desk.rglob("*") if p.suffix in (".csv", ".md", ".html", ".tex")]
    assert len(written) > 3
    for path in written:
        shown = path.read_text(encoding="utf-8")
        assert not {c for c in shown if not c.isprintable() and c != "\n"}, path
        assert "<script>alert" not in shown or path.suffix == ".tex", path


def test_what_hydra_prints_acts_on_nothing_either(tmp_path):
    models = tmp_path / "mine" / "model"
    models.mkdir(parents=True)
    (models / "\x1b[31mred.yaml").write_text("name: red\n")
    (models / "bidi.yaml").write_text("name: bidi\nposition: {_target_: 'a\u202eb'}\n")
    for words, shown in ((["--help"], "[31mred"), (["--cfg", "job", "model=bidi"], "a\ufffdb")):
        ended = lexp("train", "--config-dir", "mine", *words, cwd=tmp_path)
        assert ended.code == 0 and shown in ended.said, ended.said
        assert not {c for c in ended.said if not c.isprintable() and c != "\n"}
