"""The digest of a user's own classes follows every file that they are made of, and no other."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

from lexp.commands.evaluate import eval_
from lexp.commands.train import train
from lexp.pattern import (
    BidirectionalBlockwise,
    BidirectionalWindow,
    Blockwise,
    DualChunk,
    LeakyReRoPE,
    LMInfinite,
    OwnChunk,
    ReRoPE,
    SelfExtend,
    Window,
)
from lexp.position import ALiBi
from lexp.result_store import component_spec
from lexp.runs.find import find_runs
from lexp.runs.run import Run, variant
from lexp.system.errors import CheckpointError
from lexp.system.user_code import code_digest
from support.config import compose

METHOD = """
from dataclasses import dataclass
from lexp.pattern import Window
{imports}
@dataclass(frozen=True)
class Last(Window):
    name = "last"
    def n_keys(self, i):
        return super().n_keys(i)
"""


class Modules:
    """Modules in a folder of the module path, imported anew for each test."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder = folder
        monkeypatch.syspath_prepend(str(folder))
        self.monkeypatch = monkeypatch

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        self.monkeypatch.delitem(sys.modules, name.removesuffix(".py").replace("/", "."), False)
        return path


@pytest.fixture
def modules(tmp_path, monkeypatch):
    before = set(sys.modules)
    yield Modules(tmp_path, monkeypatch)
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(
            sys.modules[name].__file__
        ):
            del sys.modules[name]


# What is edited beside the class's own module, how that imports it, and whether it counts.
EDITED = {
    "its own module": ("own_m.py", "", True),
    "a module beside it": ("own_h.py", "import own_h", True),
    "a name of a module beside it": ("own_h.py", "from own_h import k", True),
    "imported within a function": ("own_h.py", "def f():\n    import own_h\nf()", True),
    "what that imports": ("own_g.py", "import own_h", True),
    "a module that it does not import": ("own_x.py", "import own_h", False),
}


@pytest.mark.parametrize("what", EDITED)
def test_an_edited_file_changes_the_digest_if_the_class_is_made_of_it(modules, what):
    edited, imports, counts = EDITED[what]
    for name, text in (
        ("own_g.py", "k = 1\n"), ("own_x.py", "k = 1\n"),
        ("own_h.py", "import own_g\nk = own_g.k\n"), ("own_m.py", METHOD.format(imports=imports)),
    ):  # fmt: skip
        modules.write(name, text)
    kind = import_module("own_m").Last
    before = code_digest(kind), component_spec(kind(4))
    path = modules.folder / edited
    path.write_text(path.read_text() + "\n# 2\n")
    assert (code_digest(kind) != before[0]) == (component_spec(kind(4)) != before[1]) == counts
    assert before[1]["class"] == "own_m.Last"


@pytest.mark.parametrize(
    ("imports", "edited", "counts"),
    [("from . import part", "part.py", True), ("from .part import k", "part.py", True),
     ("from own_p.part import k", "part.py", True), ("from .part import k", "other.py", False),
     ("from .part import k", "__init__.py", True), ("", "__init__.py", True),
     ("", "part.py", False)],
)  # fmt: skip
def test_modules_of_its_package_count_where_they_are_imported(modules, imports, edited, counts):
    modules.write("own_p/part.py", "k = 1\n")
    modules.write("own_p/other.py", "k = 1\n")
    modules.write("own_p/m.py", METHOD.format(imports=imports))
    modules.write("own_p/__init__.py", "from own_p.m import Last\n")
    kind = import_module("own_p").Last
    before = code_digest(kind)
    path = modules.folder / "own_p" / edited
    path.write_text(path.read_text() + "\n# 2\n")
    assert (code_digest(kind) != before) == counts


def test_classes_of_lexp_have_none_and_a_file_beside_an_installed_package_is_not_read():
    assert code_digest(Window) is None and code_digest(ALiBi) is None
    assert "code" not in component_spec(Window(4))
    assert component_spec(Window(4))["class"] == "lexp.pattern.banded.Window"
    assert len(code_digest(Modules)) == 64  # of this file, and of no package that it imports


SCHEME = """
from lexp.position import ALiBi

class Slope(ALiBi):
    def bias(self, x):
        inner = super().bias(x)
        return lambda pair: 1 * inner(pair)
"""


