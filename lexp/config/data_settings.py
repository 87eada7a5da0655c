"""The settings of `lexp data`."""

from dataclasses import dataclass
from pathlib import Path

from lexp.config.settings import Node
from lexp.system.links import real_folder


@dataclass(frozen=True)
class DataConfig:
    """Settings of `lexp data`."""

    dataset: Node
    tokenizer: Node
    reading: Node
    outputs: str
    verify: bool
    show: int

    @property
    def cache(self) -> Path:
        """Return the folder of tokenised texts."""
        return real_folder(self.outputs) / ".cache"
