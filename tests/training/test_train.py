"""Training: the schedule, exact resume, signals, divergence, damage."""

import json
import math
import os
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

from lexp.commands.train import check, train
from lexp.record.metrics import read
from lexp.runs import checkpoint
from lexp.runs.locks import locked
from lexp.runs.run import Run
from lexp.system import files
from lexp.system.errors import (
    Busy,
    CheckpointError,
    ConfigError,
    DataError,
    Diverged,
    OutOfMemory,
    StorageError,
)
from lexp.training import loop
from support.config import dataset
from support.training import Killed, flip_a_bit, folder_of, result_of, stop_after

# --- whole runs


def test_a_run_learns_and_leaves_what_the_readme_says(tiny):
    config = tiny("tokens=6400")
    train(config)
    folder = folder_of(config)
    lines = read(folder / "metrics.jsonl")
    losses = [line["loss"] for line in lines if line["event"] == "train"]
    assert len(losses) == 100 and [x["step"] for x in lines if x["event"] == "train"] == list(
        range(1, 101)
    )
    assert losses[0] == pytest.approx(math.log(256), abs=0.1)
    assert losses[-1] < 3.2  # letters and spaces: far below a uniform guess
    probes = [line for line in lines if line["event"] == "validation"]
    assert [p["step"] for p in probes] == list(range(5, 101, 5))
    assert set(probes[-1]) == {"event", "step", "nll@16", "nll@32", "nll@64"}
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoints", "config.json", "done.json", "lock", "metrics.jsonl", "status.json",
    ]  # fmt: skip
    kept = sorted(p.name for p in (folder / "checkpoints").iterdir())
    assert kept == ["step-00000096", "step-00000100"]
    assert sorted(p.name for p in (folder / "checkpoints" / kept[1]).iterdir()) == [
        "manifest.json", "model.safetensors", "optim.safetensors", "state.json",
    ]  # fmt: skip


def test_a_finished_run_started_again_does_nothing_and_says_so(tiny, capsys):
    config = tiny()
    train(config)
    before = {p: p.stat().st_mtime_ns for p in folder_of(config).rglob("*")}
    train(config)
    assert "is complete, nothing to do" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in folder_of(config).rglob("*")} == before


def test_a_complete_run_says_that_its_texts_are_others_now(tiny, own_texts, capsys):
    config = tiny("tokens=64", *dataset(own_texts))
    train(config)
    for path in (own_texts / "train").iterdir():
        path.touch()
    train(config)
    assert "with other texts than now" not in capsys.readouterr().err
    with (own_texts / "train" / "0.txt").open("a") as file:
        file.write("edited")
    train(config)
    said = capsys.readouterr().err
    assert "nothing to do: with other texts than now, the files of dataset=text" in said
    assert "choose another name=" in said


@pytest.mark.parametrize("n_steps", range(1, 10))
def test_resume_at_any_step_is_bit_equal(tiny, monkeypatch, tmp_path, n_steps):
    whole = tiny(f"outputs={tmp_path}/whole", "save_every=1")
    train(whole)
    broken = tiny(f"outputs={tmp_path}/broken", "save_every=1")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, n_steps)
        train(broken)
    assert checkpoint.latest(folder_of(broken) / "checkpoints").step == n_steps
    train(broken)
    assert result_of(folder_of(broken)) == result_of(folder_of(whole))


@pytest.mark.parametrize(
    "choice",
    ["model=learned", "model=alibi", "model=xpos", "model=random_rope", "optim.matrices=muon"],
)
def test_resume_between_saves_repeats_the_lost_steps_bit_equal(tiny, monkeypatch, tmp_path, choice):
    """Killed at step 7 with saves every 4: step 4 is resumed, no metrics line is there twice."""
    choices = (choice, "accumulation=2", "tokenizer=bpe", "tokenizer.vocab_size=300")
    whole = tiny(*choices, f"outputs={tmp_path}/whole")
    train(whole)
    broken = tiny(*choices, f"outputs={tmp_path}/broken")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 7)
        train(broken)
    assert checkpoint.latest(folder_of(broken) / "checkpoints").step == 4
    train(broken)
    assert result_of(folder_of(broken)) == result_of(folder_of(whole))


