"""Attention patterns: which keys a query sees, and at which positions."""

from lexp.pattern.banded import (
    Banded,
    Blockwise,
    Full,
    OwnChunk,
    Trained,
    WiderWindow,
    Window,
)
from lexp.pattern.base import Branch, Pattern
from lexp.pattern.bidirectional import (
    Bidirectional,
    BidirectionalBlockwise,
    BidirectionalWindow,
    TwoSided,
)
from lexp.pattern.in_turns import (
    InTurns,
    in_turns,
    is_replaceable,
    refuse_nothing_replaced,
    replaced,
)
from lexp.pattern.keys_read import KeysRead, keys_read
from lexp.pattern.none import NoAttention
from lexp.pattern.remapped import STRING, DualChunk, LeakyReRoPE, ReRoPE, SelfExtend
from lexp.pattern.selecting import MoBA, ReAttention, Selecting
from lexp.pattern.sinks import LMInfinite, Sinks, SinksInPlace

__all__ = [
    "STRING", "Banded", "Bidirectional", "BidirectionalBlockwise", "BidirectionalWindow",
    "Blockwise", "Branch", "DualChunk", "Full", "InTurns", "KeysRead", "LMInfinite", "LeakyReRoPE",
    "MoBA", "NoAttention", "OwnChunk", "Pattern", "ReAttention", "ReRoPE", "Selecting",
    "SelfExtend", "Sinks", "SinksInPlace", "Trained", "TwoSided", "WiderWindow", "Window",
    "in_turns", "is_replaceable", "keys_read", "refuse_nothing_replaced", "replaced",
]  # fmt: skip
