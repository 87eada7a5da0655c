"""What training on tasks costs: a step beside one on text, generation of examples, many runs.

    python scripts/bench_tasks.py [--runs 100] [--tokens 2e4] [--rounds 4] [--out FILE.md]

Steps: size=nano on addition (rows of 64 tokens) and on text of that length, through the trainer's
own loop, in turns; CPU seconds of the process on one thread. Runs: `lexp train -m` over --runs
seeds of the smallest model, a process for each core, then `lexp eval` of them; CPU seconds of the
command and its children over wall time and cores. The last table compares with what is wanted. The
machine should have nothing else to do; two cores take four to five minutes.
"""

import argparse
import contextlib
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from bench_files import add_outputs, publish

from lexp import __version__
from lexp.data.reading import DocumentBatches
from lexp.data.tasks.addition import Addition
from lexp.data.tasks.dataset import TaskDataset
from lexp.data.tokens import Tokens
from lexp.distributed import SingleProcess, make_engine
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Full
from lexp.position import RoPE
from lexp.record import NullLogger
from lexp.system import runtime
from lexp.training import loop
from lexp.training.batches import BatchSource, TaskBatches, TextBatches
from lexp.training.objective import Batch, CausalLM
from lexp.training.optim import OptimSettings, make_optimizers
from lexp.training.validation import TaskValidation

CPU = torch.device("cpu")
NANO = Dims(n_layers=4, d_model=128, n_heads=4, head_dim=32, d_ff=512)
DATASET = TaskDataset(Addition(), max_length=20)
ROW, STEP_TOKENS, STEPS = DATASET.train_len, 2048, 20
OPTIM = OptimSettings(1e-3, 0.9, 0.98, 1e-8, 0.01, 1.0, "constant", 0.0, 1.0, 1.0)


@dataclass
class Timed:
    """A source of batches that counts the CPU seconds in which it made them."""

    source: BatchSource
    seconds: list[float] = field(default_factory=list)

    def batch(self, step: int) -> Batch:
        """Return the batch of a step."""
        started = time.process_time()
        batch = self.source.batch(step)
        self.seconds.append(time.process_time() - started)
        return batch

    def in_words(self, n_tokens: int) -> list[str]:
        """Return the source's words."""
        return self.source.in_words(n_tokens)


def sources() -> dict[str, Timed]:
    """Return the batches of both kinds: as many rows of as many tokens."""
    rows, vocabulary = STEP_TOKENS // ROW, 256
    ids = np.random.default_rng(0).integers(32, 127, size=1 << 20, dtype=np.uint8)
    text = Tokens(("text",), ids, np.array([0, len(ids)]), None)
    windows = DocumentBatches(text, ROW, rows, seed=0)
    return {
        "text": Timed(TextBatches(windows, CausalLM(), 0, vocabulary)),
        "addition": Timed(TaskBatches(DATASET, rows, 0, n_steps=1000)),
    }


def job_of(source: Timed, folder: Path) -> loop.TrainingJob:
    """Return a training of the nano model with RoPE, as `lexp train` has it on a CPU."""
    torch.manual_seed(0)
    model = Transformer(NANO, 256, [LayerEntry(lambda: RoPE(NANO.head_dim))])
    settings = loop.TrainSettings(
        train_len=ROW, n_steps=10**9, batch_size=STEP_TOKENS // ROW, accumulation=1, optim=OPTIM,
        save_every=10**9, keep=frozenset(), eval_every=10**9,
    )  # fmt: skip
    return loop.TrainingJob(
        group=SingleProcess(), engine=make_engine(SingleProcess(), "ddp", model, model.loss, False),
        model=model, pattern=Full(), optimizers=make_optimizers(model, OPTIM), batches=source,
        validation=TaskValidation({}), settings=settings,
        autocast=runtime.autocast(runtime.choose_precision("auto", CPU), CPU),
        checkpoints=folder, metrics=NullLogger(), mirrors=(), stop=runtime.StopRequest(),
    )  # fmt: skip


class EnoughError(Exception):
    """Ends a round: training itself would go on."""


def seconds_per_step(job: loop.TrainingJob) -> float:
    """Return the median CPU seconds of the next steps; all that a step does, its batch too."""
    ends: list[float] = []

    def after_step() -> None:
        ends.append(time.process_time())
        if len(ends) > STEPS:
            raise EnoughError

    job.after_step = after_step
    with contextlib.suppress(EnoughError):
        loop.train(job, NullLogger())
    return statistics.median(np.diff(ends).tolist())


