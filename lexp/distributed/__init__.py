"""Several processes train one model: the group, how its ranks end, how each holds the model."""

from lexp.distributed.engine import Engine, make_engine
from lexp.distributed.group import ProcessGroup, SingleProcess, joined

__all__ = ["Engine", "ProcessGroup", "SingleProcess", "joined", "make_engine"]
