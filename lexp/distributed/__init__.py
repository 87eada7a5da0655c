"""Several processes that train one model: who they are, how they end together, what each holds."""

from lexp.distributed.engine import Engine, make_engine
from lexp.distributed.group import Alone, Group, joined

__all__ = ["Alone", "Engine", "Group", "joined", "make_engine"]
