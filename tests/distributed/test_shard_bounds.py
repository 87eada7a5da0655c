"""Position parameters with bounds, and recurrent layers, are alike whole and in shards."""

import pytest
import torch
import torch.distributed as dist

from lexp.attention import make_attend
from lexp.distributed.engine import Engine
from lexp.distributed.shards import Shards
from lexp.model.layers import LayerEntry
from lexp.model.mixer import Mamba2
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Full, NoAttention
from lexp.position import DAPE, KerpleLog, KerplePower

SCHEMES = {
    "shared": lambda: KerpleLog(2), "power": lambda: KerplePower(2),
    "inside another": lambda: DAPE(KerpleLog(2), 2, 4),
}  # fmt: skip


@pytest.fixture
def alone():
    """A process group of one rank."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def trained(make, shards: bool) -> list[torch.Tensor]:
    """Losses of three steps that go far, and the learned numbers of the schemes after them."""
    torch.manual_seed(0)
    model = Transformer(Dims(2, 16, 2, 8, 32), 20, [LayerEntry(make)])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("r1", "r2")):
                parameter.copy_(torch.tensor([-1.0, 2.5]))
    engine = Shards(model, model.loss, 1) if shards else Engine(model, model.loss)
    attend = make_attend(Full(), 12, model.schemes, torch.device("cpu"))
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=5.0), []
    for step in range(3):
        tokens = torch.randint(20, (2, 13), generator=torch.Generator().manual_seed(step))
        loss = engine.loss(tokens[:, :-1], tokens[:, 1:], attend) / 24
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    learned = [t for n, t in model.named_parameters() if n.endswith(("r1", "r2"))]
    return [*losses, *(t.full_tensor() if shards else t for t in learned)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_shards_are_moved_into_bounds_as_whole_parameters_are(scheme, alone):
    whole, sharded = (trained(SCHEMES[scheme], shards) for shards in (False, True))
    torch.testing.assert_close(sharded, whole, rtol=1e-5, atol=1e-6)


def test_a_sharded_recurrent_model_carries_its_states(alone):
    """Losses in pieces of 5 tokens, as validation of long texts reads them."""
    tokens = torch.randint(20, (2, 14), generator=torch.Generator().manual_seed(0))
    found = []
    for shards in (False, True):
        torch.manual_seed(0)
        entry = LayerEntry(pattern=NoAttention(), make_mixer=lambda: Mamba2(16, 2, 8))
        model = Transformer(Dims(2, 16, 2, 8, 32), 20, [entry])
        engine = Shards(model, model.loss, 1) if shards else Engine(model, model.loss)
        attend = make_attend(NoAttention(), 13, model.schemes, torch.device("cpu"))
        loss = engine.loss(tokens[:, :-1], tokens[:, 1:], attend)
        loss.backward()
        with torch.no_grad():
            pieces = model.losses_in_pieces(tokens[:, :-1], tokens[:, 1:], 5)
        torch.testing.assert_close(pieces.sum(), loss.detach(), rtol=1e-5, atol=1e-5)
        found.append(pieces)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
