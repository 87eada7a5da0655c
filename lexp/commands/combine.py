"""Which schemes and methods combine, found by building each pair. Imports torch."""

import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from torch import nn

from lexp.attention import make_attend
from lexp.commands.catalogue import DATASET, METHODS, TRAIN_LEN, Catalogue, Choice, read_choices
from lexp.commands.run_parts import make_model, training_pattern
from lexp.config.instantiate import build
from lexp.config.job_configs import JobConfigs
from lexp.config.schema import plain
from lexp.config.settings import TrainConfig
from lexp.config.sweep import searched
from lexp.config.validation import read_composed_train
from lexp.data.tasks.dataset import TaskDataset
from lexp.evaluate import Method, methods_for, refuse_beyond
from lexp.extension import Extension, Lengths
from lexp.model.transformer import Block, Transformer
from lexp.pattern import (
    Blockwise,
    Full,
    Pattern,
    Trained,
    is_replaceable,
    refuse_nothing_replaced,
    replaced,
)
from lexp.position import Position
from lexp.system.errors import NotDefined

# The task of models whose positions follow from a task; its longest row has TRAIN_LEN tokens.
TASK = ("dataset=addition", "dataset.task.reverse=true")


class Combiner:
    """Builds the models and methods of conf/ and of other folders, each at most once.

    Models are untrained, of `size=nano`; tried at their trained length and at twice that.

    folders: others that have config groups as conf/ has.
    """

    def __init__(self, config_folder: Path, folders: list[str]):
        self.config_folder, self.folders = config_folder, folders
        self.choices = read_choices(config_folder, folders)
        self.settings, self.methods = cache(self._settings), cache(self._methods)
        self.model, self.pattern = cache(self._model), cache(self._pattern)
        self._configs: dict[str, JobConfigs] = {}  # by command

    def _model(self, scheme: str) -> Transformer:
        """Return an untrained model with a scheme."""
        torch.manual_seed(0)
        return make_model(self.settings(scheme), 256).eval()

    def _pattern(self, scheme: str) -> Pattern:
        """Return the pattern that a model with a scheme is trained with."""
        return training_pattern(self.settings(scheme))

    def _settings(self, scheme: str) -> TrainConfig:
        """Return the settings of a training with a scheme."""
        words = [f"model={scheme}"]
        (choice,) = (c for c in self.choices if (c.group, c.name) == ("model", scheme))
        if "task: null" in choice.text:
            words += TASK
        else:
            words.append(f"train_len={TRAIN_LEN}")
        return read_composed_train(self._composed("train", words))

    def _methods(self) -> dict[str, dict[str, Any]]:
        """Return the nodes of all patterns and extensions: group -> name -> node."""
        named = {group: [c.name for c in self.choices if c.group == group] for group in METHODS}
        composed = plain(self._composed("eval", [f"{g}=[{','.join(named[g])}]" for g in METHODS]))
        return {group: composed[group] for group in METHODS}

    def _composed(self, command: str, words: list[str]) -> DictConfig:
        with initialize_config_dir(str(self.config_folder), version_base="1.3"):
            if command not in self._configs:
                loader = GlobalHydra.instance().config_loader()
                self._configs[command] = JobConfigs(loader, command)
            return self._configs[command].compose([*words, *searched(self.folders)])

    def source(self, choice: Choice) -> str:
        """Return paper and formula of a choice from its code; of a mixture, those of each part.

        Of a task, its rule, source and formats.
        """
        if choice.is_task:
            node = plain(self._composed("train", [f"dataset={choice.name}"]))["dataset"]
            task = build(node, TaskDataset, choice.key).task
            return inspect.getdoc(inspect.getmodule(type(task))) or ""
        if choice.group != "model":
            return inspect.getdoc(type(self._made(choice, []))) or ""
        model, parts = self.model(choice.name), list[nn.Module]()
        for scheme, block in zip(model.schemes, model.blocks, strict=False):
            if isinstance(block, Block) and not block.mixer.attends:
                parts.append(block.mixer)
            else:
                parts += [part for part in scheme.modules() if isinstance(part, Position)]
        modules = dict.fromkeys(inspect.getmodule(type(part)) for part in parts)
        return "\n\n".join(inspect.getdoc(module) or "" for module in modules)

    def learned(self, scheme: str) -> int:
        """Count the learned parameters of a model's position schemes."""
        return sum(parameter.numel() for parameter in self.model(scheme).positions.parameters())

    def reason(self, scheme: str, method: Choice, length: int) -> str:
        """Return why a method is not defined for a scheme at a length; empty if it is.

        An extension is defined if it is so with the pattern of training, full or blockwise
        attention: some change nothing where queries see few keys, some where they see all.
        """
        if method.group == "attention":
            (fitting,) = methods_for(
                self.pattern(scheme), [Method(self._made(method, []), Extension(), length)]
            )
            return self._reason(scheme, fitting.pattern, Extension(), length)
        extension = self._made(method, self.model(scheme).schemes)
        patterns = (Trained(), Full(), Blockwise())
        reasons = [self._reason(scheme, pattern, extension, length) for pattern in patterns]
        return reasons[0] if all(reasons) else ""

    def _reason(self, scheme: str, method: Pattern, extension: Extension, length: int) -> str:
        """Return why a pattern with an extension is not defined for a scheme at a length."""
        trained, lengths = self.pattern(scheme), Lengths(TRAIN_LEN, length, length)
        try:
            refuse_nothing_replaced(trained, method)
            pattern = replaced(trained, method.fit(TRAIN_LEN, length))
            model = extension.extend(
                self.model(scheme), pattern, lengths, lambda n, t: torch.zeros(n, t).long()
            )
            refuse_beyond(model, length)
            make_attend(pattern, length, model.schemes, torch.device("cpu"))
        except NotDefined as error:
            return str(error)
        return ""

    def _made(self, method: Choice, schemes: list[Position]) -> Any:
        """Build a pattern or an extension. schemes: those that LongRoPE's divisors have to fit."""
        node = self.methods()[method.group][method.name]
        if method.group == "attention":
            return build(node, Pattern, method.name)
        if "divisors" in node:  # they have no default
            pairs = [len(part.frequencies) for scheme in schemes for part in scheme.parts]
            node = {**node, "divisors": [1.0] * max([1, *pairs])}
        return build(node, Extension, method.name)


def tried(combiner: Combiner, choices: list[Choice]) -> Catalogue:
    """Return the catalogue of some choices, and of all that these combine with."""
    found = Catalogue({}, {}, {}, {}, [])
    for choice in choices:
        if choice.group != DATASET or choice.is_task:
            found.sources[choice.key] = combiner.source(choice)
        if choice.group == "model":
            found.learned[choice.name] = combiner.learned(choice.name)
            if not is_replaceable(combiner.pattern(choice.name)):
                found.as_trained.append(choice.name)
    for scheme, method in _pairs(combiner.choices):
        if scheme in choices or method in choices:
            within = combiner.reason(scheme.name, method, TRAIN_LEN)
            reason = within or combiner.reason(scheme.name, method, 2 * TRAIN_LEN)
            found.reasons.setdefault(scheme.name, {})[method.key] = reason
            if reason and not within:
                found.ending.setdefault(scheme.name, []).append(method.key)
    return found


def _pairs(choices: list[Choice]) -> Iterator[tuple[Choice, Choice]]:
    """Yield every scheme with every method."""
    for scheme in (choice for choice in choices if choice.group == "model"):
        for method in (choice for choice in choices if choice.group in METHODS):
            yield scheme, method
