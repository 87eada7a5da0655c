"""A model of transformers with the surface of lexp's own Transformer."""

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from lexp.attention import USUAL_LAYOUT, Attend, RowLayout
from lexp.hf.attention import Call, adopt_attention, order_tensor
from lexp.hf.config import Described
from lexp.hf.family import Family
from lexp.hf.positions import channel_order, make_positions
from lexp.hf.scores import ScaledHead
from lexp.model.transformer import MAX_LOGITS, MLP_ROWS, Dims, Transformer
from lexp.position import Position


class HFBlock(nn.Module):
    """A layer of a transformers model, called as lexp calls its own layers.

    before: the module between embeddings and first layer (BLOOM's norm). order: permutation of the
    channels of queries and keys. A layer that rotates by tables gets tables that rotate nothing.
    """

    def __init__(
        self, layer: nn.Module, family: Family, before: nn.Module | None, order: list[int] | None
    ):
        super().__init__()
        attention = adopt_attention(layer.get_submodule(family.attention), family.prefix)
        setattr(layer, family.attention, attention)
        self.layer, self.before, self.family = layer, before, family
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
        if self.family.position == "rope":
            # Cosine 1 and sine 0: queries and keys stay as they are, whether a layer rotates as
            # many channels as the tables have or one number stands for all channels.
            named["position_embeddings"] = x.new_ones(1, 1, 1), x.new_zeros(1, 1, 1)
        out = self.layer(x, attention_mask=None, **named)
        return out[0] if isinstance(out, tuple) else out


class HFTransformer(Transformer):
    """A causal language model of transformers; all but its layers works as in Transformer."""

    def __init__(
        self, dims: Dims, embedding: nn.Embedding, blocks: list[HFBlock], norm: nn.Module,
        head: nn.Linear | ScaledHead, positions: list[Position],
    ):  # fmt: skip
        nn.Module.__init__(self)  # the parent's would make a model of its own
        self.dims = dims
        self.max_logits, self.mlp_rows = MAX_LOGITS, MLP_ROWS
        self.positions = nn.ModuleList(positions)
        self.embedding = embedding
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.head = head  # type: ignore[assignment]  # a linear layer, but for scale and cap

    def loss(
        self, tokens: Tensor, targets: Tensor, attend: Attend, layout: RowLayout = USUAL_LAYOUT
    ) -> Tensor:
        """Return the total of `losses` over all tokens; the head may be more than its weights.

        Rows have no layout of their own: lexp does not train these models.
        """
        assert layout is USUAL_LAYOUT, "lexp does not train these models"
        return self.losses(tokens, targets, attend).sum()

    def loss_at(self, tokens: Tensor, targets: Tensor, chosen: Tensor, attend: Attend) -> Tensor:
        """Return the total of `losses_at`."""
        return self.losses_at(tokens, targets, chosen, attend).sum()


def adopt(theirs: Any, described: Described) -> HFTransformer:
    """Convert a model of transformers, which must not be used by itself afterwards."""
    family = described.family
    positions = make_positions(theirs, described)
    before = theirs.transformer.word_embeddings_layernorm if family.prefix == "Bloom" else None
    blocks = [
        HFBlock(
            layer, family, before if n == 0 else None,
            channel_order(positions[n % len(positions)], described),
        )
        for n, layer in enumerate(theirs.get_submodule(family.layers))
    ]  # fmt: skip
    embedding, norm = theirs.get_submodule(family.embedding), theirs.get_submodule(family.norm)
    head = make_head(theirs.lm_head, described.config)
    return HFTransformer(described.dims, embedding, blocks, norm, head, positions)


def make_head(linear: nn.Linear, config: Any) -> nn.Linear | ScaledHead:
    """Return the projection to logits, with the scale and the cap that a config has."""
    scale = getattr(config, "logit_scale", None)
    cap = getattr(config, "final_logit_softcapping", None)
    if scale is None and cap is None:
        return linear
    return ScaledHead(linear, 1.0 if scale is None else float(scale), cap)
