"""The location of a model's files: a folder, or a repository fetched into the hub's own cache."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lexp.system.errors import CheckpointError, DataError, first_line
from lexp.system.files import digest, sha256
from lexp.system.reading import read_file

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PATTERNS = ["config.json", "tokenizer.json", "model*.safetensors", INDEX]


@dataclass(frozen=True)
class Source:
    """A model's folder and names.

    path: the folder, or ORG/NAME@COMMIT of the hub. folder: where the files are.
    """

    path: str
    name: str
    folder: Path

    @property
    def weights(self) -> tuple[str, ...]:
        """Return the files that hold parameters; CheckpointError if there are none to read."""
        return _weights(self.folder, self.path)

    def sha256(self) -> str:
        """Return the digest of config and weights; every file is read."""
        files = ("config.json", *self.weights)
        try:
            return digest({name: sha256(self.folder / name) for name in files})
        except OSError as error:
            raise CheckpointError(f"{self.path}: {error.filename}: {error.strerror}") from None


def find_source(path: str) -> Source:
    """Find a folder or ORG/NAME[@REVISION]; DataError or CheckpointError if it is unusable."""
    folder = Path(path)
    if folder.is_dir():
        folder = folder.resolve()
        _refuse_other_folders(folder, str(folder))
        return Source(str(folder), _word(folder.name), folder)
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*(?:/[\w.-]+)?)(?:@([\w./-]+))?", path)
    if not match:
        raise DataError(f"path={path} is neither a folder nor ORG/NAME[@REVISION] of the hub")
    repository, revision = match[1], match[2] or "main"
    folder = _fetch(repository, revision)
    _refuse_other_folders(folder, path)
    commit = folder.name  # the hub's cache names snapshots by commit
    return Source(f"{repository}@{commit}", _word(repository.split("/")[-1]), folder)


def read_config(source: Source) -> dict[str, Any]:
    """Return config.json; CheckpointError if it is missing or not a JSON object."""
    path = source.folder / "config.json"
    try:
        value = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return value


def _word(name: str) -> str:
    """Return a name that can be part of a folder's name."""
    word = re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("._-")
    return word[:60] or "model"


def _refuse_other_folders(folder: Path, path: str) -> None:
    """Raise CheckpointError for a folder that is not that of a model.

    Weights are looked for later: without them, too, an unsupported family is said to be one.
    """
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(f"path={path} is an adapter or has one: merge it into its model")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"path={path} is no model: it has no config.json")


def _weights(folder: Path, path: str) -> tuple[str, ...]:
    """Return the safetensors files that hold the parameters; never a pickle."""
    if (folder / SINGLE).is_file():
        return (SINGLE,)
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(json.loads(read_file(folder / INDEX))["weight_map"].values()))
        except (OSError, ValueError, KeyError, RecursionError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{folder / INDEX} cannot be read ({error!r})") from None
        bad = [name for name in names if not re.fullmatch(r"[\w.-]+\.safetensors", str(name))]
        missing = [name for name in names if name not in bad and not (folder / name).is_file()]
        if bad or missing or not names:
            raise CheckpointError(f"{folder / INDEX} names {(bad or missing or ['nothing'])[0]}")
        return tuple(names)
    pickles = sorted(p.name for p in folder.glob("pytorch_model*.bin"))
    if pickles:
        raise CheckpointError(f"path={path} {_only_pickles(pickles[0])}")
    raise CheckpointError(f"path={path} has no {SINGLE}")


def _only_pickles(name: str) -> str:
    return (
        f"has only {name}, a pickle, which can run code when read; lexp reads {SINGLE}: if you "
        "trust it, convert it with transformers' from_pretrained(...).save_pretrained(FOLDER)"
    )


def _fetch(repository: str, revision: str) -> Path:
    """Return the repository's snapshot, downloaded or from the hub's cache."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        # Fails at once without a network, where the download would try for half a minute.
        info = HfApi().model_info(repository, revision=revision, timeout=10)
    except Exception as error:  # many kinds, all of them "could not be asked"
        reason = first_line(error)
        try:
            return Path(
                snapshot_download(
                    repository, revision=revision, allow_patterns=PATTERNS, local_files_only=True
                )
            )
        except Exception:
            raise DataError(
                f"path={repository}@{revision} is not a folder, and the hub says: {reason}"
            ) from None
    names = [sibling.rfilename for sibling in info.siblings or []]
    pickles = [name for name in names if re.fullmatch(r"pytorch_model.*\.bin", name)]
    if pickles and not {SINGLE, INDEX} & set(names):
        raise CheckpointError(f"path={repository}@{revision} {_only_pickles(pickles[0])}")
    try:
        return Path(snapshot_download(repository, revision=info.sha, allow_patterns=PATTERNS))
    except Exception as error:
        reason = first_line(error)
        raise DataError(f"path={repository}@{revision}: {reason}") from None