def test_what_is_resumed_matters(tiny, monkeypatch, tmp_path):
    """The negative control: with the optimiser's moments forgotten, the bits differ."""
    whole = tiny(f"outputs={tmp_path}/whole")
    train(whole)
    broken = tiny(f"outputs={tmp_path}/broken")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 7)
        train(broken)
    monkeypatch.setattr(checkpoint, "load_optimizer", lambda *arguments: None)
    train(broken)
    assert result_of(folder_of(broken)) != result_of(folder_of(whole))


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGUSR2, 75), (signal.SIGINT, 130)],
)
def test_a_signal_saves_at_the_next_step_and_the_run_resumes_bit_equal(
    tiny, monkeypatch, tmp_path, number, code
):
    whole = tiny(f"outputs={tmp_path}/whole")
    train(whole)
    broken = tiny(f"outputs={tmp_path}/broken")
    with monkeypatch.context() as patch:
        original = loop._step

        def step(job, *others):
            if job.step == 5:
                os.kill(os.getpid(), number)
            return original(job, *others)

        patch.setattr(loop, "_step", step)
        with pytest.raises(SystemExit) as stopped:
            train(broken)
    assert stopped.value.code == code
    assert checkpoint.latest(folder_of(broken) / "checkpoints").step == 6
    assert signal.getsignal(number) is not None
    train(broken)
    ours, theirs = result_of(folder_of(broken)), result_of(folder_of(whole))
    assert ours == theirs


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_update(tiny, monkeypatch, bad):
    config = tiny()
    original = loop.Transformer.loss

    def loss(self, *arguments):
        total = original(self, *arguments)
        calls.append(1)
        return total * bad if len(calls) == 7 else total

    calls: list[int] = []
    monkeypatch.setattr(loop.Transformer, "loss", loss)
    with pytest.raises(Diverged, match=r"at step 7 of 10 .*checkpoint of step 4 is kept"):
        train(config)
    last = checkpoint.latest(folder_of(config) / "checkpoints")
    weights = load_file(last.path / "model.safetensors")
    assert last.step == 4 and all(w.isfinite().all() for w in weights.values())
    assert not Run(folder_of(config)).is_done


def test_running_out_of_memory_is_said_in_a_line(tiny, monkeypatch):
    def loss(self, tokens, targets, attend):
        raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    monkeypatch.setattr(loop.Transformer, "loss", loss)
    with pytest.raises(OutOfMemory, match="9 GiB.*accumulation"):
        train(tiny())


def test_accumulation_changes_memory_not_the_result(tiny):
    one, two = tiny("accumulation=1"), tiny("accumulation=4")
    train(one)
    train(two)
    first, second = (
        [x["loss"] for x in read(folder_of(c) / "metrics.jsonl") if x["event"] == "train"]
        for c in (one, two)
    )
    assert first == pytest.approx(second, abs=2e-4)


def test_another_process_in_the_folder_is_named(tiny):
    config = tiny()
    with locked(folder_of(config)), pytest.raises(Busy, match=f"process {os.getpid()}"):
        train(config)
    train(config)


def test_changed_data_under_an_unfinished_run_is_refused(tiny, monkeypatch, own_texts):
    config = tiny(*dataset(own_texts))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 5)
        train(config)
    (own_texts / "train" / "0.txt").write_text("something else entirely " * 99)
    with pytest.raises(
        CheckpointError, match=r"started with other settings; .*: fingerprint: \w{8} then"
    ):
        train(config)


def test_edited_settings_of_a_run_are_named(tiny, monkeypatch):
    config = tiny()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 5)
        train(config)
    path = folder_of(config) / "config.json"
    stored = json.loads(path.read_text())
    stored["settings"]["lr"] = 0.5
    stored["settings"]["optim"]["clip"] = 9.0
    path.write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match=r"lr: 0.5 then, 0.01 now; optim.clip: 9 then, 1 now"):
        train(config)


def test_missing_splits_are_named(tiny):
    said = "dataset=text has no documents for validation; set dataset.validation=FOLDER, or only "
    with pytest.raises(ConfigError, match=said):
        train(tiny("dataset.validation=null"))


