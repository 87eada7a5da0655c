"""A logger that logs nothing."""

from collections.abc import Callable
from types import TracebackType
from typing import Any


class NullLogger:
    """No-op in the place of Metrics, Console, Heartbeat, EventFile and WandbLogger.

    Used on ranks other than 0, and for a logger that is off.
    """

    def __enter__(self) -> "NullLogger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def log(self, *arguments: Any, **values: Any) -> None:
        """Do nothing."""

    def sync(self) -> int:
        """Return 0, the number of bytes written."""
        return 0

    def close(self) -> None:
        """Do nothing."""

    def advance(self, n_tokens: int, note: str | None = None) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def follow(self, step: Callable[[], int], step_tokens: int) -> None:
        """Do nothing."""

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Do nothing."""

    def chart(self, name: str, x_name: str, lines: list[Any]) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""
