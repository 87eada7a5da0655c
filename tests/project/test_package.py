"""The wheel holds every config, and the command runs from it with no checkout near."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from support import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling", reason="building a wheel offline needs hatchling installed")
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (path,) = out.glob("*.whl")
    return path


def test_every_config_and_data_file_is_in_the_wheel_and_only_the_launchers_beside_lexp(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"lexp/conf/{path.relative_to(ROOT / 'conf').as_posix()}" in names
    for path in (ROOT / "lexp" / "report").rglob("*.*"):
        if path.suffix in (".css", ".js", ".csv"):
            assert path.relative_to(ROOT).as_posix() in names
    assert "lexp/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"lexp", "hydra_plugins", next(t for t in tops if t.endswith(".dist-info"))}


def test_the_command_runs_from_the_unpacked_wheel(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    result = subprocess.run(
        [sys.executable, "-m", "lexp", "train", "model=xpos", "--cfg", "job"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "lexp.position.XPos" in result.stdout


def test_hooks_before_a_commit_are_the_checks_of_the_test_script():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lines = (ROOT / "scripts" / "test.sh").read_text().splitlines()
    checks = [line.removesuffix(" .") for line in lines if line.startswith(("ruff", "mypy"))]
    assert [hook["entry"] for hook in hooks] == checks and len(checks) == 3
