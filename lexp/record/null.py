"""What ranks but the first write and show: nothing."""

from collections.abc import Callable
from types import TracebackType
from typing import Any


class NullLogger:
    """In the place of `Metrics`, `Console` and `Heartbeat`."""

    def __enter__(self) -> "NullLogger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def log(self, **values: Any) -> None:
        """Nothing."""

    def sync(self) -> int:
        """Nothing was written."""
        return 0

    def close(self) -> None:
        """Nothing."""

    def advance(self, n_tokens: int, note: str | None = None) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def follow(self, step: Callable[[], int], step_tokens: int) -> None:
        """Nothing."""
