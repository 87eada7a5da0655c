"""An error in a module of the user's own: one line, and the frames of that module only."""

import re
import sys

import pytest

from lexp.system.user_code import UserCodeError, in_user_code
from support.forked import lexp, words_for

BROKEN = {
    "syntax": ("class Mine(:\n    pass\n", "SyntaxError in .*mine.py, line 1: invalid syntax"),
    "import": ("x = 1 / 0\n", "ZeroDivisionError in .*mine.py, line 1: division by zero"),
    "name": ("class Mine(Position):\n    x = 1\n", "NameError in .*mine.py, line 1: name 'Pos"),
    "constructor": (
        "from lexp.position import Position\nclass Mine(Position):\n    def __init__(self):\n"
        "        super().__init__()\n        {}['width']\n",
        "KeyError in .*mine.py, line 5: 'width'",
    ),
    "training": (
        "from lexp.position import Position\nclass Mine(Position):\n"
        "    def bias(self, x):\n        return undefined\n", "NameError in .*mine.py, line 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_the_users_own_frames_and_one_line(case, texts, tmp_path):
    source, message = BROKEN[case]
    (tmp_path / "mine.py").write_text(source)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    node = "name: mine\nposition: {_target_: mine.Mine}\n"
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(node)
    words = ["train", *words_for(texts), "--config-dir", "conf", "model=mine"]
    setup = lambda: sys.path.insert(0, str(tmp_path))  # noqa: E731
    ended = lexp(*words, cwd=tmp_path, setup=setup, LEXP_ALLOW="mine")
    assert ended.code == 2, ended.said
    said = ended.said.splitlines()
    start = next(n for n, line in enumerate(said) if line.startswith('  File "'))
    files = [line for line in said[start:] if line.startswith('  File "')]
    assert files and all("mine.py" in line for line in files), ended.said
    assert re.match(f"lexp: {message}", said[-1]), said[-1]
    assert "Traceback" not in ended.said and "site-packages" not in ended.said


def test_an_error_elsewhere_keeps_its_traceback(monkeypatch):
    monkeypatch.setenv("LEXP_ALLOW", "mine,user")
    try:
        raise KeyError("x")
    except KeyError as error:
        assert in_user_code(error) is None
    names = {"__name__": "user.part"}
    exec(compile("def f(): raise KeyError('x')", "user/part.py", "exec"), names)
    with pytest.raises(KeyError) as caught:
        names["f"]()
    found = in_user_code(caught.value)
    assert isinstance(found, UserCodeError) and found.exit_code == 2
    assert str(found) == "KeyError in user/part.py, line 1: 'x'"
    monkeypatch.setenv("LEXP_ALLOW", "use")
    assert in_user_code(caught.value) is None
