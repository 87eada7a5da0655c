"""What data sets of the hub, and folders like them, may name: they say themselves what is read.

Their README.md, .huggingface.yaml and dataset_infos.json are somebody else's. A data set reads
files below its own folder, or of its own repository, and nothing by URL.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lexp.system.errors import DataError, first_line
from lexp.system.files import digest, sha256

# Keys of a data set's own description whose values name files.
NAMING = ("data_files", "data_dir", "names_file", "base_path", "path", "drop_labels_file")
# Readers of texts. Others of `datasets` decode what is in archives, pickled tensors among it, or
# follow names within files.
READERS = ("text", "json", "csv", "parquet", "arrow")
CARDS = ("README.md", ".huggingface.yaml", "dataset_infos.json")


def digest_of_folder(folder: Path) -> str:
    """Return a digest of a folder's files; of a link that leads out of it, of where it leads."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return digest(
        [
            [p.relative_to(folder).as_posix(), sha256(p) if inside(folder, p) else os.readlink(p)]
            for p in files
        ]
    )


def inside(folder: Path, path: Path) -> bool:
    """Return True if a path, all links followed, is below a folder.

    The hub's cache counts: its snapshots/COMMIT/ holds links to ../../blobs/.
    """
    root, real = folder.resolve(), path.resolve()
    roots = [root]
    if root.parent.name == "snapshots":
        roots.append(root.parents[1] / "blobs")
    return any(place in real.parents for place in roots)


def check_card(folder: Path) -> None:
    """Raise DataError if a local data set's own files name a file outside of it, or a URL."""
    for name in ("state.json", "dataset_dict.json"):
        if os.path.lexists(folder / name):
            raise DataError(f"{folder} is of `save_to_disk` ({name}); save it as parquet files")
    for name in CARDS:
        path = folder / name
        if not os.path.lexists(path):
            continue
        if not path.is_file() or not inside(folder, path):
            raise DataError(f"{path} is a link or no file; put a copy into the folder")
        try:
            card = _described(path)
        except Exception as error:  # yaml, json and huggingface_hub raise any kind
            raise DataError(f"{path} cannot be read: {first_line(error)}") from None
        check_names(card, str(path))


def _described(path: Path) -> Any:
    """Return what a file of CARDS says, read as `datasets` reads it."""
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix == ".yaml":
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    from huggingface_hub import DatasetCard

    return DatasetCard.load(path).data.to_dict()


def check_names(card: Any, where: str) -> None:
    """Raise DataError for a name in a description that is not a path below the data set."""
    for key, name in _names(card, ""):
        parts = re.split(r"[/\\]", name)
        if ":" in name or ".." in parts or parts[0] in ("", "~") or key == "names_file":
            raise DataError(
                f"{where}: {key}: {name!r} is not a file below the data set; "
                "remove it, or type the files yourself: dataset=text dataset.train=GLOB"
            )


def check_reader(builder: type, path: str) -> None:
    """Raise DataError unless a data set is read by one of READERS; its files' names choose it."""
    start = "datasets.packaged_modules."
    names = [kind.__module__.removeprefix(start).split(".")[0] for kind in builder.__mro__]
    if not set(names) & set(READERS):
        raise DataError(
            f"dataset {path}: its files are read as {names[0]}; texts are read as "
            f"{', '.join(READERS)}: convert them to one of these"
        )


def check_files(files: Iterable[str], path: str) -> None:
    """Raise DataError if a file that a data set is about to read is not its own.

    path: the folder, or the name on the hub.
    """
    folder = Path(path)
    for file in files:
        if folder.is_dir():
            own = ":" not in file.removeprefix(str(folder.resolve())) and inside(folder, Path(file))
        else:
            own = file.lower().startswith(f"hf://datasets/{path.lower()}@") and "::" not in file
        if not own:
            raise DataError(
                f"dataset {path}: {file} is not in it; if it is a link, put a copy into the folder"
            )


def _names(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield every text at or below a key of NAMING, with that key."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _names(inner, key or (str(name) if name in NAMING else ""))
    elif isinstance(value, list | tuple | set):
        for inner in value:
            yield from _names(inner, key)
    elif key and isinstance(value, str):
        yield key, value