class Measured(NamedTuple):
    """A table, and which of its numbers are wanted to be how large: name, number, bound, is it."""

    lines: list[str]
    goals: list[tuple[str, str, str, bool]]


def steps_table(rounds: int) -> Measured:
    """Measure steps: addition beside text, and what generation takes."""
    with tempfile.TemporaryDirectory() as folder:
        made = sources()
        jobs = {name: job_of(source, Path(folder)) for name, source in made.items()}
        for job in jobs.values():  # warms up
            seconds_per_step(job)
        times: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(rounds):
            for name, job in jobs.items():
                times[name].append(seconds_per_step(job))
    rows, goals = [], []
    for name, own in times.items():
        ratios = [text / mine for text, mine in zip(times["text"], own, strict=True)]
        took, batch = statistics.median(own), statistics.median(made[name].seconds)
        if name == "addition":
            rate, share = statistics.median(ratios), batch / took
            goals = [
                ("examples made, of a step", f"{share:.1%}", "at most 3 %", share <= 0.03),
                ("step rate to text's", f"{rate:.2f}x", "at least 1.00x", rate >= 1),
            ]
        rows.append(
            f"| {name} | {1000 * took:.1f} | {STEP_TOKENS / took / 1000:.1f}k | "
            f"{statistics.median(ratios):.2f}x | {min(ratios):.2f} to {max(ratios):.2f} | "
            f"{1000 * batch:.2f} | {batch / took:.1%} |"
        )
    lines = [
        f"Steps of {STEP_TOKENS} tokens, rows of {ROW}, size=nano, RoPE; median of {rounds} rounds "
        f"of {STEPS} steps in turns:",
        "",
        "| data | CPU ms | tokens/s | rate to text's | of rounds | batch, ms | of the step |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *rows,
    ]
    return Measured(lines, goals)


def command(words: list[str]) -> tuple[float, float]:
    """Run a command of lexp, which must succeed; return wall time, and its CPU seconds."""

    def cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before, started = cpu(), time.perf_counter()
    ended = subprocess.run([sys.executable, "-m", "lexp", *words], capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"lexp {' '.join(words)} ended with {ended.returncode}:\n{ended.stderr}")
    return time.perf_counter() - started, cpu() - before


def runs_table(n_runs: int, tokens: float) -> Measured:
    """Measure many runs of one command."""
    n_cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        common = [f"outputs={folder}"]
        train = ["train", "-m", "dataset=addition", "model=rope", "size=nano", f"tokens={tokens}"]
        seeds = [f"seed=range({n_runs})", "hydra/launcher=local"]
        asked = ["lengths=[5,10]", "attention=[full]", "examples=32"]
        rows, goals = [], []
        for name, words in {
            "train": [*train, *seeds, *common],
            "eval": ["eval", *asked, f"workers={n_cores}", *common],
        }.items():
            wall, cpu = command(words)
            used = cpu / wall / n_cores
            if name == "train":
                goals = [(f"{n_cores} cores used", f"{used:.0%}", "at least 90 %", used >= 0.9)]
            rows.append(f"| {name} | {wall:.0f} | {cpu:.0f} | {used:.0%} | {wall / n_runs:.2f} |")
    lines = [
        f"{n_runs} runs of size=nano, {tokens:.0f} tokens each, on {n_cores} cores, a process for "
        "each core:",
        "",
        "| command | seconds | CPU seconds | cores used | seconds per run |",
        "| --- | ---: | ---: | ---: | ---: |",
        *rows,
    ]
    return Measured(lines, goals)


def main() -> None:
    """Print the tables; write them too where --out says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--tokens", type=float, default=2e4, help="of each training")
    parser.add_argument("--rounds", type=int, default=4)
    add_outputs(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    runtime.prepare_process()
    steps, runs = steps_table(given.rounds), runs_table(given.runs, given.tokens)
    goals = [
        f"| {name} | {number} | {bound} | {'yes' if holds else 'no'} |"
        for name, number, bound, holds in (*steps.goals, *runs.goals)
    ]
    lines = [
        f"lexp {__version__}, torch {torch.__version__}, {platform.machine()}, "
        f"{runtime.choose_precision('auto', CPU)}.",
        "",
        *steps.lines,
        "",
        *runs.lines,
        "",
        "| measured | | wanted | reached |",
        "| --- | ---: | --- | --- |",
        *goals,
    ]
    publish("\n".join(lines), given)


if __name__ == "__main__":
    main()
