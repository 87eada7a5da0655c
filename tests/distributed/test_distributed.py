"""Several ranks that train one model: the numbers of one process, one writer, one end for all.

Ranks are forked, and meet as those of a SLURM step do; torchrun itself runs in the last tests.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch

import lexp.distributed.shards  # noqa: F401  (slow to import: once, not in every fork)
from lexp.commands.train import train
from lexp.data.reading import Batches
from lexp.distributed import failure_monitor, group
from lexp.model import transformer as model
from lexp.model.transformer import Transformer
from lexp.record.metrics import read
from lexp.runs import checkpoint
from lexp.runs.locks import locked
from lexp.runs.run import Run
from lexp.system.errors import ConfigError
from lexp.system.ranks import Rank, place
from lexp.training import loop
from support import ROOT
from support.children import Ended, start
from support.config import TINY, compose, dataset
from support.training import folder_of, result_of

SIZE = ("size.n_layers=2", "batch_tokens=128", "tokens=1280")


def run_ranks(n_ranks: int, action: Callable[[], None], log: Path) -> list[Ended]:
    """Fork so many ranks, each of which does the same; how each ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(n_ranks):
        own = {"RANK": rank, "WORLD_SIZE": n_ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
               "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": n_ranks}  # fmt: skip

        def placed(own=own):
            os.environ.update({name: str(value) for name, value in own.items()})
            action()

        children.append(start(placed, log / f"rank-{rank}.log"))
    return [child.end(60) for child in children]


def rank() -> int:
    return int(os.environ["RANK"])


def succeed(n_ranks: int, config, log: Path) -> str:
    """Train on so many ranks; what rank 0 said, the others being silent."""
    first, *others = run_ranks(n_ranks, lambda: train(config), log)
    assert [first.code, *(other.code for other in others)] == [0] * n_ranks, first.said
    assert [other.said for other in others] == [""] * (n_ranks - 1)
    return first.said


