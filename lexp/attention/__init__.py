"""Attention as a function of a pattern and a position scheme, prepared for one length.

`Reference` is the specification; `Tiles` is the fast path, `FusedBranches` that of patterns that
move positions (on a CPU, without gradients), `Chunked` the general path, `BidirectionalAttention`
the path of bidirectional models and `Flex` a path compiled for CUDA devices. Called
`attend(q, k, v, position, x, sampled)`, all return the same values.
`make_attend` chooses the path; within `Tiles`, lexp.attention.kernels chooses the kernel.
"""

from lexp.attention.bidirectional import BidirectionalAttention, BidirectionalSizes
from lexp.attention.branches import BranchSizes, FusedBranches
from lexp.attention.cached import CachedAttention
from lexp.attention.call import Attend, AttentionFunction, AttentionInput, MakeAttend
from lexp.attention.chunked import Chunked, ChunkSizes
from lexp.attention.documents import (
    USUAL_LAYOUT,
    DocumentFold,
    RowLayout,
    WithinDocuments,
    fold_documents,
)
from lexp.attention.flex import Flex, refuse_beyond_flex
from lexp.attention.make import (
    BlockSizes,
    layer_pairs,
    make_attend,
    make_flex,
    make_moved,
    refuse_meaningless,
)
from lexp.attention.reference import Reference
from lexp.attention.tiles import Tiles, TileSizes

__all__ = [
    "USUAL_LAYOUT",
    "Attend",
    "AttentionFunction",
    "AttentionInput",
    "BidirectionalAttention",
    "BidirectionalSizes",
    "BlockSizes",
    "BranchSizes",
    "CachedAttention",
    "ChunkSizes",
    "Chunked",
    "DocumentFold",
    "Flex",
    "FusedBranches",
    "MakeAttend",
    "Reference",
    "RowLayout",
    "TileSizes",
    "Tiles",
    "WithinDocuments",
    "fold_documents",
    "layer_pairs",
    "make_attend",
    "make_flex",
    "make_moved",
    "refuse_beyond_flex",
    "refuse_meaningless",
]  # fmt: skip
