"""What a study of many runs costs: status, plan, report, one new result, a finished sweep again.

    python scripts/bench_results.py [--runs 300] [--trained 1] [--only report ...] [--out FILE.md]

A few tiny runs are trained and scored (18 cells each), then cloned with other seeds until there
are --runs. Figures are CPU seconds of a process of its own, from after its imports to its end.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from bench_files import add_outputs, publish

from lexp import __version__
from lexp.runs.run import Run, run_folder
from lexp.system.files import read_sealed, sha256, write_json, write_sealed

TINY = (
    "size=nano", "size.n_layers=1", "size.d_model=16", "size.n_heads=2", "size.head_dim=8",
    "size.d_ff=32", "train_len=16", "batch_tokens=64", "tokens=640", "precision=float32",
    "device=cpu", "eval_every=1000",
)  # fmt: skip
ASKED = (
    "lengths=[8,16,24,32,48,64]", "attention=[full,window,blockwise]", "max_tokens=2048",
    "device=cpu", "precision=float32", "workers=1",
)  # fmt: skip
# Runs in the measured process: all that takes long to import is imported first.
CHILD = """
import sys, time, json
from importlib import import_module
for name in ("evaluate", "report", "status", "train"):
    import_module("lexp.commands." + name)
from lexp.cli.main import main
from lexp.evaluate import EVALUATIONS
from lexp.report import append_results, write_results
from lexp.result_store import read
from pathlib import Path
if sys.argv[1] in ("append", "table"):
    study = Path(sys.argv[2])
    one = read(next(study.glob("*/eval/*.json")), EVALUATIONS)
started = time.process_time()
try:
    if sys.argv[1] == "append":
        append_results(study, [one])
    elif sys.argv[1] == "table":
        write_results(study)
    else:
        main()
finally:
    print("\\nCPU", time.process_time() - started)
"""


def main() -> None:
    """Print the table; write it too where --out says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--trained", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="rows to measure")
    parser.add_argument("--keep", type=Path, help="make the study here, or use the one made here")
    add_outputs(parser)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        if not (folder / "outputs").exists():
            make_study(folder, given.runs, given.trained)
        lines = measured(folder, given)
    publish("\n".join(lines), given)


def make_study(folder: Path, n_runs: int, n_trained: int) -> None:
    """Write texts, train and score a few runs, and clone them."""
    random, words = Random(0), ("the", "of", "and", "to", "in", "that", "is", "was", "it", "as")
    for split, n_files in (("train", 6), ("validation", 2), ("test", 6)):
        (folder / split).mkdir(parents=True)
        for n in range(n_files):
            text = " ".join(random.choice(words) for _ in range(400))
            (folder / split / f"{n}.txt").write_text(text, encoding="utf-8")
    for seed in range(n_trained):
        lexp(["train", *of_run(folder, seed)])
    lexp(["eval", f"outputs={folder}/outputs", *ASKED])
    study = folder / "outputs" / "default"
    sources = [Run(path.parent) for path in sorted(study.glob("*/config.json"))]
    for seed in range(n_trained, n_runs):
        clone(sources[seed % n_trained], study, seed)


def of_run(folder: Path, seed: int | str) -> list[str]:
    """Return the words of a training."""
    texts = [f"dataset.{split}={folder}/{split}/*.txt" for split in ("train", "validation", "test")]
    return ["model=rope", "dataset=text", f"seed={seed}", *TINY, *texts,
            f"outputs={folder}/outputs"]  # fmt: skip


def clone(source: Run, study: Path, seed: int) -> None:
    """Copy a run under another seed, as training and evaluation would have left it."""
    settings = {**source.settings, "seed": seed}
    folder = run_folder(study, settings)
    shutil.copytree(source.folder, folder)
    write_json(folder / "config.json", {**source.config, "settings": settings})
    for path in folder.glob("checkpoints/*/state.json"):
        manifest = json.loads((path.parent / "manifest.json").read_text())
        manifest["run"] = folder.name
        write_json(path.parent / "manifest.json", manifest)
        assert manifest["files"]["state.json"]["sha256"] == sha256(path)
    for path in folder.glob("eval/*.json"):
        record = read_sealed(path)
        record["values"]["run"].update(name=folder.name, seed=seed)
        write_sealed(path, record)


def lexp(words: list[str]) -> float:
    """Run a command of lexp, which must succeed; return its CPU seconds after imports."""
    command = [sys.executable, "-c", CHILD, *words]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        said = ended.stderr or ended.stdout
        raise SystemExit(f"lexp {' '.join(words)} ended with {ended.returncode}:\n{said}")
    return float(ended.stdout.rsplit("CPU", 1)[1])


def measured(folder: Path, given: argparse.Namespace) -> list[str]:
    """Return the page: what was measured on, and the rows."""
    outputs, study = f"outputs={folder}/outputs", folder / "outputs" / "default"
    names = [path.parent.name for path in study.glob("*/config.json")]
    n_cells = len(list(study.glob("*/eval/*.json")))
    seeds = ",".join(map(str, range(len(names))))
    commands = {
        "lexp status": ["status", outputs],
        "lexp eval plan=true": ["eval", outputs, *ASKED, "plan=true"],
        "lexp eval, all done": ["eval", outputs, *ASKED],
        "lexp report": ["report", outputs],
        "results.csv, written whole": ["table", str(study)],
        "results.csv, one new result": ["append", str(study)],
        "lexp train -m, all done": ["train", "-m", *of_run(folder, seeds)],
    }
    lines = [
        f"lexp {__version__}, Python {platform.python_version()}, {platform.machine()}, "
        f"{os.cpu_count()} cores, {len(names)} runs, {n_cells} cells",
        "",
        "| | CPU s | wall s |",
        "| --- | ---: | ---: |",
    ]
    for name, words in commands.items():
        if given.only and not any(one in name for one in given.only):
            continue
        started = time.perf_counter()
        cpu = lexp(words)
        lines.append(f"| `{name}` | {cpu:.2f} | {time.perf_counter() - started:.1f} |")
        print(lines[-1], file=sys.stderr)
    return lines


if __name__ == "__main__":
    main()