def column(config, key: str) -> list[float]:
    """A number of every step; each step is there once."""
    lines = [x for x in read(folder_of(config) / "metrics.jsonl") if x["event"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line[key] for line in lines]


def assert_like(config, wanted) -> None:
    """Losses within 1e-6, and norms, which show the scale of gradients: AdamW does not see it."""
    assert column(config, "loss") == pytest.approx(column(wanted, "loss"), rel=0, abs=1e-6)
    norms = column(wanted, "grad_norm")
    assert column(config, "grad_norm") == pytest.approx(norms, rel=1e-5)
    ours, theirs = (
        {
            (line["step"], key): value
            for line in read(folder_of(c) / "metrics.jsonl")
            for key, value in line.items()
            if key.startswith("nll@")
        }
        for c in (config, wanted)
    )
    assert len(ours) >= 2 and ours == pytest.approx(theirs, rel=1e-6)


# --- the numbers


CASES = [
    ("rope", "ddp", 2, ()),
    ("rope", "fsdp", 4, ("trunk=qwen3",)),
    ("t5", "ddp", 4, ("optim.clip=0.01",)),
    ("t5", "fsdp", 2, ("optim.clip=0.01",)),
    ("fox", "ddp", 2, ("accumulation=2",)),
    ("fox", "fsdp", 2, ()),
    ("random_rope", "ddp", 4, ("accumulation=2",)),
    ("random_rope", "fsdp", 2, ("accumulation=2", "optim.clip=0")),
    ("fire", "fsdp", 2, ()),  # has parameters that are single numbers
    ("xpos", "fsdp", 2, ("objective=mlm", "size.share_layers=true")),
    ("tisa", "ddp", 2, ("objective=mlm", "accumulation=2")),
]


@pytest.mark.parametrize(("scheme", "parallel", "n_ranks", "given"), CASES)
def test_numbers_are_those_of_one_process(tiny, tmp_path, scheme, parallel, n_ranks, given):
    common = (f"model={scheme}", *SIZE, *given)
    wanted = tiny(*common, f"outputs={tmp_path}/one")
    train(wanted)
    config = tiny(*common, f"parallel={parallel}", f"outputs={tmp_path}/many")
    said = succeed(n_ranks, config, tmp_path / "log")
    assert f"{n_ranks} ranks by {parallel}" in said
    assert_like(config, wanted)
    assert folder_of(config).name == folder_of(wanted).name
    first, second = (
        {path.relative_to(folder_of(c)): path for path in folder_of(c).rglob("*")}
        for c in (config, wanted)
    )
    assert set(first) == set(second)
    ours, theirs = (
        checkpoint.verify(folder_of(c) / "checkpoints" / "step-00000010") for c in (config, wanted)
    )
    assert ours.state.keys() == theirs.state.keys()
    assert shapes(ours) == shapes(theirs)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_ranks_train_a_task_whatever_number_of_answer_tokens_each_has(tmp_path, parallel):
    """And validate it: exact match needs logits, which sharded models compute too."""
    task = ("dataset=copy", "dataset.max_length=4", "batch_tokens=80", "tokens=240", "eval_every=2",
            "optim.matrices=adamw")  # fmt: skip
    own = [word for word in TINY if word.split("=")[0] not in (*(w.split("=")[0] for w in task),
                                                              "train_len")]  # fmt: skip
    one, many = (
        compose("train", *own, *task, "model=samba", "size.n_layers=2", "accumulation=2",
                f"parallel={parallel}", f"outputs={tmp_path}/{name}")
        for name in ("one", "many")
    )  # fmt: skip
    train(one)
    succeed(2, many, tmp_path / "log")
    ours, theirs = (
        list(read(next((tmp_path / name).glob("*/*/metrics.jsonl")))) for name in ("many", "one")
    )
    assert [line.pop("event") for line in ours] == [line.pop("event") for line in theirs]
    assert [sorted(line) for line in ours] == [sorted(line) for line in theirs]
    assert sum("exact_match@4" in line for line in ours) == 2
    for line, wanted in zip(ours, theirs, strict=True):
        assert line == pytest.approx(wanted, rel=1e-5)


def shapes(found) -> dict:
    return {
        (name, key): (value.dtype, value.shape)
        for name in checkpoint.FILES[:2]
        for key, value in checkpoint.load_file(found.path / name).items()
    }


@pytest.mark.parametrize("n_ranks", [2, 4])
def test_ranks_share_the_sample_ids_of_one_process(tiny, tmp_path, n_ranks):
    config = tiny("model=rope", *SIZE, "accumulation=2")

    def action():
        original = Transformer.loss

        def loss(self, tokens, targets, *others):
            seen.append(torch.cat([tokens, targets[:, -1:]], 1))
            torch.save(seen, tmp_path / f"{rank()}.pt")
            return original(self, tokens, targets, *others)

        seen: list[torch.Tensor] = []
        Transformer.loss = loss
        train(config)

    assert all(ended.code == 0 for ended in run_ranks(n_ranks, action, tmp_path / "log"))
    seen = [torch.load(tmp_path / f"{n}.pt") for n in range(n_ranks)]

    wanted: list[torch.Tensor] = []
    original = Batches.batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batches, "batch", lambda *a: wanted.append(original(*a)) or wanted[-1])
        train(tiny("model=rope", *SIZE, "accumulation=2", f"outputs={tmp_path}/one"))
    assert len(wanted) == 10 and len(seen[0]) == 20
    for step, batch in enumerate(wanted):
        parts = [own[2 * step + part] for part in range(2) for own in seen]
        assert torch.equal(torch.cat(parts), torch.from_numpy(batch.tokens))


def test_a_run_goes_on_with_other_ranks_and_the_other_strategy(tiny, tmp_path):
    """One process to step 2, 2 ranks to 4, 4 to 7, one to the end: losses of one process."""
    common = ("model=t5", *SIZE, "eval_every=5")
    wanted = tiny(*common, f"outputs={tmp_path}/one")
    train(wanted)
    configs = [
        tiny(*common, f"parallel={parallel}", f"outputs={tmp_path}/many")
        for parallel in ("fsdp", "ddp", "fsdp", "ddp")
    ]
    for config, n_ranks, step in zip(configs, (1, 2, 4, 1), (2, 4, 7, None), strict=True):

        def action(config=config, step=step, last=n_ranks - 1):
            if step is not None:
                signal_at(step, signal.SIGTERM, last)
            train(config)

        for ended in run_ranks(n_ranks, action, tmp_path / "log"):
            assert ended.code == (75 if step else 0), ended.said
    assert_like(configs[0], wanted)


