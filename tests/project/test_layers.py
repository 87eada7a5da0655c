"""The house: imports point downwards, fences hold, files stay readable, nothing reads a pickle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

FILES = sorted((ROOT / "lexp").rglob("*.py"))

# Floors from the ground up; a module may import from its own room and from floors below.
FLOORS = [
    {"lexp", "system", "statistics"},
    {"position", "pattern", "display", "record", "data", "result_store", "runs"},
    {"attention", "config"},
    {"model"},
    {"distributed", "extension", "hf", "scoring"},
    {"training"},
    {"evaluate"},
    {"probes"},
    {"report"},
    {"instruments"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
# Packages of one floor that know nothing of each other.
STRANGERS = [floor for floor in FLOORS if len(floor) > 1 and "system" not in floor]
FENCES = {
    "hydra": {"cli", "commands", "config"},
    "submitit": {"commands"},
    "omegaconf": {"cli", "commands", "config"},
    "wandb": {"record"},
    "rich": {"record", "display", "commands"},
    "datasets": {"data"},
    "tokenizers": {"data"},
    "pyarrow": {"data"},
    "huggingface_hub": {"data", "hf"},
    "transformers": {"hf"},
    "matplotlib": {"display", "commands"},
    "pandas": {"commands"},
    "safetensors": {"runs", "hf"},
    "scipy": {"statistics"},
    "lm_eval": {"commands"},
}


def room(path: Path) -> str:
    parts = path.relative_to(ROOT / "lexp").with_suffix("").parts
    return "lexp" if parts == ("__init__",) else parts[0]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor(name: str) -> int:
    return next(n for n, rooms in enumerate(FLOORS) if name in rooms)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards_and_fences_hold(path):
    own = room(path)
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top != "lexp":
            assert own in FENCES.get(top, {own}), f"{path} imports {name}"
            continue
        other = rest.split(".")[0]
        if other in ("", "__version__", own):
            continue
        assert floor(other) <= floor(own), f"{path} imports {name}, which is above it"
        for strangers in STRANGERS:
            assert not {own, other} <= strangers, f"{path} imports {name}, its neighbour"


def test_the_tree_is_a_table_of_contents():
    """Few packages, no loose modules but two, few floors, and no class name twice."""
    # A folder that was moved away leaves compiled files behind.
    entries = {path.relative_to(ROOT / "lexp").parts[0] for path in FILES}
    assert {name for name in entries if "." in name} <= {"__init__.py", "__main__.py"}
    assert len([name for name in entries if "." not in name]) <= 24 and len(FLOORS) <= 14
    places: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_can_be_read_in_one_sitting(path):
    assert path.read_text().count("\n") <= 400
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 70, f"{path}:{node.lineno} {node.name}"


# Ways in which reading a file can run code, or a shell be opened.
FORBIDDEN_CALLS = {
    "eval", "exec", "torch.load", "pickle.load", "pickle.loads", "yaml.load", "os.system",
    "torch.hub.load", "hydra.utils.instantiate", "instantiate", "OmegaConf.load",
}  # fmt: skip
FORBIDDEN_IMPORTS = {"pickle", "cloudpickle", "dill", "shelve", "marshal", "tarfile", "zipfile"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_pickle_no_shell_no_remote_code(path):
    # Results read arrays out of an archive themselves, after a look at their sizes; nothing is
    # extracted to a folder.
    reads = {f"zipfile.{name}" for name in ("BadZipFile", "ZipFile", "ZipInfo")}
    names = imported(path) - (reads if path == ROOT / "lexp/result_store/arrays.py" else set())
    assert not {name.split(".")[0] for name in names} & FORBIDDEN_IMPORTS
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in FORBIDDEN_CALLS, f"{path}:{node.lineno}"
            for keyword in node.keywords:
                assert keyword.arg not in ("allow_pickle", "trust_remote_code", "shell"), path


def test_the_command_line_is_light():
    """Help and tab completion must not wait for torch or even for Hydra."""
    code = "import sys, lexp.cli.main; print({'torch', 'hydra', 'rich'} & set(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "set()"


def test_composing_a_config_does_not_import_torch():
    code = (
        "import sys; sys.argv = ['lexp', 'train', '--cfg', 'job']\n"
        "import lexp.cli.main\n"
        "try: lexp.cli.main.main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


TESTS = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_tests_share_through_support_alone(path):
    """No test file imports another, nor a conftest; what tests share depends on no test."""
    for name in imported(path):
        parts = name.split(".")
        assert not any(part.startswith("test_") or part == "conftest" for part in parts[:-1]), name
        assert not parts[-1].startswith("test_"), name
    if path.parent.name == "oracles":
        assert not {name for name in imported(path) if name.split(".")[0] in ("lexp", "support")}
