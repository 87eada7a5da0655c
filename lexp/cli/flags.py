"""Flags as Hydra's parser reads them; what it refuses is one line instead of its usage."""

from argparse import Namespace
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from lexp.system.errors import ConfigError


def parse_flags(arguments: list[str]) -> tuple[Namespace, list[str]]:
    """Return flags and overrides, and the words that are neither; ConfigError for a wrong flag."""

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message.replace('argument -', 'flag -')}; --help shows what there is")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_known_args(arguments)
