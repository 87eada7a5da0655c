"""The positions of a transformers model as lexp schemes, one for each layer."""

from typing import Any

from lexp.hf.config import Described
from lexp.hf.layers import LayerKind
from lexp.hf.rotary import PartialRoPE, TwoRangeRoPE, pairs_adjacent
from lexp.hf.scores import SoftCapped
from lexp.position import ALiBi, Learned, NoPE, Position, SinkLogits, Sum
from lexp.system.errors import ConfigError


def make_positions(theirs: Any, described: Described) -> list[Position]:
    """Return the schemes that layers take in turns, exact for every length they are defined for.

    Layers share a scheme if they are of one kind and it has no parameters.
    """
    dims, family = described.dims, described.family
    if family.position == "learned":
        table = theirs.transformer.wpe.weight
        learned = Learned(len(table), dims.d_model)
        learned.table = table
        return [learned]
    if family.position == "alibi":
        return [ALiBi(dims.n_heads)]
    model = theirs.get_submodule(family.layers.rpartition(".")[0])
    by_kind = {kind: _of_kind(model.rotary_emb, described, kind) for kind in described.layers}
    sinks = [
        getattr(layer.get_submodule(family.attention), "sinks", None)
        for layer in theirs.get_submodule(family.layers)
    ]
    return [
        by_kind[kind] if logits is None else _beside_sinks(by_kind[kind], logits)
        for kind, logits in zip(described.layers, sinks, strict=True)
    ]


def _of_kind(rotary: Any, described: Described, kind: LayerKind) -> Position:
    """Return the scheme of layers of a kind, without what differs from layer to layer."""
    cap = getattr(described.config, "attn_logit_softcapping", None)
    scheme = _rotary(rotary, described, kind) if kind.rotates else NoPE()
    return scheme if cap is None else Sum([scheme, SoftCapped(float(cap))])


def _rotary(rotary: Any, described: Described, kind: LayerKind) -> Position:
    """Return the rotary positions of a kind of layers, none where no channel rotates.

    rotary: transformers' module for all layers.
    """
    head_dim = described.dims.head_dim
    if head_dim % 2:
        raise ConfigError(f"head_dim={head_dim}: rotary positions need an even one")
    own = hasattr(rotary, f"{kind.name}_inv_freq")
    prefix = f"{kind.name}_" if own else ""
    theta = getattr(rotary, f"{prefix}inv_freq").tolist()
    if not any(theta):
        return NoPE()
    temperature = float(getattr(rotary, f"{prefix}attention_scaling"))
    rope_type = rotary.rope_type[kind.name] if own else rotary.rope_type
    if rope_type != "longrope":
        return PartialRoPE(head_dim, theta, temperature)
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    layer_type = kind.name if own else None
    parameters = rotary.config.rope_parameters
    most = (parameters[kind.name] if own else parameters)["original_max_position_embeddings"]
    beyond, _ = ROPE_INIT_FUNCTIONS["longrope"](
        rotary.config, seq_len=most + 1, layer_type=layer_type
    )
    return TwoRangeRoPE(head_dim, theta, beyond.tolist(), most, temperature)


def _beside_sinks(scheme: Position, logits: Any) -> Position:
    """Return a scheme with a layer's sink logits [H] in its softmax."""
    sinks = SinkLogits(len(logits))
    sinks.logits = logits
    return Sum([scheme, sinks])


def channel_order(position: Position, described: Described) -> list[int] | None:
    """Return the channels of a layer in the order in which a scheme rotates pairs; None: as is."""
    rotary = next((part for part in position.parts if isinstance(part, PartialRoPE)), None)
    if rotary is None or described.family.adjacent:
        return None
    return pairs_adjacent(described.dims.head_dim, len(rotary.frequencies))
