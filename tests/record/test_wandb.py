"""The real wandb, without its server: what an offline run holds, and servers that are no use."""

import csv
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from lexp.commands.evaluate import eval_
from lexp.commands.train import train
from lexp.record import NullLogger, RunLabel, start_wandb
from lexp.system.errors import ConfigError
from support import ROOT
from support.config import TINY, compose, dataset
from support.training import interrupt_after

PATIENCE_S = 150  # a busy machine takes long to start wandb


def records(piece: Path) -> list[Record]:
    """What an offline run has to tell a server, in order. Its file ends a little after it."""
    (path,) = piece.glob("*.wandb")
    end = time.monotonic() + PATIENCE_S
    while True:
        found = parsed(path.read_bytes())
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        assert time.monotonic() < end, f"{path} has no end: {len(found)} records"
        time.sleep(0.1)


def parsed(data: bytes) -> list[Record]:
    """A log of LevelDB's: blocks of 32 KiB; checksum, length and kind before every part."""
    at, found, parts = 7, [], b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(Record.FromString(parts))
            parts = b""
    return found


def run_of(found: list[Record]):
    """How an offline run presents itself."""
    return next(r.run for r in found if r.WhichOneof("record_type") == "run")


def history(found: list[Record]) -> list[dict]:
    """What was logged, a dictionary a step."""
    rows = [r.history.item for r in found if r.WhichOneof("record_type") == "history"]
    return [
        {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in row} for row in rows
    ]


def pieces(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*"))


def said(capsys) -> list[str]:
    """The lines about wandb since the last call."""
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("wandb:")]


def words(texts: Path, desk: Path, study: str) -> list[str]:
    return [*TINY, *dataset(texts), f"outputs={desk}/outputs", f"name={study}"]


def test_a_resumed_run_is_the_same_run_and_an_evaluation_a_job_of_its_group(
    tiny, monkeypatch, capsys
):
    """Killed after step 6, gone on from step 4: two pieces of one run, which `wandb sync` joins."""
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.setattr("lexp.record.wandb_log.FINISH_TIMEOUT_S", PATIENCE_S)
    config = tiny("wandb=offline", "name=mine")
    with interrupt_after(monkeypatch, 6):
        train(config)
    (piece,) = pieces(next((Path(config.outputs) / "mine").glob("rope-*")))
    assert said(capsys) == [f"wandb: offline in {piece}; upload it with: wandb sync {piece}"]
    train(config)
    study = Path(config.outputs) / "mine"
    (folder,) = study.glob("rope-*")
    first, second = [records(piece) for piece in pieces(folder)]
    both = f"{folder}/wandb/offline-run-*-{RunLabel('mine', folder.name, 'train').id}"
    (line,) = said(capsys)
    assert line == f"wandb: offline in {pieces(folder)[1]}; upload it with: wandb sync {both}"
    command = line.split("with: ")[1].replace("wandb", f"{sys.executable} -m wandb", 1)
    listed = subprocess.run(f"{command} --dry-run", shell=True, capture_output=True, text=True)
    assert listed.returncode == 0 and listed.stderr.count(".wandb") == 2, listed.stderr
    for found in (first, second):
        run = run_of(found)
        assert (run.project, run.run_group, run.job_type) == ("mine", "mine", "train")
        assert (
            run.display_name == folder.name
            and run.run_id == RunLabel("mine", folder.name, "train").id
        )
        values = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert values["model"]["name"] == "rope" and values["seed"] == 0
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in logged if line["event"] == "train"}
    sent = [
        {row["_step"]: row["train/loss"] for row in history(found)} for found in (first, second)
    ]
    assert sorted(sent[0]) == list(range(1, 7)) and sorted(sent[1]) == list(range(5, 11))
    for part in sent:
        assert part == {step: losses[step] for step in part}

    eval_(compose(
        "eval", f"outputs={config.outputs}", "name=mine", "lengths=[8,16]", "wandb=offline",
        "attention=[full,window]", "device=cpu", "precision=float32",
    ))  # fmt: skip
    (piece,) = pieces(study)
    assert said(capsys) == [f"wandb: offline in {piece}; upload it with: wandb sync {piece}"]
    found = records(piece)
    run = run_of(found)
    assert (run.project, run.run_group, run.job_type) == ("mine", "mine", "eval")
    assert run.display_name.startswith("eval-")
    tables = {path.name.rsplit("_", 2)[0]: json.loads(path.read_text())
              for path in piece.glob("files/media/table/*.json")}  # fmt: skip
    rows = [
        dict(zip(tables["results"]["columns"], row, strict=True))
        for row in tables["results"]["data"]
    ]
    with (study / "results.csv").open() as file:
        cells = list(csv.DictReader(file))
    key = ("run", "attention", "length")
    assert {tuple(str(row[k]) for k in key): row["ppl"] for row in rows} == {
        tuple(cell[k] for k in key): float(cell["ppl"]) for cell in cells
    }
    (curves,) = [table for name, table in tables.items() if name.startswith("Perplexity")]
    points = {tuple(map(str, point)) for point in curves["data"]}
    assert points == {(c["length"], f"rope {c['attention']}", str(float(c["ppl"]))) for c in cells}