@pytest.mark.parametrize(("n_ranks", "parallel"), [(4, "fsdp"), (2, "ddp")])
def test_a_state_that_is_loaded_and_saved_is_the_same_bit_for_bit(
    tiny, tmp_path, n_ranks, parallel
):
    trained = tiny("model=fire", *SIZE, "tokens=512")
    train(trained)
    folder = folder_of(trained)
    (folder / "done.json").unlink()
    found = checkpoint.latest(folder / "checkpoints")
    before = {name: (found.path / name).read_bytes() for name in checkpoint.FILES[:2]}
    inode = found.path.stat().st_ino

    def action():
        loop.train = lambda job, console: loop.save(job)
        train(tiny("model=fire", *SIZE, "tokens=512", f"parallel={parallel}"))

    assert all(ended.code == 0 for ended in run_ranks(n_ranks, action, tmp_path / "log"))
    assert found.path.stat().st_ino != inode, "it was not written again"
    assert before == {name: (found.path / name).read_bytes() for name in checkpoint.FILES[:2]}


# --- the end


def at_step(step: int, on_rank: int, action: Callable[[], None]) -> None:
    """Do something on one rank when it begins a step, counted from 0."""
    original = loop._step

    def begin(job, *others):
        if job.step == step and rank() == on_rank:
            action()
        return original(job, *others)

    loop._step = begin


def signal_at(step: int, number: int, on_rank: int) -> None:
    """One rank gets a signal in the middle of the step that ends as `step`."""
    at_step(step - 1, on_rank, lambda: os.kill(os.getpid(), number))


@pytest.mark.parametrize(
    ("number", "code", "on_rank", "parallel"),
    [
        (signal.SIGTERM, 75, 1, "ddp"),
        (signal.SIGUSR1, 75, 0, "fsdp"),
        (signal.SIGUSR2, 75, 1, "ddp"),
        (signal.SIGINT, 130, 1, "ddp"),
    ],
)
def test_a_signal_on_one_rank_stops_all_at_the_same_step(
    tiny, tmp_path, number, code, on_rank, parallel
):
    given = (*SIZE, "model=random_rope", f"parallel={parallel}")
    whole, config = (tiny(*given, f"outputs={tmp_path}/{name}") for name in ("whole", "broken"))
    succeed(2, whole, tmp_path / "log")

    def action():
        signal_at(6, number, on_rank)
        train(config)

    first, second = run_ranks(2, action, tmp_path / "log")
    assert (first.code, second.code) == (code, code), first.said + second.said
    assert first.said.count("stopped at step 6, saved") == 1 and second.said == ""
    root = folder_of(config) / "checkpoints"
    assert sorted(path.name for path in root.iterdir()) == ["step-00000004", "step-00000006"]
    succeed(2, config, tmp_path / "log")
    assert result_of(folder_of(config)) == result_of(folder_of(whole))


def hand_back_on_rank_0(tmp_path: Path) -> Callable[[], None]:
    """What submitit does on every rank: rank 0 asks for the job to be queued again."""

    def handler(number, frame):
        (tmp_path / f"asked-{rank()}").touch()

    return lambda: signal.signal(signal.SIGUSR2, handler)


def test_who_waits_for_the_signal_gets_it_on_every_rank(tiny, tmp_path):
    config = tiny(*SIZE)

    def action():
        hand_back_on_rank_0(tmp_path)()
        signal_at(3, signal.SIGUSR2, 1)
        train(config)

    assert [ended.code for ended in run_ranks(2, action, tmp_path / "log")] == [75, 75]
    assert sorted(path.name for path in tmp_path.glob("asked-*")) == ["asked-0", "asked-1"]


def not_a_number() -> None:
    original = model.head_loss
    model.head_loss = lambda *arguments: original(*arguments) * float("nan")


def out_of_memory() -> None:
    raise torch.OutOfMemoryError("tried to allocate 9 GiB")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def full_disk() -> None:
    def full(tensors, path):
        raise checkpoint.SafetensorError("No space left on device")

    checkpoint.save_file = full


FAILURES = {
    "diverges": (not_a_number, 1, 6, "at step 6 of 10"),
    "has no memory": (out_of_memory, 1, 7, "9 GiB"),
    "cannot save": (full_disk, 0, 5, "cannot write"),
    "is killed": (killed, 1, 10, "rank 1 of 3 ended without an error message"),
    "keeps the store and is killed": (killed, 0, 10, "rank 0 of 3 ended without an error message"),
}
STATES = {6: "diverged", 7: "out of memory", 5: "failed", 10: "failed"}


