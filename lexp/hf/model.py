"""A model of transformers with the surface of lexp's own Transformer."""

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from lexp.attention import Attend
from lexp.hf.attention import Call, adopt_attention, order_tensor
from lexp.hf.config import Described
from lexp.hf.family import Family
from lexp.hf.rotary import PartialRoPE, pairs_adjacent
from lexp.model.transformer import MAX_LOGITS, MLP_ROWS, Dims, Transformer
from lexp.position import ALiBi, Learned, Position
from lexp.system.errors import ConfigError


class HFBlock(nn.Module):
    """A layer of a transformers model, called as lexp calls its own layers.

    before: the module between embeddings and first layer (BLOOM's norm). order: permutation of the
    channels of queries and keys. n_turned: channels that the layer itself would rotate by tables;
    it gets tables that rotate nothing.
    """

    def __init__(
        self, layer: nn.Module, family: Family, before: nn.Module | None, order: list[int] | None,
        n_turned: int,
    ):  # fmt: skip
        super().__init__()
        attention = adopt_attention(layer.get_submodule(family.attention), family.prefix)
        setattr(layer, family.attention, attention)
        self.layer, self.before = layer, before
        self.family, self.n_turned = family, n_turned
        self.order: Tensor | None
        self.register_buffer("order", order_tensor(order), persistent=False)

    @property
    def attention(self) -> SimpleNamespace:
        """Return the part that instruments read: `out`, the projection of the heads."""
        attention = self.layer.get_submodule(self.family.attention)
        return SimpleNamespace(out=attention.get_submodule(self.family.out))

    def forward(
        self, x: Tensor, position: Position, attend: Attend, sampled: Tensor | None
    ) -> Tensor:
        """Map x [B, T, d_model] to the same shape."""
        if self.before is not None:
            x = self.before(x)
        named: dict[str, Any] = {self.family.call: Call(position, attend, sampled, self.order)}
        if self.n_turned:
            # Cosines 1 and sines 0: queries and keys stay as they are.
            ones = x.new_ones(1, 1, self.n_turned)
            named["position_embeddings"] = ones, ones.new_zeros(1, 1, self.n_turned)
        out = self.layer(x, attention_mask=None, **named)
        return out[0] if isinstance(out, tuple) else out


class HFTransformer(Transformer):
    """A causal language model of transformers; all but its layers works as in Transformer."""

    def __init__(
        self, dims: Dims, embedding: nn.Embedding, blocks: list[HFBlock], norm: nn.Module,
        head: nn.Linear, position: Position,
    ):  # fmt: skip
        nn.Module.__init__(self)  # the parent's would make a model of its own
        self.dims = dims
        self.max_logits, self.mlp_rows = MAX_LOGITS, MLP_ROWS
        self.positions = nn.ModuleList([position])
        self.embedding = embedding
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.head = head


def adopt(theirs: Any, described: Described) -> HFTransformer:
    """Convert a model of transformers, which must not be used by itself afterwards."""
    family = described.family
    position = make_position(theirs, described)
    order, n_turned = None, 0
    if isinstance(position, PartialRoPE):
        n_pairs = len(position.frequencies)
        order, n_turned = pairs_adjacent(described.dims.head_dim, n_pairs), 2 * n_pairs
    before = theirs.transformer.word_embeddings_layernorm if family.prefix == "Bloom" else None
    blocks = [
        HFBlock(layer, family, before if n == 0 else None, order, n_turned)
        for n, layer in enumerate(theirs.get_submodule(family.layers))
    ]
    embedding, norm = theirs.get_submodule(family.embedding), theirs.get_submodule(family.norm)
    return HFTransformer(described.dims, embedding, blocks, norm, theirs.lm_head, position)


def make_position(theirs: Any, described: Described) -> Position:
    """Return the model's positions as a lexp scheme, exact for every length it is defined for."""
    dims, family = described.dims, described.family
    if family.position == "learned":
        table = theirs.transformer.wpe.weight
        learned = Learned(len(table), dims.d_model)
        learned.table = table
        return learned
    if family.position == "alibi":
        return ALiBi(dims.n_heads)
    rotary = theirs.get_submodule(family.layers.rpartition(".")[0]).rotary_emb
    if dims.head_dim % 2:
        raise ConfigError(f"head_dim={dims.head_dim}: rotary positions need an even one")
    return PartialRoPE(dims.head_dim, rotary.inv_freq.tolist(), float(rotary.attention_scaling))
