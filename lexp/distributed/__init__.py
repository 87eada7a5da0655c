"""Several processes that train one model: who they are, how they end together, what each holds."""

from lexp.distributed.engine import Engine, make_engine
from lexp.distributed.group import ProcessGroup, SingleProcess, joined

__all__ = ["Engine", "ProcessGroup", "SingleProcess", "joined", "make_engine"]