@pytest.mark.parametrize(
    ("failure", "parallel"),
    [*((failure, "ddp") for failure in FAILURES), ("has no memory", "fsdp"), ("is killed", "fsdp")],
)
def test_what_fails_on_one_rank_ends_all_by_its_code_and_one_line(
    tiny, tmp_path, monkeypatch, failure, parallel
):
    monkeypatch.setattr(failure_monitor, "HEARD_S", 2.0)  # a killed rank is waited for so long
    fault, on_rank, code, line = FAILURES[failure]
    # The batch of 3 ranks: 6 texts of 16 tokens.
    config = tiny("batch_tokens=96", "tokens=960", f"parallel={parallel}", "model=nope")

    def action():
        at_step(5, on_rank, fault)
        train(config)

    ended = run_ranks(3, action, tmp_path / "log")
    wanted = [-9 if fault is killed and n == on_rank else code for n in range(3)]
    assert [one.code for one in ended] == wanted, [one.said for one in ended]
    said = "".join(one.said for one in ended)
    (told,) = re.findall("^lexp: (.*)", said, re.M)
    assert line in told and "Traceback" not in said
    status = read_status(config)
    if fault is killed and on_rank == 0:
        assert status.state == "lost"
    else:
        assert status.state == STATES[code] and line in status.reason
    succeed(3, config, tmp_path / "log")


def read_status(config):
    from lexp.runs.status import judge

    return judge(folder_of(config))


def test_a_defect_on_one_rank_is_one_traceback(tiny, tmp_path):
    config = tiny(*SIZE)

    def action():
        at_step(5, 1, lambda: {}["a key"])
        train(config)

    first, second = run_ranks(2, action, tmp_path / "log")
    assert (first.code, second.code) == (1, 70)
    assert "Traceback" not in first.said and "lexp: " not in first.said
    assert second.said.count("Traceback") == 1 and "KeyError: 'a key'" in second.said


def test_a_rank_that_does_not_leave_its_work_is_ended(tiny, tmp_path, monkeypatch):
    """It waits in what no error of another rank ends, as collectives of NCCL are."""
    monkeypatch.setattr(failure_monitor, "HEARD_S", 0.5)
    monkeypatch.setattr(failure_monitor, "LEAVE_S", 0.5)
    config = tiny(*SIZE)

    def action():
        at_step(5, 0, out_of_memory)
        at_step(5, 1, lambda: time.sleep(1000))
        train(config)

    first, second = run_ranks(2, action, tmp_path / "log")
    assert (first.code, second.code) == (7, 7) and "9 GiB" in first.said and second.said == ""


def test_a_rank_ends_though_its_collective_cannot_be_aborted(monkeypatch):
    """A backend may refuse to abort: the monitor's thread must live to end the process."""

    class Store:
        def clone(self):
            return self

        def check(self, keys):
            return True

        def get(self, key):
            return b'{"rank": 1, "kind": "DataError", "text": "no texts", "code": 3}'

        def set(self, key, value):
            pass

    class Members:
        class WORLD:
            @staticmethod
            def abort():
                raise RuntimeError("the backend does not support abort")

    ended = []
    monkeypatch.setattr(torch.distributed.distributed_c10d, "GroupMember", Members)
    monkeypatch.setattr(failure_monitor, "HEARD_S", 0.0)
    monkeypatch.setattr(failure_monitor, "LEAVE_S", 0.0)
    monkeypatch.setattr(os, "_exit", ended.append)
    monitor = failure_monitor.FailureMonitor(Store(), Rank(rank=0, size=2))
    monitor._thread.join(10)
    assert ended == [3] and monitor.failure.text == "no texts"


def test_a_rank_that_is_silent_is_lost(tiny, tmp_path, monkeypatch):
    """A machine that is gone closes no connection; here a rank is stopped."""
    monkeypatch.setattr(failure_monitor, "HEARD_S", 2.0)
    monkeypatch.setattr(group, "WAIT", timedelta(seconds=8))
    config = tiny(*SIZE)

    def action():
        own = os.getpid()
        if rank() == 1 and os.fork() == 0:
            while "lexp: " not in (tmp_path / "log" / "rank-0.log").read_text():
                time.sleep(0.1)
            os.kill(own, signal.SIGKILL)
            os._exit(0)
        at_step(5, 1, lambda: os.kill(own, signal.SIGSTOP))
        train(config)

    first, second = run_ranks(2, action, tmp_path / "log")
    assert (first.code, second.code) == (10, -9)
    assert "lexp: rank 1 of 2 ended without an error message" in first.said


# --- who may


