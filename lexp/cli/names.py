"""Tab completion from the output folder: names of studies, folders of finished runs."""

import re
from pathlib import Path

# A file that every run folder has, and one that finished runs have.
RUN, FINISHED = "config.json", "done.json"


def names_begun(words: list[str]) -> list[str] | None:
    """Return completions of the last word of a command line; None if its key takes no such name.

    words: the words typed, the last one incomplete. Names that a shell would split are left out.
    """
    key, equals, _ = words[-1].partition("=")
    outputs = [word.partition("=")[2] for word in words[:-1] if word.startswith("outputs=")]
    folder = Path(*outputs[-1:] or ["outputs"])
    if not equals or key not in ("name", "run", "init_from"):
        return None
    if key == "name":
        found = {path.parents[1].name for path in folder.glob(f"*/*/{RUN}")}
    else:
        found = {str(path.parent) for path in folder.glob(f"*/*/{FINISHED}")}
    offered = [f"{key}={name}" for name in sorted(found) if re.fullmatch(r"[\w./+~-]+", name)]
    return [word for word in offered if word.startswith(words[-1])]
