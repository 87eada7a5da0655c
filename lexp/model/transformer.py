"""The trunk that every scheme is trained on: a pre-norm decoder-only Transformer.

Shapes: B batch, T sequence, H heads, D head_dim, V vocab_size.
Kept plain on purpose, so that differences between runs are differences between position schemes:
no dropout, no biases, one attention function handed in from outside. Norms, the feed-forward
function and more are parts (lexp.model.trunk); LayerNorm, GELU and a head of its own unless others
are given.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lexp.attention import USUAL_LAYOUT, Attend, DocumentFold, RowLayout
from lexp.model.chunked_cross_entropy import head_loss, wide
from lexp.model.layers import LayerEntry, in_turns, make_positions
from lexp.model.mixer import START, Attention, Mixer, Recurrent, State
from lexp.model.trunk import GPT, Trunk
from lexp.position import Position

# Logits beyond this many numbers are computed a piece at a time (2^24 floats are 64 MiB), so that
# they never exist for a whole long text.
MAX_LOGITS = 1 << 24
# Without gradients, longer texts go through the feed-forward layer so many tokens at a time.
MLP_ROWS = 1 << 15


@dataclass(frozen=True)
class Dims:
    """Sizes of the trunk.

    share_layers: one block's weights serve all layers (ALBERT, Lan et al. 2019, arXiv 1909.11942).
    n_kv_heads: heads of keys and values, a divisor of n_heads; None: n_heads.
    """

    n_layers: int
    d_model: int
    n_heads: int
    head_dim: int
    d_ff: int
    share_layers: bool = False
    n_kv_heads: int | None = None

    def __post_init__(self) -> None:
        sizes = {k: v for k, v in vars(self).items() if k != "share_layers" and v is not None}
        bad = {k: v for k, v in sizes.items() if v < 1}
        if bad:
            raise ValueError(f"model sizes must be at least 1, got {bad}")


class Block(nn.Module):
    """A layer: x + mixer(norm(x)), then x + mlp(norm(x)).

    make_mixer: None stands for the trunk's own attention. mlp_rows: see Transformer.
    """

    def __init__(
        self,
        dims: Dims,
        make_mixer: Callable[[], Mixer] | None = None,
        mlp_rows: int = MLP_ROWS,
        trunk: Trunk = GPT,
    ):
        super().__init__()
        self.mlp_rows, self.activation = mlp_rows, trunk.mlp
        self.norm_attention = trunk.norm.make(dims.d_model)
        mixer = make_mixer() if make_mixer else make_attention(dims, trunk)
        self.mixer_name = mixer.name
        self.add_module(mixer.name, mixer)
        self.norm_mlp = trunk.norm.make(dims.d_model)
        self.mlp_in = nn.Linear(dims.d_model, trunk.mlp.n_inputs * dims.d_ff, bias=False)
        self.mlp_out = nn.Linear(dims.d_ff, dims.d_model, bias=False)

    def forward(
        self,
        x: Tensor,
        position: Position,
        attend: Attend,
        sampled: Tensor | None,
        documents: DocumentFold | None = None,
    ) -> Tensor:
        """Map x [B, T, d_model] to the same shape.

        documents: those that attend keeps within; a mixer without attention starts anew in each.
        """
        normed = self.norm_attention(x)
        if documents is None or self.mixer.attends:
            return self._fed(x + self.mixer(normed, position, attend, sampled))
        pieces = documents.fold(normed)
        mixed = [self.mixer(piece, position, attend, sampled) for piece in pieces]
        return self._fed(x + documents.unfold(mixed))

    def read(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Map x [B, T, d_model], which follows what `state` has read, to the same shape.

        Of layers with a recurrent mixer alone. Also returns the state after x.
        """
        mixer = self.mixer
        assert isinstance(mixer, Recurrent), "no other mixer has a state"
        mixed, state = mixer.read(self.norm_attention(x), state)
        return self._fed(x + mixed), state

    def _fed(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.shape[1] <= self.mlp_rows:
            return x + self.mlp(x)
        for rows in x.split(self.mlp_rows, dim=1):
            rows += self.mlp(rows)
        return x

    @property
    def mixer(self) -> Mixer:
        """Return the mixer, which has its own name among the layer's parts."""
        mixer = self.get_submodule(self.mixer_name)
        assert isinstance(mixer, Mixer), "as it was built"
        return mixer

    def mlp(self, x: Tensor) -> Tensor:
        """Return the feed-forward layer's output for x [B, T, d_model], without the residual."""
        return self.mlp_out(self.activation(self.mlp_in(self.norm_mlp(x))))


def make_attention(dims: Dims, trunk: Trunk) -> Attention:
    """Return the trunk's own attention, the mixer of layers whose entry names no other."""
    sizes = dims.d_model, dims.n_heads, dims.head_dim
    return Attention(*sizes, dims.n_kv_heads, trunk.qk_norm, trunk.output_gate)


class Transformer(nn.Module):
    """A language model over token ids, causal or not as attention makes it.

    Layers take the entries in turns (lexp.model.layers). The patterns of the entries are those of
    training: the trunk does not read them, attention comes in with each call. Where layers share
    their weights, `blocks` has the same block for each of them.
    recompute_layers: of how many layers the activations are not kept for the backward pass, but
    computed again (lexp.training.recompute); changes no value.
    max_logits, mlp_rows: how many logits, and tokens in the feed-forward layer, are computed at
    once without gradients.
    """

    # Here, not in __init__, which models of Hugging Face do without.
    recompute_layers: int = 0

    def __init__(
        self,
        dims: Dims,
        vocab_size: int,
        entries: Sequence[LayerEntry],
        max_logits: int = MAX_LOGITS,
        mlp_rows: int = MLP_ROWS,
        trunk: Trunk = GPT,
    ):
        super().__init__()
        self.dims = dims
        self.max_logits, self.mlp_rows = max_logits, mlp_rows
        self.positions = nn.ModuleList(make_positions(entries, dims.n_layers))
        self.embedding = nn.Embedding(vocab_size, dims.d_model)
        layers = in_turns(entries, dims.n_layers)
        n_made = 1 if dims.share_layers else dims.n_layers
        if not all(layers[0].builds_as(other) for other in layers[n_made:]):
            raise ValueError("share_layers=true needs layers with one mixer")
        blocks = [Block(dims, e.make_mixer, mlp_rows, e.parts(trunk)) for e in layers[:n_made]]
        self.blocks = nn.ModuleList(blocks * (dims.n_layers // n_made))
        self.norm = trunk.norm.make(dims.d_model)
        self.head = nn.Linear(dims.d_model, vocab_size, bias=False)
        if trunk.tied_embeddings:
            self.head.weight = self.embedding.weight
        self._initialise(dims.n_layers)

    def _initialise(self, n_layers: int) -> None:
        # GPT-2: normal(0, 0.02), and layers that write to the residual stream scaled down by
        # the square root of how many there are, so that its variance does not grow with depth.
        for name, parameter in self.named_parameters():
            if name.startswith("positions.") or parameter.ndim < 2:
                continue
            writes_residual = name.endswith((".out.weight", "mlp_out.weight"))
            std = 0.02 / math.sqrt(2 * n_layers) if writes_residual else 0.02
            nn.init.normal_(parameter, std=std)
        for block in dict.fromkeys(self.blocks):  # layers may share one
            assert isinstance(block, Block), "as built above"
            block.mixer.initialise()

    @property
    def position(self) -> Position:
        """Return the scheme (that of the first layer, where they differ)."""
        return self.schemes[0]

    @property
    def schemes(self) -> list[Position]:
        """Return the schemes that layers take in turns."""
        return [position for position in self.positions if isinstance(position, Position)]

    @property
    def attending(self) -> list[bool]:
        """Return of each scheme whether its layers compute attention."""
        blocks = list(self.blocks)[: len(self.positions)]
        return [not isinstance(block, Block) or block.mixer.attends for block in blocks]

    @property
    def title(self) -> str:
        """Return what tells its layers apart: their schemes, or mixers without one."""
        names = [
            scheme.title if attends or not isinstance(block, Block) else type(block.mixer).__name__
            for scheme, attends, block in zip(
                self.schemes, self.attending, self.blocks, strict=False
            )
        ]
        return " / ".join(dict.fromkeys(names))

    def hidden(self, tokens: Tensor, attend: Attend, first: int = 0) -> Tensor:
        """Return final normed hidden states [B, T, d_model] of token ids [B, T].

        first: index of tokens[:, 0] in its text.
        """
        sampled = self.position.sample_positions(tokens.shape[1])
        if sampled is not None:
            sampled = sampled.to(tokens.device)
        indices = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        return self._at(tokens, attend, indices if sampled is None else sampled, sampled, None)

    def hidden_laid_out(self, tokens: Tensor, attend: Attend, layout: RowLayout) -> Tensor:
        """Return `hidden` of rows with a layout, which `attend` was made for."""
        moved, documents = layout
        if documents is not None:
            return self._at(tokens, attend, documents.positions, None, documents)
        return (
            self.hidden(tokens, attend)
            if moved is None
            else self._at(tokens, attend, moved, moved, None)
        )

    def _at(
        self,
        tokens: Tensor,
        attend: Attend,
        positions: Tensor,
        sampled: Tensor | None,
        documents: DocumentFold | None,
    ) -> Tensor:
        """Return hidden states. positions: of the embeddings; sampled: of attention, or None."""
        x = self.position.embed(self.embedding(tokens), positions, tokens)
        # Blocks that an extension has wrapped take no documents, which are of training alone.
        own = () if documents is None else (documents,)
        for n, block in enumerate(self.blocks):
            arguments = x, self.positions[n % len(self.positions)], attend, sampled, *own
            if n < self.recompute_layers and torch.is_grad_enabled():
                x = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x = block(*arguments)
        return self.norm(x)

    def forward(self, tokens: Tensor, attend: Attend) -> Tensor:
        """Return logits [B, T, V] of token ids [B, T]."""
        return self.head(self.hidden(tokens, attend))

    def losses(self, tokens: Tensor, targets: Tensor, attend: Attend, first: int = 0) -> Tensor:
        """Return losses (negative log-likelihood, nats) of the last tokens, float32 [B, n].

        tokens [B, T]; targets [B, n], n <= T; first: index of tokens[:, 0] in its text.
        """
        hidden = self.hidden(tokens, attend, first)[:, -targets.shape[1] :].flatten(0, 1)
        return self._losses(hidden, targets.flatten()).view_as(targets)

    def losses_in_pieces(self, tokens: Tensor, targets: Tensor, rows: int) -> Tensor:
        """Return `losses` of a model whose layers are all recurrent, reading `rows` tokens at once.

        The layers' states are carried from piece to piece, so memory does not depend on T.
        """
        states = [START] * len(self.blocks)
        n_tokens, n = targets.shape[1], tokens.shape[1]
        first, losses = n - n_tokens, []
        for start in range(0, n, rows):
            end = min(start + rows, n)
            x = self.embedding(tokens[:, start:end])
            for index, block in enumerate(self.blocks):
                assert isinstance(block, Block), "models from elsewhere have attention"
                x, states[index] = block.read(x, states[index])
            if end > first:
                hidden = self.norm(x[:, max(0, first - start) :]).flatten(0, 1)
                wanted = targets[:, max(0, start - first) : end - first]
                losses.append(self._losses(hidden, wanted.flatten()).view_as(wanted))
        return torch.cat(losses, dim=1)

    def logits_at(self, tokens: Tensor, chosen: Tensor, attend: Attend) -> Tensor:
        """Return logits [n, V] at chosen tokens, in the precision of the head's weights.

        tokens [B, T]; chosen: bool [B, T], n in all. The head is outside of autocast: in bfloat16
        the likeliest tokens would often tie.
        """
        hidden = self.hidden(tokens, attend)[chosen]
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(hidden.to(self.head.weight.dtype))

    def losses_at(self, tokens: Tensor, targets: Tensor, chosen: Tensor, attend: Attend) -> Tensor:
        """Return losses (negative log-likelihood, nats) of chosen tokens, float32 [n].

        tokens, targets [B, T]; chosen: the tokens to score, bool [B, T], n in all.
        """
        return self._losses(self.hidden(tokens, attend)[chosen], targets[chosen])

    def loss(
        self, tokens: Tensor, targets: Tensor, attend: Attend, layout: RowLayout = USUAL_LAYOUT
    ) -> Tensor:
        """Return the total of `losses`, in less memory; targets [B, T], IGNORED for none."""
        hidden = self.hidden_laid_out(tokens, attend, layout).flatten(0, 1)
        return head_loss(hidden, self.head.weight, targets.flatten())

    def loss_at(self, tokens: Tensor, targets: Tensor, chosen: Tensor, attend: Attend) -> Tensor:
        """Return the total of `losses_at`."""
        return head_loss(self.hidden(tokens, attend)[chosen], self.head.weight, targets[chosen])

    def _losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the losses [n] of hidden states [n, d_model] and targets [n]."""
        rows = max(1, self.max_logits // self.head.out_features)
        pieces = zip(hidden.split(rows), targets.split(rows), strict=True)
        return torch.cat([self._nll(h, t) for h, t in pieces])

    def _nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(wide(self.head(hidden)), targets, reduction="none")
