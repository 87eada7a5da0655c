"""PaTH over blocks and chunks of queries that do not fit each other, and keys with gaps."""

from itertools import pairwise

import pytest
import torch

import oracles
from lexp.attention import ChunkSizes
from lexp.attention.cached import CachedAttention
from lexp.attention.chunked import Chunked
from lexp.pattern import STRING, Full, SelfExtend, Sinks, Window
from lexp.position import PaTH
from support.schemes import CPU

N, H, D, WIDTH = 26, 2, 4, 6


@pytest.mark.parametrize("rows", [5, 17])
@pytest.mark.parametrize(("pattern", "score_scale"), [
    (Full(), 1), (Window(3), 1), (Window(12), 1), (Sinks().fit(8, N), 1), (SelfExtend(3, 2), 1),
    (STRING(5, 2, temperature=1.5), 2.25),
])  # fmt: skip
def test_chunks_and_pieces_of_a_text_match_the_paper(pattern, score_scale, rows, monkeypatch):
    """Values and gradients; then the values of generation. SelfExtend has keys in two branches."""
    monkeypatch.setattr("lexp.position.path.BLOCK_KEYS", 4)
    monkeypatch.setattr("lexp.position.path.BLOCKS_AT_ONCE", 3)
    torch.manual_seed(0)
    position = PaTH(WIDTH, D, H, rank=3).double()
    q, k, v, weight = torch.randn(4, 1, H, N, D, dtype=torch.float64)
    x = torch.randn(1, N, WIDTH, dtype=torch.float64)
    wanted = [t.requires_grad_() for t in (q, k, v, x)] + list(position.parameters())
    index = torch.arange(N)
    allowed = pattern.allowed(index[:, None], index).tolist()
    learned = dict(position.named_parameters())
    heads = [oracles.path(q[0, h], k[0, h], h, H, learned, x[0]) for h in range(H)]
    heads = [scores * score_scale for scores in heads]
    right = torch.stack([oracles.attention(s, v[0, h], allowed) for h, s in enumerate(heads)])[None]

    sizes = ChunkSizes(max_rows=rows, min_rows=rows)
    found = Chunked(pattern, N, position, CPU, sizes)(q, k, v, position, x)
    torch.testing.assert_close(found, right)
    ours, theirs = (torch.autograd.grad((out * weight).sum(), wanted) for out in (found, right))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)

    cached, cuts = CachedAttention(pattern, N), [0, rows, rows + 1, rows + 2, N]
    with torch.no_grad():
        pieces = [
            cached(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], position, x[:, a:b])
            for a, b in pairwise(cuts)
        ]
    torch.testing.assert_close(torch.cat(pieces, dim=2), right)
