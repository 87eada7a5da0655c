"""Several ranks that train one model: the numbers of one process, one writer, one end for all."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.children import Ended, folder_of, start

from lexp.record.metrics import read
from lexp.tasks.train import train


def ranks(n_ranks: int, action: Callable[[], None], log: Path) -> list[Ended]:
    """Fork so many ranks, each of which does the same; how each ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(n_ranks):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n_ranks,
                 "LOCAL_WORLD_SIZE": n_ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip

        def placed(place=place):
            os.environ.update({name: str(value) for name, value in place.items()})
            action()

        children.append(start(placed, log / f"rank-{rank}.log"))
    return [child.end(60) for child in children]


def losses(config) -> list[float]:
    lines = read(folder_of(config) / "metrics.jsonl")
    return [line["loss"] for line in lines if line["event"] == "train"]


SIZE = ("size.n_layers=2", "batch_tokens=128", "tokens=1280")


@pytest.mark.parametrize("model", ["rope", "t5", "fox", "random_rope"])
def test_losses_are_those_of_one_process(tiny, tmp_path, model):
    config = tiny(f"model={model}", *SIZE, f"outputs={tmp_path}/one")
    train(config)
    wanted = losses(config)
    for parallel in ("ddp", "fsdp"):
        for n_ranks in (2, 4):
            given = (f"parallel={parallel}", f"outputs={tmp_path}/{parallel}-{n_ranks}")
            config = tiny(f"model={model}", *SIZE, *given)
            for ended in ranks(n_ranks, lambda config=config: train(config), tmp_path / "log"):
                assert ended.code == 0, ended.said
            diff = [a-b for a,b in zip(losses(config), wanted)]
            print(model, parallel, n_ranks, max(map(abs,diff)), ended.seconds)
            assert losses(config) == pytest.approx(wanted, rel=1e-6)
