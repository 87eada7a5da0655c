"""scripts/setup.sh, with an interpreter and a uv that only write down what they are asked."""

import shutil
import subprocess
from pathlib import Path

import pytest

from support import ROOT

PYTHON = """#!/bin/sh
case "$1 $2" in
    "-c import sys"*) exit 0 ;;
    "-c import urllib"*) exit "$NO_INDEX" ;;
    "-m venv") shift; mkdir -p "$2/bin"; cp "$0" "$2/bin/python"; echo "python -m venv $2" ;;
    *) echo "python $*" ;;
esac >> "$ASKED"
"""
UV = """#!/bin/sh
echo "uv $*" >> "$ASKED"
if [ "$1" = venv ]; then mkdir -p .venv/bin; cp "$FAKES/python3" .venv/bin/python; fi
"""
CPU = " --index-url https://download.pytorch.org/whl/cpu"
PIP = "python -m pip install --quiet --disable-pip-version-check "
BY_UV = "uv pip install --quiet --python .venv/bin/python "


def set_up(folder: Path, fakes: dict[str, str], no_index: int = 0) -> tuple[list[str], str]:
    """Return what was asked of the tools, and what the script said."""
    (folder / "scripts").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "scripts" / "setup.sh", folder / "scripts")
    if not (folder / "pyproject.toml").exists():  # a newer one would be installed again
        shutil.copy2(ROOT / "pyproject.toml", folder)
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("bash", "cp", "mkdir", "touch", "dirname", "sh"):
        if not (tools / name).exists():
            (tools / name).symlink_to(str(shutil.which(name)))
    for name, text in {**fakes, "uname": "#!/bin/sh\necho Linux\n"}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    asked = folder / "asked"
    asked.write_text("")
    given = {
        "PATH": str(tools),
        "ASKED": str(asked),
        "FAKES": str(tools),
        "NO_INDEX": str(no_index),
    }
    ended = subprocess.run(
        [str(tools / "bash"), "scripts/setup.sh"], cwd=folder, env=given, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return asked.read_text().splitlines(), ended.stderr


def test_pip_installs_the_cpu_build_once_and_says_how_much_it_downloads(tmp_path):
    asked, said = set_up(tmp_path, {"python3": PYTHON})
    assert asked == ["python -m venv .venv", f"{PIP}torch==2.13.0{CPU}", f"{PIP}-e .[dev]"]
    assert "200 MB (CPU build)" in said and "250 MB of other packages" in said
    again, said = set_up(tmp_path, {"python3": PYTHON})
    assert (again, said) == ([], "")


def test_uv_is_used_where_it_is_there(tmp_path):
    asked, said = set_up(tmp_path, {"python3": PYTHON, "uv": UV})
    assert asked == [
        "uv venv --quiet --seed --python python3 .venv",
        f"{BY_UV}torch==2.13.0{CPU}",
        f"{BY_UV}-e .[dev]",
    ]
    assert "by uv" in said


@pytest.mark.parametrize("tool", ["nvidia-smi", None])
def test_a_gpu_or_an_unreachable_index_takes_the_default_build(tmp_path, tool):
    fakes = {"python3": PYTHON, **({tool: "#!/bin/sh\n"} if tool else {})}
    asked, said = set_up(tmp_path, fakes, no_index=0 if tool else 1)
    assert asked[1] == f"{PIP}torch==2.13.0"
    assert "3 GB (CUDA libraries included)" in said