def test_only_rank_0_holds_the_folder(tiny, tmp_path):
    config = tiny(*SIZE)
    with locked(folder_of(config)):
        ended = run_ranks(2, lambda: train(config), tmp_path / "log")
    assert [one.code for one in ended] == [8, 8]
    assert "".join(one.said for one in ended).count("lexp: ") == 1
    assert succeed(2, config, tmp_path / "log")
    said = succeed(2, config, tmp_path / "log")
    assert said.count("is complete, nothing to do") == 1 and Run(folder_of(config)).is_done


REFUSED = {
    "batch_tokens=128 on 3 ranks (a multiple of train_len * accumulation * ranks = 48: 96 ": (
        3,
        (),
    ),
    "compile=true with parallel=fsdp": (2, ("parallel=fsdp", "compile=true")),
    "device=mps trains in one process, not on 2 ranks": (2, ("device=mps",)),
    "parallel=pipeline (one of ddp, fsdp)": (2, ("parallel=pipeline",)),
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_ranks_cannot_do_is_one_line(tiny, tmp_path, line):
    n_ranks, given = REFUSED[line]
    config = tiny(*SIZE, *given)
    ended = run_ranks(n_ranks, lambda: train(config), tmp_path / "log")
    assert [one.code for one in ended] == [2] * n_ranks
    said = "".join(one.said for one in ended)
    assert said.count("lexp: ") == 1 and line in said and "Traceback" not in said


def test_texts_that_rank_0_cannot_read_are_said_once(tiny, tmp_path):
    """The others wait for it to tokenise them."""
    config = tiny(*SIZE, f"dataset.train={tmp_path}/nowhere/*.txt")
    ended = run_ranks(2, lambda: train(config), tmp_path / "log")
    assert [one.code for one in ended] == [3, 3]
    (line,) = re.findall("^lexp: .*", ended[0].said + ended[1].said, re.M)
    assert "nowhere" in line


def command(*words: str, cwd: Path, n_ranks: int | None = 2) -> subprocess.CompletedProcess:
    """`torchrun ... -m lexp WORDS`."""
    runner = ["-m", "torch.distributed.run", f"--nproc-per-node={n_ranks}", "--standalone"]
    return subprocess.run(
        [sys.executable, *runner, "-m", "lexp", *words],
        cwd=cwd, capture_output=True, text=True, timeout=170,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_torchrun_trains_one_model(texts, tmp_path):
    ended = command("train", *TINY, *dataset(texts), "model=rope", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "2 ranks by ddp" in ended.stderr
    (folder,) = (tmp_path / "outputs" / "default").glob("rope-*")
    lines = read(folder / "metrics.jsonl")
    assert [x["step"] for x in lines if x["event"] == "train"] == list(range(1, 11))


@pytest.mark.parametrize("words", [("eval",), ("train", "-m", "seed=0,1")])
def test_other_work_is_refused(tmp_path, monkeypatch, words, capsys):
    from lexp.cli import main as cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lexp", *words])
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_PORT": "1",
                        "LOCAL_WORLD_SIZE": "2"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "is for one process, here are 2 ranks" in capsys.readouterr().err


SLURM = {
    "SLURM_JOB_ID": "71", "SLURM_STEP_ID": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "gpu[003-004],cpu1",
}  # fmt: skip


def test_places():
    assert place({}) == Rank()
    assert place(SLURM) == Rank(5, 8, 1, 4, "gpu003", 15000 + 71 * 31 + 2)
    assert place({**SLURM, "MASTER_PORT": "77", "MASTER_ADDR": "ib0"}).port == 77
    assert place({**SLURM, "SLURM_STEP_NUM_NODES": "1"}).address == "127.0.0.1"
    for hosts, first in {"a,b": "a", "n-[1,3-4]x,z": "n-1x", "one": "one"}.items():
        assert place({**SLURM, "SLURM_STEP_NODELIST": hosts}).address == first
    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
                "MASTER_ADDR": "here", "MASTER_PORT": "9"}  # fmt: skip
    assert place({**SLURM, **torchrun}) == Rank(1, 2, 0, 1, "here", 9)
    # A batch script, or a shell in an allocation of several tasks, is one process.
    batch = {key: value for key, value in SLURM.items() if "_STEP_" not in key}
    assert place({**batch, "SLURM_NTASKS": "8"}) == Rank()
    with pytest.raises(ConfigError, match="WORLD_SIZE='x' in the environment: not a number"):
        place({**torchrun, "WORLD_SIZE": "x"})
    with pytest.raises(ConfigError, match="set MASTER_ADDR"):
        place({**SLURM, "SLURM_STEP_NODELIST": "[1-2]"})
