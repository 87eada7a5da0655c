"""What instruments look at, and the command that looks."""

import csv

import torch

from lexp.attention import ChunkSizes, Reference
from lexp.commands.analyze import analyze
from lexp.instruments.base import AnalysisInput
from lexp.model.transformer import Transformer
from support.config import compose
from support.schemes import CPU


def ids(n: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 50, (n, length), generator=torch.Generator().manual_seed(seed))


def view(
    model: Transformer, pattern, texts: torch.Tensor, sizes: ChunkSizes | None = None
) -> AnalysisInput:
    return AnalysisInput(model, pattern, texts, 16, "trained", sizes or ChunkSizes())


def weights_of(model: Transformer, pattern, text: torch.Tensor) -> list[torch.Tensor]:
    """Attention weights [H, T, T] of every layer: the reference's output for one-hot values."""
    found = []
    n = len(text)

    def attend(q, k, v, position, x, sampled=None):
        eye = torch.eye(n, dtype=q.dtype).expand(1, q.shape[1], n, n)
        reference = Reference(pattern, n, position, CPU)
        found.append(reference(q, k, eye, position, x, sampled)[0])
        return reference(q, k, v, position, x, sampled)

    with torch.no_grad():
        model.hidden(text[None], attend)
    return found


def run_analyze(study, *overrides: str) -> list[dict[str, str]]:
    base = ("lengths=[8,16,32]", "device=cpu", "texts=2")
    given = {override.split("=")[0] for override in overrides}
    kept = [b for b in base if b.split("=")[0] not in given]
    analyze(compose("analyze", f"outputs={study.folder.parent}", *kept, *overrides))
    with (study.folder / "analysis" / "heads.csv").open(newline="") as file:
        return list(csv.DictReader(file))
