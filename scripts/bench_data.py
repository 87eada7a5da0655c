"""What texts of real size cost: tokenising, opening a store, its index in memory, and batches.

    python scripts/bench_data.py [--documents 10e6] [--tokens 10e9] [--out FILE.md]

The large store has an index of so many documents, and ids in sparse files, which take no disk.
Tokenising is measured on the sources of Python's standard library. About 2 minutes on two cores.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path

import numpy as np

from lexp import __version__
from lexp.data import Corpus, Store, open_store
from lexp.data.corpus import SPLITS
from lexp.data.reading import Documents, Packed, Reading
from lexp.data.remarks import remarks
from lexp.data.shard_files import SHARD_TOKENS, SplitRecord, shard_name
from lexp.data.store import CHECKED, FORMAT, MANIFEST, store_folder
from lexp.data.text import TextFiles
from lexp.data.tokenise import encoded
from lexp.data.tokenizer import BPESpec, Bytes
from lexp.data.unchanged import FileFindings, state_of, write_states
from lexp.system.files import write_sealed

TRAIN_LEN, BATCH_TOKENS = 1024, 524_288
# `size=small` with 50257 tokens has 162M weights: 6 FLOPs for each and token, at 400 TFLOP/s of
# one GPU (bfloat16, 40 % of an H100's peak).
WEIGHTS, FLOPS_PER_S = 162e6, 400e12
FINGERPRINT = "0" * 64


class Wide(Bytes):
    """Stands for a vocabulary of 50257 tokens, whose ids take two bytes."""

    vocab_size, digest = 50257, "wide"


class Known(Corpus):
    """A corpus of which only the fingerprint is asked for."""

    def fingerprint(self) -> str:
        """Return a fingerprint."""
        return FINGERPRINT


def main() -> None:
    """Measure, and print a table of Markdown or write it to a file."""
    # Not above: it imports torch, which the memory of a part and of its processes would contain.
    from bench_files import add_outputs, publish

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=float, default=10e6)
    parser.add_argument("--tokens", type=float, default=10e9)
    add_outputs(parser)
    given = parser.parse_args()
    rows: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="lexp-data-") as name:
        folder = Path(name)
        for n_copies in (1, 4):
            write_texts(folder / "texts", n_copies)
            rows += of_tokenising(in_child("tokenise", folder), given.tokens, n_copies)
        write_large(folder, int(given.documents), int(given.tokens))
        rows += of_opening(in_child("open", folder))
    lines = [
        "| of texts | measured |",
        "| --- | ---: |",
        *(f"| {what} | {value} |" for what, value in rows),
    ]
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    with_ = f"lexp {__version__}, Python {platform.python_version()}, {platform.machine()}"
    lines += ["", f"{os.cpu_count()} cores, load {load}, {time.strftime('%Y-%m-%d')}; {with_}."]
    publish("\n".join(lines), given)


def in_child(part: str, folder: Path) -> dict[str, float]:
    """Return what a part measures in a process of its own."""
    words = [sys.executable, __file__, "--part", part, str(folder)]
    found = subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True).stdout
    return json.loads(found.splitlines()[-1])


def write_texts(folder: Path, n_copies: int) -> None:
    """Write the sources of the standard library, 4 MB of them, so many times."""
    folder.mkdir(exist_ok=True)
    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    texts = [path.read_text("utf-8", errors="replace") for path in sources]
    with (folder / "texts.jsonl").open("w") as file:
        for _ in range(n_copies):
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)


def measure_tokenising(folder: Path) -> dict[str, float]:
    """Tokenise the texts with BPE, in all processes; return what it takes."""
    corpus = TextFiles(train=str(folder / "texts" / "texts.jsonl"))
    few = Corpus()
    few.fingerprint = lambda: FINGERPRINT  # type: ignore[method-assign]
    few.documents = lambda split: (  # type: ignore[method-assign]
        document for n, document in enumerate(corpus.documents("train")) if n < 30
    )
    tokenizer = BPESpec(4096).load(few, folder)
    before, began = cpu_s(), time.perf_counter()
    n_tokens, n_bytes, child_mb = 0, 0, 0.0
    for batch in encoded(corpus.documents("train"), tokenizer):
        n_tokens += len(batch.ids)
        n_bytes += int(batch.text_bytes.sum())
        child_mb = max([child_mb, *(peak_mb(child.pid) for child in active_children())])
    return {"tokens": n_tokens, "bytes": n_bytes, "cpu_s": cpu_s() - before,
            "wall_s": time.perf_counter() - began, "peak_mb": peak_mb(),
            "child_mb": child_mb}  # fmt: skip


def cpu_s() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def of_tokenising(found: dict[str, float], n_tokens: float, n_copies: int) -> list[tuple[str, str]]:
    """Return rows of a table."""
    name = f"BPE, {found['bytes'] / 1e6:.0f} MB of text"
    rows = [(f"{name}: peak memory of the process", f"{found['peak_mb']:.0f} MB")]
    if n_copies > 1:
        rows.append((f"{name}: of each other process", f"{found['child_mb']:.0f} MB"))
        per_s = found["tokens"] / found["cpu_s"]
        rows += [
            (f"{name}: tokens a CPU second", f"{per_s / 1000:.0f}k"),
            (f"{round(n_tokens / 1e9, 1):g} B tokens on 64 cores, by that rate",
             f"{n_tokens / per_s / 64 / 3600:.1f} h"),
        ]  # fmt: skip
    return rows


def write_large(folder: Path, n_documents: int, n_tokens: int) -> None:
    """Write a store with an index of many documents, and their texts, as sparse files."""
    rng, tokenizer = np.random.default_rng(0), Wide()
    place = store_folder(folder, FINGERPRINT, tokenizer)
    place.mkdir()
    records = {}
    for split in SPLITS:
        n = n_documents if split == "train" else 1000
        lengths = rng.lognormal(0, 1, n)
        lengths = np.maximum(lengths / lengths.mean() * n_tokens / n_documents, 1).astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        starts.astype("<i8").tofile(place / f"{split}.starts")
        rng.integers(1, 1 << 63, n).astype("<u8").tofile(place / f"{split}.hashes")
        (np.arange(1, n + 1) * 20).astype("<i8").tofile(place / f"{split}.name_ends")
        with (place / f"{split}.names").open("wb") as names:
            names.truncate(20 * n)
        shards = []
        for first in range(0, int(starts[-1]), SHARD_TOKENS):
            size = min(SHARD_TOKENS, int(starts[-1]) - first)
            for kind in ("tokens", "bytes"):
                with (place / shard_name(split, len(shards), kind)).open("wb") as file:
                    file.truncate(2 * size)
            shards.append((size, True))
        known = SplitRecord(n, int(starts[-1]), 4 * int(starts[-1]), shards=shards, is_whole=True)
        records[split] = vars(known)
    files = {path.name: FINGERPRINT for path in place.iterdir()}
    states = {name: state_of(place / name) for name in files}
    write_sealed(place / MANIFEST,
                 {"format": FORMAT, "dtype": "<u2", "splits": records, "files": files})  # fmt: skip
    write_states(place / CHECKED, states)
    (folder / "large").mkdir()
    for number in range(1000):
        with (folder / "large" / f"{number}.parquet").open("wb") as file:
            file.truncate(4 * n_tokens // 1000)
    time.sleep(2.5)  # files younger than 2 seconds are not remembered
    large_texts(folder).fingerprint()


def large_texts(folder: Path) -> TextFiles:
    """Return a corpus of 1000 files, whose content is never read."""
    corpus = TextFiles(train=str(folder / "large"))
    corpus.findings = FileFindings(folder)
    corpus._find = lambda: {"fingerprint": FINGERPRINT}  # type: ignore[method-assign]
    return corpus


def measure_opening(folder: Path) -> dict[str, float]:
    """Open the large store as a second start does; return seconds and memory."""
    found = {}
    found["texts_s"], _ = timed(large_texts(folder).fingerprint)
    before = memory_mb()
    found["open_s"], store = timed(lambda: open_store(Known(), Wide(), folder))
    tokens = store.splits["train"]
    found["lengths_s"], _ = timed(lambda: tokens.lengths.sum())
    found["index_mb"] = memory_mb() - before
    found["remarks_s"], _ = timed(lambda: remarks(store, "wide"))
    for name, reading in (("documents", Documents()), ("packed", Packed())):
        found |= {f"{name}_{key}": value for key, value in of_reading(store, reading).items()}
    found["documents"], found["tokens"] = len(tokens.lengths), float(len(tokens.ids))
    return found


def of_reading(store: Store, reading: Reading) -> dict[str, float]:
    """Return what batches of a reading cost: to begin, the first, and each of those after."""
    before = memory_mb()
    batch_size = BATCH_TOKENS // TRAIN_LEN
    begin_s, batches = timed(
        lambda: reading.batches(store.splits["train"], 1, TRAIN_LEN, batch_size, 0)
    )
    said_s, _ = timed(batches.remarks)
    first_s, _ = timed(lambda: batches.batch(0))
    began = time.process_time()
    for step in range(1, 11):
        batches.batch(step)
    return {"begin_s": begin_s + said_s, "first_s": first_s, "memory_mb": memory_mb() - before,
            "each_s": (time.process_time() - began) / 10}  # fmt: skip


def timed(action: Callable[[], object]) -> tuple[float, object]:
    """Return the CPU seconds of an action, and what it returns."""
    began = time.process_time()
    value = action()
    return time.process_time() - began, value


def memory_mb() -> float:
    """Return the memory of this process, of files mapped too."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def peak_mb(process: object = "self") -> float:
    """Return the most memory that a process has held; getrusage would add its parent's."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def of_opening(found: dict[str, float]) -> list[tuple[str, str]]:
    """Return rows of a table."""
    billions, millions = round(found["tokens"] / 1e9, 1), round(found["documents"] / 1e6, 1)
    size = f"{billions:g} B tokens, {millions:g} M documents"
    step_s = 6 * WEIGHTS * BATCH_TOKENS / FLOPS_PER_S
    rows = [
        (f"{size}: find 1000 texts unchanged", f"{found['texts_s']:.2f} s"),
        (f"{size}: open the store", f"{found['open_s']:.2f} s"),
        (f"{size}: index in memory", f"{found['index_mb']:.0f} MB"),
        (f"{size}: remarks on copies", f"{found['remarks_s']:.2f} s"),
    ]
    for name in ("documents", "packed"):
        each = found[f"{name}_each_s"]
        rows += [
            (f"reading={name}: begin", f"{found[f'{name}_begin_s']:.2f} s"),
            (f"reading={name}: first batch", f"{found[f'{name}_first_s']:.2f} s"),
            (f"reading={name}: memory of the order", f"{found[f'{name}_memory_mb']:.0f} MB"),
            (f"reading={name}: a batch of {BATCH_TOKENS} tokens", f"{1000 * each:.0f} ms"),
            (f"reading={name}: the same, of a step of 162M weights on one GPU "
             f"({1000 * step_s:.0f} ms by arithmetic)", f"{each / step_s:.1%}"),
        ]  # fmt: skip
    return rows


PARTS = {"open": measure_opening, "tokenise": measure_tokenising}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:  # in a process of its own, whose memory is measured
        print(json.dumps(PARTS[sys.argv[2]](Path(sys.argv[3]))))
    else:
        main()