def test_an_edited_scheme_of_a_trained_run_is_refused_by_name(modules, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("LEXP_ALLOW", "own_s")
    path = modules.write("own_s.py", SCHEME)
    own = ("model=alibi", "model.position._target_=own_s.Slope")
    asked = (
        f"outputs={tmp_path}/outputs", "lengths=[8,16]", "attention=[full]", "device=cpu",
        "precision=float32",
    )  # fmt: skip
    train(tiny(*own))
    eval_(compose("eval", *asked))
    (run,) = (Run(p.parent) for p in (tmp_path / "outputs/default").glob("*/config.json"))
    assert list(run.data["code"]) == ["own_s.Slope"]
    results = sorted(run.folder.glob("eval/*.json"))
    path.write_text(SCHEME.replace("1 *", "100 *"))
    with pytest.raises(CheckpointError, match=r"the code of own_s\.Slope is not that of training"):
        train(tiny(*own))
    with pytest.raises(CheckpointError, match=r"the code of own_s\.Slope is not that of training"):
        eval_(compose("eval", *asked))
    (run.folder / "done.json").unlink()
    with pytest.raises(CheckpointError, match=r"own_s\.Slope"):
        train(tiny(*own))
    # A second seed, trained with the edited code, is another variant: never averaged with it.
    train(tiny(*own, "seed=1"))
    runs = [Run(p.parent) for p in sorted((tmp_path / "outputs/default").glob("*/config.json"))]
    assert len({variant(one.made_of) for one in runs}) == len(runs) == 2
    assert sorted(run.folder.glob("eval/*.json")) == results


def test_a_scheme_that_failed_in_its_first_step_can_be_mended(modules, tiny, monkeypatch):
    monkeypatch.setenv("LEXP_ALLOW", "own_f")
    path = modules.write("own_f.py", SCHEME.replace("def bias(self, x):", "def bias(self, x, y):"))
    own = ("model=alibi", "model.position._target_=own_f.Slope")
    with pytest.raises(TypeError, match="bias"):
        train(tiny(*own))
    path.write_text(SCHEME)
    sys.modules.pop("own_f")
    train(tiny(*own))
    (run,) = find_runs(Path(tiny().outputs) / "default")
    assert run.is_done
    # With a checkpoint it is another run; digests are shown by their beginnings.
    path.write_text(SCHEME.replace("1 *", "100 *"))
    (run.folder / "done.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"name= or delete it: .*Slope: \w{8} then, \w{8} now$"
    ):
        train(tiny(*own))


def test_an_edited_method_is_scored_again(modules, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("LEXP_ALLOW", "own_w")
    text = "from lexp.pattern import Window\n\nclass Last(Window):\n    name = 'last'\n"
    path = modules.write("own_w.py", text)
    train(tiny("model=alibi"))
    asked = (
        f"outputs={tmp_path}/outputs", "lengths=[8,16]", "attention=[window]", "device=cpu",
        "attention.window._target_=own_w.Last", "precision=float32",
    )  # fmt: skip
    eval_(compose("eval", *asked))
    eval_(compose("eval", *asked))
    cells = set(tmp_path.glob("outputs/default/*/eval/*.json"))
    path.write_text(text + "    lookback_factor = 2\n")
    eval_(compose("eval", *asked))
    now = set(tmp_path.glob("outputs/default/*/eval/*.json"))
    assert len(cells) == 2 and len(now) == 4
    path.write_text(text)  # the old one again: its cells are there
    eval_(compose("eval", *asked))
    assert set(tmp_path.glob("outputs/default/*/eval/*.json")) == now


PATTERNS = (
    Window, Blockwise, BidirectionalWindow, BidirectionalBlockwise, SelfExtend, ReRoPE, LeakyReRoPE,
    DualChunk, LMInfinite, OwnChunk,
)  # fmt: skip


@pytest.mark.parametrize("kind", PATTERNS, ids=lambda kind: kind.__name__)
def test_a_pattern_with_its_sizes_filled_in_is_of_the_same_class(kind):
    """Or the code of a class derived from it would not run."""
    derived = type("Own", (kind,), {"name": "own"})
    assert type(derived().fit(16, 64)) is derived
