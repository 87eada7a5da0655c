"""No instrument holds an n x n array, whatever the length; scripts/bench_analyze.py has MiB."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lexp.instruments.base import Instrument
from lexp.instruments.channels import PositionalChannels
from lexp.instruments.curves import Curves
from lexp.instruments.heads import Heads
from lexp.instruments.invariance import Invariance
from lexp.instruments.permutation import Permutation
from lexp.instruments.position_probe import PositionProbe
from lexp.instruments.receptive import Receptive
from lexp.instruments.resolution import Resolution
from lexp.instruments.spectrum import Spectrum
from lexp.instruments.variance import Variance
from lexp.instruments.vectors import Vectors
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Blockwise, Full
from lexp.position import ALiBi, FoX, NoPE, RoPE, Sinusoidal
from support.instruments import ids, view

LENGTH = 4096
CASES = {
    "heads": (Heads(), RoPE(8)),
    "resolution": (Resolution(), RoPE(8)),
    "curves": (Curves(), ALiBi(1)),
    "curves of content": (Curves(), FoX(16, 1)),
    "variance": (Variance(), NoPE()),
    "vectors": (Vectors(shifts=1), NoPE()),
    "invariance": (Invariance(), RoPE(8)),
    "invariance of embeddings": (Invariance(), Sinusoidal(16)),
    "spectrum": (Spectrum(), Sinusoidal(16)),
    "channels": (PositionalChannels(shifts=1, top=1), NoPE()),
    "permutation": (Permutation(permutations=1), NoPE()),
    "receptive": (Receptive(), RoPE(8)),
    "position_probe": (PositionProbe(states=LENGTH, steps=2), NoPE()),
}


class Largest(TorchDispatchMode):
    """The most elements with memory of their own in any tensor made within."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                own = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.numel = max(self.numel, own)
        return made


def one_layer(position) -> Transformer:
    torch.manual_seed(0)
    dims = Dims(n_layers=1, d_model=16, n_heads=1, head_dim=8, d_ff=32)
    return Transformer(dims, 50, [LayerEntry(lambda: position)]).eval()


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [Full(), Blockwise(64)], ids=repr)
@pytest.mark.parametrize("case", CASES)
def test_nothing_grows_with_the_square_of_the_length(case, pattern):
    instrument, position = CASES[case]
    with Largest() as largest:
        finding = instrument.measure(view(one_layer(position), pattern, ids(2, LENGTH)))
    assert 0 < largest.numel <= LENGTH**2 // 4
    assert sum(array.size for array in finding.arrays.values()) <= 16 * LENGTH


def test_an_n_by_n_array_would_be_seen():
    class Square(Instrument):
        def measure(self, view):
            row = torch.ones(view.seq_len)
            return row[:, None] * row

    with Largest() as largest:
        Square().measure(view(one_layer(NoPE()), Full(), ids(1, LENGTH)))
    assert largest.numel == LENGTH**2