# --- damaged checkpoints


def broken_off(tiny, monkeypatch):
    """A run with checkpoints of steps 4 and 8, broken off at step 9."""
    config = tiny()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 9)
        train(config)
    return config, folder_of(config) / "checkpoints"


DAMAGES = {
    "flipped": flip_a_bit,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*checkpoint.FILES, "manifest.json"])
def test_damage_is_found_and_the_checkpoint_before_used(tiny, monkeypatch, name, damage):
    config, root = broken_off(tiny, monkeypatch)
    DAMAGES[damage](root / "step-00000008" / name)
    with pytest.warns(UserWarning, match="step-00000008.*using step-00000004 instead"):
        found = checkpoint.latest(root)
    assert found.step == 4
    with pytest.warns(UserWarning, match="step-00000008"):
        train(config)
    assert Run(folder_of(config)).is_done


def test_all_damaged_is_an_error_never_a_fresh_start(tiny, monkeypatch):
    config, root = broken_off(tiny, monkeypatch)
    for step in (4, 8):
        flip_a_bit(root / f"step-{step:08d}" / "model.safetensors")
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        train(config)


def test_a_checkpoint_of_another_shape_is_named(tiny, monkeypatch):
    _, root = broken_off(tiny, monkeypatch)
    found = checkpoint.latest(root)
    model = torch.nn.Linear(3, 3)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        checkpoint.load_model(found, model)


def test_writes_are_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(files.StorageError, match=r"a.json: No space left on device"):
        files.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


# --- what a review found


def test_a_state_that_is_not_finite_is_never_saved(tiny):
    """An update can overflow although its loss and gradient did not."""
    config = tiny("lr=1e38", "optim.warmup=0", "optim.clip=0", "save_every=1")
    with pytest.raises(Diverged, match=r"after step 1; nothing was saved yet"):
        train(config)
    assert checkpoint.latest(folder_of(config) / "checkpoints") is None


def test_a_full_disk_is_a_storage_error_that_leaves_nothing_behind(tiny, monkeypatch):
    from safetensors import SafetensorError

    config = tiny()

    def full(tensors, path):
        if path.name == "optim.safetensors":
            raise SafetensorError("I/O error: No space left on device")
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(StorageError, match=r"step-00000004: .*No space left"):
        train(config)
    assert list((folder_of(config) / "checkpoints").iterdir()) == []


def test_validation_texts_too_short_are_known_before_the_first_step(tiny, own_texts):
    (own_texts / "validation" / "0.txt").write_text("short")
    (own_texts / "validation" / "1.txt").write_text("short too")
    config = tiny(*dataset(own_texts))
    with pytest.raises(DataError, match=r"validation split: no document has the 17 tokens"):
        train(config)
    assert not folder_of(config).exists() or not (folder_of(config) / "metrics.jsonl").exists()


