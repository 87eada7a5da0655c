"""Studies written by hand: cells whose losses, and so whose truth, a test knows. No training."""

import csv
import io
import math
import os
from pathlib import Path

import numpy as np

from lexp.commands.report import report
from lexp.config.schema import plain
from lexp.evaluate.cell import Cell, write_cell
from lexp.runs.run import Run, open_run, run_name, variant
from lexp.scoring.losses import Losses
from support.config import TINY, compose

TRAINED, LONGEST, DOCUMENTS = 256, 1024, 6
LENGTHS = (64, 256, 512, 1024)
DATA = {"fingerprint": "f" * 16, "tokenizer": "t" * 16}


def flat(value: float = 1.0, documents: int = DOCUMENTS, n: int = LONGEST) -> np.ndarray:
    """Losses [documents, n], all alike."""
    return np.full((documents, n), value)


def bumpy(documents: int = DOCUMENTS, n: int = LONGEST) -> np.ndarray:
    """Losses [documents, n] in steps that float32 holds exactly, so that shifts stay exact."""
    return np.random.default_rng(5).integers(1024, 3072, (documents, n)) / 1024


class Study:
    """A study's folder, and how cells come into it."""

    def __init__(self, outputs: Path) -> None:
        self.outputs, self.folder = outputs, outputs / "default"
        self.written = 0

    def run(self, model: str = "rope", seed: int = 0, *overrides: str) -> Run:
        """A run's folder as training leaves it, but for its checkpoints."""
        changed = ("train_len", "batch_tokens", "tokens")
        base = [one for one in TINY if not one.startswith(changed)]
        settings = plain(compose(
            "train", *base, f"train_len={TRAINED}", f"batch_tokens={TRAINED}", f"tokens={TRAINED}",
            f"model={model}", f"seed={seed}", f"outputs={self.outputs}", *overrides,
        ))  # fmt: skip
        return open_run(self.folder / run_name(settings), settings, DATA, "float32")

    def cell(
        self, run: Run, length: int, nats: np.ndarray | str, *, n_bytes: int = 1, age: float = 0,
        name: str = "", **labels,
    ) -> Path:  # fmt: skip
        """One cell. nats: [documents, tokens], or why there are none; age: seconds since."""
        self.written += 1
        path = run.folder / "eval" / f"{name or f'cell-{self.written}'}.json"
        path.parent.mkdir(exist_ok=True)
        reason = nats if isinstance(nats, str) else ""
        nats = flat() if isinstance(nats, str) else nats
        documents, n = nats.shape
        protocol = labels.setdefault("protocol", f"segments-{LONGEST}")
        row = np.repeat(np.arange(documents), n)
        place = np.tile(np.arange(1, n + 1), documents)
        if protocol.startswith("prefix"):
            keep = place <= length
            row, place, values = row[keep], place[keep], nats.ravel()[keep]
            context = place
        else:
            values, context = nats.ravel(), (place - 1) % length + 1
        losses = Losses(
            values.astype(np.float32), row.astype(np.int32), place.astype(np.int32),
            context.astype(np.int32), np.full(len(row), n_bytes, dtype=np.uint16),
            tuple(f"d{d}" for d in range(documents)), length, protocol,
        )  # fmt: skip
        nll = float(values.astype(np.float64).mean())
        good = {"nll": nll, "ppl": math.exp(nll), "bpb": nll / math.log(2) / n_bytes}
        settings = run.settings
        base = {
            "run": run.name, "model": settings["model"]["name"], "size": settings["size"]["name"],
            "dataset": "books", "seed": settings["seed"], "train_len": settings["train_len"],
            "attention": "full", "extension": "none", "length": length, "documents": documents,
            "tokens": len(values), "seconds": 2.0, "status": "ok",
            "tokenizer": settings["tokenizer"]["name"], "precision": "float32",
            "text": "aaaaaaaa", "variant": variant(settings),
            **(dict.fromkeys(good, math.nan) if reason else good),
        }  # fmt: skip
        if reason:
            base["status"] = "out of memory"
        else:
            losses.write(path.with_suffix(".npz"))
        write_cell(path, Cell(**{**base, **labels}), reason)
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))
        return path

    def line(self, run: Run, losses: dict[int, np.ndarray | str], **labels) -> None:
        """Cells of one method, by length."""
        for length, nats in losses.items():
            self.cell(run, length, nats, **labels)

    def report(self, *overrides: str) -> Path:
        """Write the report; where it is."""
        report(compose("report", f"outputs={self.outputs}", *overrides))
        return self.folder / "report"

    def table(self, title: str) -> list[dict[str, str]]:
        """The rows of a table of the report that was written, by heading.

        Without the apostrophe that keeps a spreadsheet from computing what begins with a sign.
        """
        stem = "".join(c if c.isalnum() else "-" for c in title.lower())
        text = (self.folder / "report" / f"{stem}.csv").read_text()
        rows = csv.DictReader(io.StringIO(text))
        return [{head: value.removeprefix("'") for head, value in row.items()} for row in rows]

    def named(self, title: str) -> dict[tuple[str, str], dict[str, str]]:
        """The same by model and method, each of which stands there once."""
        rows = self.table(title)
        found = {(row["model"], row["method"]): row for row in rows}
        assert len(found) == len(rows), rows
        return found
