"""Models of the general path: run as a whole by transformers, with lexp's attention in each layer.

Shapes: B batch, T sequence, H heads, D head_dim, V vocab_size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lexp.attention import USUAL_LAYOUT, Attend, RowLayout, make_attend
from lexp.hf.attention import Call
from lexp.hf.general import NAME, AttentionCall, DescribedGeneral, register, set_answer
from lexp.model.transformer import MAX_LOGITS, MLP_ROWS, Transformer
from lexp.pattern import Pattern, Window, in_turns
from lexp.position import Position
from lexp.system.errors import ConfigError, NotDefined

# Tokens of the texts that a model is compared with itself on when it is opened, and the largest
# difference of two logits, over the spread of all, that rounding may make.
N_COMPARED = 9
TOLERANCE = 1e-3


class OwnPositions(Position):
    """The positions that a model's own layers apply, before attention gets queries and keys.

    title: of the model in messages. max_len: the longest text that it has positions for.
    """

    applied_inside = True

    def __init__(self, title: str, max_len: int | None):
        super().__init__()
        self.name, self.max_len = title, max_len

    @property
    def title(self) -> str:
        return self.name


@dataclass
class Current:
    """The forward pass at hand: attention, and the scheme of each layer."""

    attend: Attend | None = None
    positions: Sequence[Position] = ()


@dataclass(frozen=True)
class LayerAttention:
    """The answer to one layer's calls of transformers' attention interface."""

    number: int
    own: Pattern
    current: Current

    def __call__(self, call: AttentionCall) -> Tensor:
        """Return the output [B, T, H, D]; ConfigError for what was not there in the trial run."""
        own = self.own.window if isinstance(self.own, Window) else None
        unknown = call.unknown()
        if not unknown and call.mask.local_size != own:
            unknown = f"a window of {call.mask.local_size}, {own} at its first use"
        if unknown:
            raise ConfigError(f"attention of layer {self.number + 1} takes {unknown}")
        assert self.current.attend is not None, "set by the model's forward pass"
        position = self.current.positions[self.number]
        # Only a bias reads the layer's input, and there is none here.
        x = call.query.new_empty(0)
        lexp = Call(position, self.current.attend, None, None, x)
        # As transformers' own functions leave it: some models view it in another shape.
        return lexp.run(call.query, call.key, call.value, call.scaling).contiguous()


class OwnHead(nn.Module):
    """What a model makes of its last hidden states: its head, with any scale or cap of logits.

    theirs: the whole model, which is run with its trunk left out. output: the class of what the
    trunk returns.
    """

    def __init__(self, theirs: Any, output: type):
        super().__init__()
        self.theirs, self.output = theirs, output

    @property
    def weight(self) -> Tensor:
        """Return the weights of the head's matrix [V, d]."""
        return self.theirs.get_output_embeddings().weight

    @property
    def out_features(self) -> int:
        """Return the number of logits."""
        return len(self.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits [..., V] of final normed hidden states [..., d_model]."""
        rows = hidden.flatten(0, -2)[None]
        trunk = self.theirs.get_decoder()
        vars(trunk)["forward"] = lambda *_, **__: self.output(last_hidden_state=rows)
        try:
            logits = self.theirs(inputs_embeds=rows, use_cache=False).logits
        finally:
            del vars(trunk)["forward"]
        return logits.unflatten(1, hidden.shape[:-1])[0]


class GeneralTransformer(Transformer):
    """A causal model that transformers runs; lexp decides which keys its queries see.

    output: the class of what its trunk returns. `blocks` are the attention modules of the layers.
    """

    def __init__(self, theirs: Any, described: DescribedGeneral, output: type):
        nn.Module.__init__(self)  # the parent's would make a model of its own
        self.dims = described.dims
        self.max_logits, self.mlp_rows = MAX_LOGITS, MLP_ROWS
        self.current = Current()
        own = [OwnPositions(described.model_class, described.max_len) for _ in described.layers]
        self.positions = nn.ModuleList(own)
        self.theirs = theirs
        self.embedding = theirs.get_input_embeddings()
        self.blocks = nn.ModuleList(map(theirs.get_submodule, described.attention))
        for number, (block, pattern) in enumerate(zip(self.blocks, described.layers, strict=True)):
            set_answer(block, LayerAttention(number, pattern, self.current))
        # In place of a Linear, of which others use what OwnHead has.
        self.head = OwnHead(theirs, output)  # type: ignore[assignment]

    def hidden(self, tokens: Tensor, attend: Attend, first: int = 0) -> Tensor:
        """Return final normed hidden states [B, T, d_model] of token ids [B, T].

        first: index of tokens[:, 0] in its text.
        """
        places = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        self.current.attend, self.current.positions = attend, self.schemes
        try:
            trunk = self.theirs.get_decoder()
            out = trunk(input_ids=tokens, position_ids=places.expand_as(tokens), use_cache=False)
        except IndexError:  # a table of positions that its config does not tell of
            end = first + tokens.shape[1]
            raise NotDefined(f"{self.title} has no positions for {end} tokens") from None
        finally:
            self.current.attend = None
        return out.last_hidden_state

    def loss(
        self, tokens: Tensor, targets: Tensor, attend: Attend, layout: RowLayout = USUAL_LAYOUT
    ) -> Tensor:
        """Return the total of `losses`; the head may be more than its weights."""
        assert layout is USUAL_LAYOUT, "rows have no layout of their own"
        return self.losses(tokens, targets, attend).sum()


def adopt_general(theirs: Any, described: DescribedGeneral) -> GeneralTransformer:
    """Convert a model of transformers, which must not be used by itself afterwards.

    ConfigError if it does not do as it is told: its logits differ from those of the model as it
    was, or depend on tokens that no layer's queries see.
    """
    n_tokens = min(N_COMPARED, described.max_len or N_COMPARED)
    drawn = torch.Generator().manual_seed(0)
    tokens = torch.randint(described.vocab_size, (2, n_tokens), generator=drawn)
    tokens[1, -1] = tokens[0, -1]
    with torch.no_grad():
        expected = theirs(input_ids=tokens, use_cache=False).logits
        output = type(theirs.get_decoder()(input_ids=tokens, use_cache=False))
    register()
    theirs.config._attn_implementation = NAME
    model = GeneralTransformer(theirs, described, output)
    spread = float(expected.std())
    if not _close(_logits(model, tokens, in_turns(described.layers)), expected, spread):
        raise ConfigError(f"{model.title}: its logits under lexp's attention are not its own")
    first, second = _logits(model, tokens, Window(1))[:, -1]
    if not _close(first, second, spread):
        raise ConfigError(f"{model.title}: tokens reach others by more than attention")
    return model


def _logits(model: GeneralTransformer, tokens: Tensor, pattern: Pattern) -> Tensor:
    with torch.no_grad():
        return model(tokens, make_attend(pattern, tokens.shape[1], model.schemes, tokens.device))


def _close(found: Tensor, expected: Tensor, spread: float) -> bool:
    return float((found - expected).abs().max()) <= TOLERANCE * spread