def test_other_versions_are_said_on_resume(tiny, monkeypatch):
    config, _ = broken_off(tiny, monkeypatch)
    path = folder_of(config) / "config.json"
    stored = json.loads(path.read_text())
    stored["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(stored))
    with pytest.warns(UserWarning, match=r"other versions.*torch 1.0 then"):
        train(config)


def test_gradients_are_clipped(tiny, monkeypatch):
    """The step sees a gradient of at most optim.clip, whatever the logged norm."""
    seen = []
    original = torch.optim.AdamW.step

    def step(self, *arguments):
        grads = [p.grad.flatten() for g in self.param_groups for p in g["params"]]
        seen.append(torch.cat(grads).norm().item())
        return original(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    config = tiny("optim.clip=0.01")
    train(config)
    logged = [x["grad_norm"] for x in read(folder_of(config) / "metrics.jsonl") if "loss" in x]
    assert min(logged) > 0.02
    assert seen == pytest.approx([0.01] * 10, rel=1e-3)


def test_the_probe_scores_the_same_tokens_at_each_length(tiny, monkeypatch):
    from lexp.scoring.scorer import Scorer

    seen = []
    original = Scorer.score

    def counted(self, tokens, windows):
        seen.append([w.first + t for w in windows for t in range(1, w.size + 1)])
        return original(self, tokens, windows)

    monkeypatch.setattr(Scorer, "score", counted)
    train(tiny())
    assert len(seen) == 6 and all(targets == seen[0] for targets in seen)
    assert max(seen[0]) == 64


def test_init_from_starts_with_another_runs_weights(tiny):
    """The trunk is the source's bit for bit, the position scheme is new; the digest is kept."""
    source = tiny("model=rope")
    train(source)
    first = folder_of(source)
    config = tiny("model=kerple_log", f"init_from={first}", "tokens=64", "lr=1e-30")
    train(config)
    folder = folder_of(config)
    assert folder != folder_of(tiny("model=kerple_log", "tokens=64", "lr=1e-30"))
    wanted, found = (checkpoint.latest(f / "checkpoints") for f in (first, folder))
    stored = load_file(wanted.path / "model.safetensors")
    own = load_file(found.path / "model.safetensors")
    assert {k for k in own if k not in stored} == {"positions.0.r1", "positions.0.r2"}
    for name, tensor in stored.items():
        torch.testing.assert_close(own[name], tensor, rtol=0, atol=1e-7)
    data = json.loads((folder / "config.json").read_text())["data"]
    assert data["init_from"] == wanted.model_sha256


def test_init_from_takes_the_scheme_over_only_where_it_is_the_same(tiny, capsys):
    """CABLE's gate has FoX's name and shape and the other sign; what starts afresh is named."""
    source = tiny("model=fox")
    train(source)
    gates = {}
    for model in ("fox", "cable"):
        config = tiny(f"model={model}", f"init_from={folder_of(source)}", "tokens=64", "lr=1e-30")
        train(config)
        found = checkpoint.latest(folder_of(config) / "checkpoints")
        gates[model] = load_file(found.path / "model.safetensors")["positions.0.gate.weight"]
        said = "model=cable; parameters of the scheme that start afresh: gate.weight\n"
        assert (said in capsys.readouterr().err) == (model == "cable")
    first = checkpoint.latest(folder_of(source) / "checkpoints")
    wanted = load_file(first.path / "model.safetensors")["positions.0.gate.weight"]
    torch.testing.assert_close(gates["fox"], wanted, rtol=0, atol=1e-7)
    assert not torch.allclose(gates["cable"], wanted, atol=1e-3)


def test_a_model_whose_weights_do_not_fit_is_one_line(tiny):
    said = (
        r"^size=\w+ has n_layers=\d+, d_model=60000000000, d_ff=\d+: not enough memory: "
        r"[\d,]+\.\d GiB were asked for at once; choose a smaller model$"
    )
    with pytest.raises(OutOfMemory, match=said):
        train(tiny("size.d_model=60000000000"))


def test_init_from_refuses_what_is_not_a_finished_run(tiny, tmp_path):
    for name, wanted in (
        ("meta/Llama-3.2", "hf download meta/Llama-3.2 --local-dir models/Llama-3.2, then init_f"),
        ("a/b@v1.0", "hf download a/b --revision v1.0 --local-dir models/b, then init_from=model"),
    ):
        with pytest.raises(ConfigError, match=f"^init_from={name}: no folder here; .*: {wanted}"):
            train(tiny(f"init_from={name}"))
    with pytest.raises(ConfigError, match=r"init_from=.*nowhere: not the folder of a finished run"):
        train(tiny("model=rope", f"init_from={tmp_path}/nowhere"))
    source = tiny("model=rope")
    train(source)
    said = rf"a model of another size; add size.d_ff={check(source).size.d_ff}$"
    with pytest.raises(ConfigError, match=said):
        train(tiny("model=nope", f"init_from={folder_of(source)}", "size.d_ff=48"))
    study = folder_of(source).parent
    said = rf"of a finished run; give one of its runs: init_from={folder_of(source)}$"
    with pytest.raises(ConfigError, match=said):
        train(tiny("model=nope", f"init_from={study}"))
    (folder_of(source) / "done.json").unlink()
    with pytest.raises(ConfigError, match="this run is not finished; train it to its end"):
        train(tiny("model=nope", f"init_from={folder_of(source)}"))
