"""What schemes with random positions share: draws that a resumed run repeats."""

import torch
from torch import Tensor

from lexp.position.base import Position
from lexp.position.compose import Wrapper


class Drawn(Wrapper):
    """A scheme at positions drawn in training. Checkpoints hold the seed of the next draw."""

    def __init__(self, inner: Position):
        super().__init__(inner)
        drawing = next((part for part in inner.modules() if isinstance(part, Drawn)), None)
        if drawing is not None:
            raise ValueError(f"{drawing.title} draws positions itself")
        # The next draw's seed, from the run's own: resumed runs draw what they would have drawn.
        self.seed: Tensor
        self.register_buffer("seed", torch.randint(1 << 40, ()))

    @property
    def title(self) -> str:
        """Return the class name, with the title of the inner scheme in parentheses."""
        return f"{type(self).__name__}({self.inner.title})"

    def generator(self) -> torch.Generator:
        """Return a random generator: a new one at every call in training, else always the same."""
        if not self.training:
            return torch.Generator().manual_seed(0)
        generator = torch.Generator().manual_seed(int(self.seed))
        self.seed += 1
        return generator
