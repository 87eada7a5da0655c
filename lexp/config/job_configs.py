"""The configs of a sweep's jobs, composed once for all jobs that differ in values alone.

To compose takes Hydra a tenth of a second, so that a sweep of 300 seeds would cost half a minute
before its first run; to copy a config and put in a value takes a hundredth of that.
"""

import copy
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict


class JobConfigs:
    """Composes the jobs of a sweep of one command, without Hydra's own keys.

    loader: lexp.cli.hydra_guard.CheckedLoader, which checks configs and values alike.
    """

    def __init__(self, loader: Any, word: str):
        self._loader, self._word = loader, word
        self._parser = OverridesParser.create(config_loader=loader)
        self._repository = loader._parse_overrides_and_create_caching_repo(word, [])[1]
        self._parsed: dict[str, Override] = {}
        self._bases: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, words: list[str]) -> DictConfig:
        """Compose the config of one job; errors are those of Hydra and of the loader."""
        overrides = [self._parse(word) for word in words]
        values = [override for override in overrides if self._is_value(override)]
        choices = [override for override in overrides if not self._is_value(override)]
        known = [o.is_hydra_override() or self._is_choice(o) for o in choices]
        if not all(known):
            # +key or ~key may be of a key that is set too: then the order counts.
            values, choices = [], overrides
        chosen = tuple(str(override.input_line) for override in choices)
        if chosen not in self._bases:
            self._bases[chosen] = self._base(list(chosen))
        config = copy.deepcopy(self._bases[chosen])
        self._loader.set_values(config, values)
        return config

    def _base(self, words: list[str]) -> DictConfig:
        config = self._loader.load_configuration(self._word, words, RunMode.RUN)
        with open_dict(config):
            del config["hydra"]
        return config

    def _parse(self, word: str) -> Override:
        if word not in self._parsed:
            self._parsed[word] = self._parser.parse_override(word)
        return self._parsed[word]

    def _is_value(self, override: Override) -> bool:
        """Return True for the plain value of a key of lexp's own."""
        return (
            override.type == OverrideType.CHANGE
            and override.package is None
            and not override.is_hydra_override()
            and not self._is_choice(override)
        )

    def _is_choice(self, override: Override) -> bool:
        return self._repository.group_exists(override.key_or_group)