@contextmanager
def server(kind: str) -> Iterator[str]:
    """An address where nothing listens, or somebody who takes calls and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == "mute":
            listener.listen(50)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


# As a user starts it, so that what wandb does at the end of a process is there too.
PATIENT = (
    "from lexp.record import wandb_log\n"
    f"wandb_log.INIT_TIMEOUT_S, wandb_log.FINISH_TIMEOUT_S = 3, {PATIENCE_S}\n"
)
COMMAND = "from lexp.cli.main import main; main()"


def started(address: str, given: list[str]) -> subprocess.Popen:
    """`lexp train wandb=online`, running, with a server at an address."""
    environment = {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PATIENT + COMMAND, "train", "wandb=online", *given],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**{k: v for k, v in os.environ.items() if k[:6] != "WANDB_"}, **environment},
    )  # fmt: skip


def test_a_server_that_does_not_answer_changes_no_number_and_is_one_warning(tiny, texts, tmp_path):
    """Both kinds at once: most of the time wandb waits."""
    with server("closed") as closed, server("mute") as mute:
        trainings = {
            kind: started(address, words(texts, tmp_path, kind))
            for kind, address in (("closed", closed), ("mute", mute))
        }
        train(tiny("name=alone"))
        said = {kind: process.communicate(timeout=300)[1] for kind, process in trainings.items()}
    for kind, process in trainings.items():
        assert process.returncode == 0, said[kind]
        warnings = [line for line in said[kind].splitlines() if "Warning" in line]
        assert len(warnings) == 1 and "wandb continues offline: " in warnings[0], said[kind]
        assert "Traceback" not in said[kind]
        (folder,) = (tmp_path / "outputs" / kind).glob("rope-*")
        quiet = tmp_path / "outputs" / "alone" / folder.name
        for name in ("metrics.jsonl", "checkpoints/step-00000010/model.safetensors"):
            assert (folder / name).read_bytes() == (quiet / name).read_bytes()
        (piece,) = pieces(folder)  # for `wandb sync`
        assert [row["_step"] for row in history(records(piece))] == list(range(1, 11))


@pytest.mark.parametrize("name", ["wandb/settings", ".wandb/settings"])
def test_a_settings_file_of_the_current_folder_gets_no_key(tmp_path, monkeypatch, name):
    """wandb would send WANDB_API_KEY to the base_url in it; the folder may be somebody else's."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.parent.mkdir()
    path.write_text("[default]\nbase_url = https://elsewhere.example\n")
    for mode in ("offline", "online"):
        with pytest.raises(ConfigError, match=f"wandb={mode}: .* {name} in the current"):
            start_wandb(mode, tmp_path, RunLabel("s", "n", "train"), {})
    assert isinstance(start_wandb("off", tmp_path, RunLabel("s", "n", "train"), {}), NullLogger)
