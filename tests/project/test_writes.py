"""Whatever writes, renames or deletes passes lexp.system.files, which follows no symbolic link."""

import ast

import pytest

from support import ROOT

FILES = sorted([*(ROOT / "lexp").rglob("*.py"), *(ROOT / "hydra_plugins").glob("*.py")])
WRITER = ROOT / "lexp" / "system" / "files.py"
# Functions of these modules, and methods of paths and arrays, that change what is on disk.
MODULES = {
    "os": {
        "chmod", "chown", "ftruncate", "link", "makedirs", "mkdir", "mkfifo", "open",
        "remove", "removedirs", "rename", "renames", "replace", "rmdir", "symlink", "truncate",
        "unlink", "utime",
    },
    "shutil": {"copy", "copy2", "copyfile", "copymode", "copystat", "copytree", "move", "rmtree",
               "make_archive", "unpack_archive"},
    "np": {"save", "savez", "savez_compressed", "savetxt", "memmap"},
    "torch": {"save"},
}  # fmt: skip
METHODS = {
    "chmod", "hardlink_to", "mkdir", "rename", "rmdir", "savefig", "symlink_to", "to_csv", "tofile",
    "save_pretrained", "touch", "truncate", "unlink", "write_bytes", "write_text",
}  # fmt: skip
FUNCTIONS = {"save_file", "mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryDirectory"}
CHANGING = {"open", "replace", *FUNCTIONS, *METHODS}.union(*MODULES.values())  # last words
READING_MODES = {"r", "rb", "rt"}
# What is allowed elsewhere, and why.
ALLOWED = {
    ("lexp/cli/streams.py", "os.open"): "the null device",
    ("lexp/cli/streams.py", "open"): "the null device",
    ("lexp/data/shard_files.py", "self._file.truncate"): "a file from open_to_append",
    ("lexp/data/work_folder.py", "lock.truncate"): "a file from open_to_append",
    ("lexp/display/png.py", "figure.savefig"): "into memory",
    ("lexp/hf/export.py", "theirs.save_pretrained"): "into a new folder of lexp's own",
    ("lexp/record/event_file.py", "self._file.truncate"): "a file that the door opened",
    ("lexp/record/metrics.py", "self._file.truncate"): "a file from open_to_append",
    ("lexp/result_store/arrays.py", "np.savez_compressed"): "into memory",
    ("lexp/result_store/arrays.py", "stored.open"): "an entry of an archive, for reading",
    ("lexp/runs/checkpoint.py", "save_file"): "into a new folder of its own",
    ("lexp/runs/locks.py", "file.truncate"): "a file from open_to_append",
    ("lexp/system/reading.py", "os.open"): "for reading",
}


def writes(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and name of every call that could change a file, a folder or a name."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            last = getattr(node.func, "attr", getattr(node.func, "id", ""))
            holder = getattr(getattr(node.func, "value", None), "id", "")
            if last not in CHANGING and holder != "tempfile":
                continue  # to unparse every call is slow
            name = ast.unparse(node.func)
            owner = name.rpartition(".")[0]
            is_method = isinstance(node.func, ast.Attribute)
            if last == "open" and owner not in ("os", "zipfile", "webbrowser"):
                changes = _mode(node, 0 if is_method and owner not in ("io", "codecs") else 1)
            elif owner in MODULES:
                changes = last in MODULES[owner]
            elif is_method and last == "replace":  # of strings it takes two arguments
                changes = len(node.args) == 1 and not node.keywords
            else:
                changes = last in (METHODS if is_method else FUNCTIONS) or owner == "tempfile"
            if changes:
                found.append((node.lineno, name))
    return found


def _mode(node: ast.Call, place: int) -> bool:
    """Whether a call of `open` can write; a mode that is no constant may be any."""
    given = [k.value for k in node.keywords if k.arg == "mode"] + node.args[place : place + 1]
    return any(not isinstance(m, ast.Constant) or m.value not in READING_MODES for m in given)


def hidden_imports(tree: ast.AST) -> list[str]:
    """Names that such a function is imported by, so that a call of it would not be seen."""
    return [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil", "numpy", "torch")
        for alias in node.names
        if alias.name in MODULES.get(node.module, set()) | MODULES["np"] | {"open"}
    ]


@pytest.mark.parametrize(
    "code",
    ["open('a', 'w')", "path.open('ab')", "path.open(mode='r+b')", "open(a, mode)", "os.remove(a)",
     "path.unlink()", "a.replace(b)", "shutil.rmtree(a)", "np.savez(a)", "os.open(a, 0)",
     "tempfile.mkdtemp()", "path.write_text(a)", "folder.mkdir()", "save_file(a, b)"],
)  # fmt: skip
def test_a_call_that_writes_is_found(code):
    assert writes(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    ["open('a')", "path.open('rb')", "text.replace('a', 'b')", "replace(a, b=1)",
     "np.load(a)", "shutil.which('a')", "os.fspath(a)"],
)  # fmt: skip
def test_a_call_that_reads_is_not(code):
    assert not writes(ast.parse(code))


def test_every_write_passes_the_one_module():
    used = set()
    for path in FILES:
        if path == WRITER:
            continue
        name = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not hidden_imports(tree), name
        for line, call in writes(tree):
            assert (name, call) in ALLOWED, f"{name}:{line} {call}: see lexp/system/files.py"
            used.add((name, call))
    assert used == set(ALLOWED)
