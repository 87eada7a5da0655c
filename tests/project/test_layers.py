"""The house: imports point downwards, fences hold, files stay readable, nothing reads a pickle."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

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


# Ways in which reading a file can run code, or a shell be opened.
FORBIDDEN_CALLS = {
    "eval", "exec", "torch.load", "pickle.load", "pickle.loads", "yaml.load", "os.system",
    "torch.hub.load", "hydra.utils.instantiate", "instantiate", "OmegaConf.load",
}  # fmt: skip
LAST_WORDS = {name.rpartition(".")[2] for name in FORBIDDEN_CALLS}
FORBIDDEN_KEYWORDS = {"allow_pickle", "trust_remote_code", "shell"}
FORBIDDEN_IMPORTS = {"pickle", "cloudpickle", "dill", "shelve", "marshal", "tarfile", "zipfile"}


@dataclass
class Facts:
    """What the tests below ask of a file."""

    n_lines: int
    imported: set[str] = field(default_factory=set)
    functions: list[tuple[int, int, str]] = field(default_factory=list)  # last line, too
    forbidden: list[tuple[int, str]] = field(default_factory=list)  # calls
    classes: list[str] = field(default_factory=list)  # public ones


@cache
def facts(path: Path) -> Facts:
    """Read and parse a file, once for all tests."""
    text = path.read_text()
    tree, found = ast.parse(text), Facts(text.count("\n"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.imported |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.FunctionDef):
            found.functions.append((node.lineno, node.end_lineno, node.name))
        elif isinstance(node, ast.Call):
            called = node.func
            last = getattr(called, "attr", getattr(called, "id", ""))
            name = ast.unparse(called) if last in LAST_WORDS else last  # to unparse all is slow
            keywords = {keyword.arg for keyword in node.keywords}
            if name in FORBIDDEN_CALLS or keywords & FORBIDDEN_KEYWORDS:
                found.forbidden.append((node.lineno, name))
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    found.classes = [name for name in classes if not name.startswith("_")]
    return found


def imports_of(paths: list[Path]) -> Iterator[tuple[Path, str]]:
    """Yield every file with each of the names that it imports."""
    for path in paths:
        for name in facts(path).imported:
            yield path, name


def floor(name: str) -> int:
    return next(n for n, rooms in enumerate(FLOORS) if name in rooms)


def test_imports_point_downwards_and_fences_hold():
    for path, name in imports_of(FILES):
        own = room(path)
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
        for name in facts(path).classes:
            places.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_files_can_be_read_in_one_sitting():
    for path in FILES:
        assert facts(path).n_lines <= 400, path
        for first, last, name in facts(path).functions:
            assert last - first < 70, f"{path}:{first} {name}"


def test_no_pickle_no_shell_no_remote_code():
    # Results read arrays out of an archive themselves, after a look at their sizes; nothing is
    # extracted to a folder.
    reads = {f"zipfile.{name}" for name in ("BadZipFile", "ZipFile", "ZipInfo")}
    for path in FILES:
        allowed = reads if path == ROOT / "lexp/result_store/arrays.py" else set()
        packages = {name.split(".")[0] for name in facts(path).imported - allowed}
        assert not packages & FORBIDDEN_IMPORTS, path
        assert not facts(path).forbidden, path


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


def test_tests_share_through_support_alone():
    """No test file imports another, nor a conftest; what tests share depends on no test."""
    for path, name in imports_of(TESTS):
        *modules, last = name.split(".")
        of_tests = [part for part in modules if part.startswith("test_") or part == "conftest"]
        assert not of_tests and not last.startswith("test_"), f"{path} imports {name}"
        if path.parent.name == "oracles":
            assert name.split(".")[0] not in ("lexp", "support"), f"{path} imports {name}"
