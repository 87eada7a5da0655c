"""The settings of a run that follow from its task: the longest row decides the context length."""

import copy
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lexp.config.instantiate import build
from lexp.config.schema import plain
from lexp.data.tasks.dataset import TaskDataset
from lexp.system.errors import ConfigError

USUAL_LENGTH = "${size.train_len}"  # train_len= of conf/train.yaml
TARGET = f"{TaskDataset.__module__}.{TaskDataset.__qualname__}"


def is_task(dataset: Any) -> bool:
    """Return True if the config of a data set describes a task, not texts."""
    return isinstance(dataset, dict) and dataset.get("_target_") == TARGET


def with_task(node: Any, task: Any) -> Any:
    """Return the config of a model, or of a part of one, in which each null `task` is a task's."""
    if isinstance(node, list):
        return [with_task(inner, task) for inner in node]
    if not isinstance(node, dict):
        return node
    return {
        key: task if (key, inner) == ("task", None) else with_task(inner, task)
        for key, inner in node.items()
    }


def with_train_len(config: DictConfig) -> DictConfig:
    """Return the composed config of a run with the train_len of its task, if none was given.

    What refers to `${train_len}`, such as the size of a table of positions, follows.
    """
    given = OmegaConf.to_container(config, resolve=False)
    assert isinstance(given, dict)
    if given.get("train_len") != USUAL_LENGTH or not is_task(given.get("dataset")):
        return config
    task = build(plain(config)["dataset"], TaskDataset, "dataset")
    fitted = copy.deepcopy(config)
    fitted.train_len = task.train_len
    return fitted


def fit_to_task(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a run's settings with the batch_tokens of its task; of texts, unchanged.

    Parts of the model whose `task` is null get the run's. batch_tokens is rounded down to whole
    rows. ConfigError for a train_len that is not the tokens of the longest training row, and for
    texts where the model takes positions from a task.
    """
    if not is_task(raw["dataset"]):
        if with_task(raw["model"], "") != raw["model"]:
            raise ConfigError(
                f"model={raw['model']['name']}: its positions follow from the problems of a task, "
                f"dataset={raw['dataset']['name']} is texts; use a task, for example "
                "dataset=addition dataset.task.reverse=true"
            )
        return raw
    task = build(raw["dataset"], TaskDataset, "dataset")
    given, row_len = raw["train_len"], task.train_len
    if given != row_len:
        raise ConfigError(
            f"train_len={given}: dataset={raw['dataset']['name']} is a task, its longest training "
            f"row has {row_len} tokens; leave train_len out, or change dataset.max_length"
        )
    model = with_task(raw["model"], raw["dataset"].get("task"))
    parts, batch_tokens = raw["accumulation"], raw["batch_tokens"]
    if parts < 1 or batch_tokens < 1:  # refused by the checks of all runs
        return {**raw, "model": model}
    n_rows = max(parts, batch_tokens // row_len // parts * parts)
    return {**raw, "model": model, "batch_tokens": n_rows * row_len}
