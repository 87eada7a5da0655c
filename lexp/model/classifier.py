"""A trained bidirectional model with a head that classifies whole texts, or gives each a number.

    logits = W mean_t h_t + b,  h the final normed hidden states of a text's tokens

The mean takes the place of BERT's first token, which these models were not trained with. The texts
of a pair stand one after the other with a separator between them, a token of its own that fine-
tuning begins to learn.
"""

import torch
from torch import Tensor, nn

from lexp.attention import Attend
from lexp.model.transformer import Transformer


class Classifier(nn.Module):
    """A trained model with a head on the mean of a text's final hidden states.

    trunk: the model, changed in place: its vocabulary gains the separator.
    """

    def __init__(self, trunk: Transformer, n_classes: int):
        super().__init__()
        n_tokens, width = trunk.embedding.weight.shape
        grown = nn.Embedding(n_tokens + 1, width)
        with torch.no_grad():
            grown.weight[:n_tokens] = trunk.embedding.weight
            nn.init.normal_(grown.weight[n_tokens:], std=0.02)
        trunk.embedding = grown
        self.trunk, self.separator = trunk, n_tokens
        self.head = nn.Linear(width, n_classes)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor, lengths: Tensor, attend: Attend) -> Tensor:
        """Return logits [B, n_classes] of token ids [B, T] with padding after lengths [B].

        attend: made for these lengths.
        """
        hidden = self.trunk.hidden(tokens, attend)
        inside = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        total = (hidden * inside[..., None]).sum(1)
        return self.head(total / lengths[:, None]).float()


def joined(texts: list[list[int]], separator: int, max_len: int) -> list[int]:
    """Return token ids of one text or a pair, cut to max_len at the end of the longer text."""
    first, *rest = texts
    if not rest:
        return first[:max_len]
    (second,) = rest
    room = max_len - 1
    while len(first) + len(second) > room:
        over = len(first) + len(second) - room
        if len(first) > len(second):
            first = first[: max(len(second), len(first) - over)]
        elif len(second) > len(first):
            second = second[: max(len(first), len(second) - over)]
        else:
            first, second = first[: room - room // 2], second[: room // 2]
    return [*first, separator, *second]
