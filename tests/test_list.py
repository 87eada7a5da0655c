"""`lexp list`: the whole grid, and all about one choice."""

import pytest
from test_cli import lexp
from test_config import choices


def test_list_names_every_scheme_and_method_and_what_combines(tmp_path):
    result = lexp("list", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    for group in ("model", "attention", "extension"):
        for name in choices(group):
            assert any(name in line.split()[:2] for line in lines), name
    start = next(n for n, line in enumerate(lines) if line.startswith("what combines"))
    legend = next(n for n, line in enumerate(lines) if line.startswith("x: defined"))
    grid = {line.split()[0]: line.split()[1:] for line in lines[start + 2 : legend]}
    assert set(grid) == set(choices("model"))
    methods = sorted(choices("attention")) + sorted(choices("extension"))
    assert {len(marks) for marks in grid.values()} == {len(methods)}

    def defined(scheme, method):
        return grid[scheme][methods.index(method)] == "x"

    assert defined("rope", "yarn") and not defined("alibi", "yarn")
    assert defined("alibi", "blockwise") and not defined("learned", "blockwise")
    assert defined("learned", "pi") and not defined("nope", "self_extend")
    assert defined("tisa", "bidirectional") and not defined("fox", "bidirectional")
    assert all(defined("rope", m) for m in choices("attention"))


def test_list_of_one_gives_source_values_and_reasons(tmp_path):
    result = lexp("list", "kerple_log", "yarn", cwd=tmp_path)
    assert "arXiv 2205.09921" in result.stdout and "r1 log(1 + r2 |i - j|)" in result.stdout
    assert "_target_: lexp.extension.YaRN" in result.stdout
    assert "yarn changes rotary frequencies, ALiBi has none" in result.stdout


@pytest.mark.parametrize("word", ["alib", "--nothing"])
def test_unknown_names_are_a_line(word, tmp_path):
    result = lexp("list", word, cwd=tmp_path)
    if word.startswith("-"):
        assert result.returncode == 0 and "lexp list [NAME ...]" in result.stdout
    else:
        assert result.returncode == 2 and "nothing is called 'alib'; there are" in result.stderr
