"""`lexp train model=hf path=FOLDER`: init_from=FOLDER as the commands on trained models have it.

The words are replaced before Hydra composes, so that a run, its folder and what it resumes from are
those of init_from=FOLDER.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from lexp.config.hf_folder import is_hf_folder, refuse_hub_name
from lexp.config.home import expand_path
from lexp.runs.find import FINISHED
from lexp.system.errors import ConfigError


def with_init_from(arguments: list[str]) -> list[str]:
    """Return the arguments of `lexp train`, with init_from=FOLDER for model=hf path=FOLDER.

    ConfigError if one of the two is missing, if init_from is given too, or if a folder holds no
    model of transformers.
    """
    models, paths = _models(arguments), [word for word in arguments if word.startswith("path=")]
    if not models and paths:
        raise ConfigError(
            f"{paths[0]}: is for a model of Hugging Face, with model=hf; for texts write "
            "dataset=text dataset.path=FOLDER"
        )
    if models and not paths:
        raise ConfigError(
            f"{models[0]}: needs path=FOLDER, the folder of a Llama, Mistral or Qwen3 checkpoint"
        )
    given = next((word for word in arguments if word.startswith("init_from=")), None)
    if models and given:
        raise ConfigError(f"{paths[0]} and {given}: a run starts from one model; leave out one")
    for folder in (folder for word in paths for folder in _values(word)):
        _refuse_other(folder)
    return replaced(arguments)


def replaced(arguments: list[str]) -> list[str]:
    """Return the arguments with other words for model=hf and path=; unchecked.

    model=hf becomes model=rope, which has the checkpoint's frequencies (lexp.config.hf_folder). Of
    the values of a sweep each is replaced.
    """
    return [_replaced(word) for word in arguments] if _models(arguments) else arguments


def _models(arguments: list[str]) -> list[str]:
    return [word for word in arguments if re.match(r"model=(.*,)?hf(,|$)", word)]


def _replaced(word: str) -> str:
    key, _, value = word.partition("=")
    if key == "path":
        return f"init_from={value}"
    if key == "model":
        return "model=" + ",".join("rope" if name == "hf" else name for name in value.split(","))
    return word


def _values(word: str) -> Iterator[str]:
    """Yield the values of an override, of which a sweep has several."""
    override = OverridesParser.create().parse_override(word)
    if override.is_sweep_override():
        yield from override.sweep_string_iterator()
    else:
        value = override.value()
        yield value if isinstance(value, str) else word.partition("=")[2]


def _refuse_other(folder: str) -> None:
    """Raise ConfigError for a path that is not the folder of a model of transformers."""
    path = expand_path(folder, "path")
    if is_hf_folder(path):
        return
    refuse_hub_name("path", path)
    if (Path(path) / FINISHED).exists():
        raise ConfigError(f"path={folder}: a run of lexp; write init_from={folder}, no model=hf")
    raise ConfigError(
        f"path={folder}: no model of transformers; name a folder that has its config.json"
    )
