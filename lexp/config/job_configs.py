"""The configs of a sweep's jobs, composed once for all jobs that differ in values or in a file.

To compose takes Hydra a tenth of a second, so that a sweep of 300 seeds would cost half a minute
before its first run; to copy a config and put in a value takes a hundredth of that, and to put in
the file of another model a tenth.
"""

import copy
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from lexp.system.files import config_folder

# Groups of `lexp train` whose file is all that is below their key: no schema changes its types.
WHOLE = ("model", "trunk", "objective", "dataset", "tokenizer", "reading")


class JobConfigs:
    """Composes the jobs of a sweep of one command, without Hydra's own keys.

    loader: lexp.cli.hydra_guard.CheckedLoader, which checks configs and values alike.
    """

    def __init__(self, loader: Any, word: str):
        self._loader, self._word = loader, word
        self._groups = WHOLE if word == "train" else ()
        self._parser = OverridesParser.create(config_loader=loader)
        self._repository = loader._parse_overrides_and_create_caching_repo(word, [])[1]
        self._parsed: dict[str, Override] = {}
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        # By a group, and the choices of all others: the config of one of its choices.
        self._alike: dict[tuple[str, frozenset[tuple[str, str]]], DictConfig] = {}
        self._files: dict[tuple[str, str], DictConfig | None] = {}

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
            self._bases[chosen] = self._composed(choices)
        config = copy.deepcopy(self._bases[chosen])
        self._loader.set_values(config, values)
        return config

    def _composed(self, choices: list[Override]) -> DictConfig:
        """Compose choices by Hydra, or from a config in which one group has another choice."""
        pairs = frozenset((choice.key_or_group, str(choice.value())) for choice in choices)
        plain = len(pairs) == len({group for group, _ in pairs}) == len(choices) and all(
            choice.type == OverrideType.CHANGE and self._file(choice) for choice in choices
        )
        if not plain:
            return self._base([str(choice.input_line) for choice in choices])
        own = [choice for choice in choices if choice.key_or_group in self._groups]
        keys = {c.key_or_group: pairs - {(c.key_or_group, str(c.value()))} for c in own}
        for choice in own:
            group = choice.key_or_group
            if alike := self._alike.get((group, keys[group])):
                config = copy.deepcopy(alike)
                with open_dict(config):
                    config[group] = copy.deepcopy(self._file(choice))
                break
        else:
            config = self._base([str(choice.input_line) for choice in choices])
        for group, others in keys.items():
            self._alike.setdefault((group, others), config)
        return config

    def _file(self, choice: Override) -> DictConfig | None:
        """Return what the file of a choice has; None for one that sets more than its own key.

        So may those of other folders; and an unknown name is for Hydra to refuse.
        """
        group, name = choice.key_or_group, choice.value()
        if not isinstance(name, str):
            return None
        if (group, name) not in self._files:
            path, found = f"{group}/{name}", None
            if self._repository.config_exists(path):
                found = self._repository.load_config(path)
            if (
                found is not None
                and found.path == f"file://{config_folder()}"
                and not found.defaults_list
                and not (found.header or {}).get("package")
            ):
                self._files[group, name] = found.config
            else:
                self._files[group, name] = None
        return self._files[group, name]

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
