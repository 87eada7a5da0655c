"""Printed numbers of tasks beside those of a study."""

import json

import pytest

from lexp.commands.report_sections import study_section
from lexp.report.expected import parse_expected
from lexp.report.expected_tasks import Answers, Ranks, answers_table, ranks_table
from lexp.result_store import Component
from lexp.system.errors import ConfigError
from support.task_results import result, study

RANKS = Ranks("a paper", "of other sizes", {"nope": 0.69, "rope": 0.33})


def cells(table) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def of_task(results, name):
    for one in results:
        object.__setattr__(one, "task", Component(name, name, {}))
    return results


def test_schemes_are_ranked_at_each_length_beyond_the_trained_one():
    # Copy at 30, 40 and 50, sort at 40. First: nope, nope, rope; both (2 x 3/4).
    results = study(
        nope={20: (1, 1), 30: (0.9, 0.7), 40: (0.3, 0.1), 50: (0, 0.1)},
        rope={20: (1, 1), 30: (0.7, 0.6), 40: (0.0, 0.2), 50: (0.2, 0)},
    )
    results += of_task(study(nope={20: (1,), 40: (0,)}, rope={20: (1,), 40: (0,)}), "sort")
    table = ranks_table(RANKS, results)
    assert table.heads == ("model", "printed", "ours", "copy", "sort")
    assert cells(table) == {
        "nope": ["0.69", "0.81", "0.83", "0.75"],  # (1 + 1 + 1/2 + 3/4) / 4, (1 + 1 + 1/2) / 3
        "rope": ["0.33", "0.69", "0.67", "0.75"],
    }
    assert "4 comparisons" in table.notes[0] and "6 of 6 runs" in table.notes[0]
    assert table.notes[-1] == "of other sizes"


def test_only_runs_that_learned_count_and_only_tasks_that_every_scheme_learned():
    # NoPE's second seed answers more at 40, and has not learned.
    results = study(nope={20: (1, 0.5), 40: (0.1, 1)}, rope={20: (1, 1), 40: (0.2, 0.2)})
    results += of_task(study(nope={20: (1,), 40: (1,)}, rope={20: (0.9,), 40: (0,)}), "sort")
    table = ranks_table(RANKS, results)
    assert cells(table) == {"nope": ["0.69", "0.50", "0.50"], "rope": ["0.33", "1.00", "1.00"]}
    assert "(4 of 6 runs)" in table.notes[0]
    assert table.notes[1] == "Not counted: sort (not learned by rope)."


def test_a_method_is_no_scheme():
    results = study(nope={20: (1,), 40: (0.1,)}, rope={20: (1,), 40: (0.2,)})
    results += [
        result("nope", 0, 40, 1.0, "blockwise"),
        result("nope", 0, 40, 1.0, "full", "log_n"),
    ]
    assert cells(ranks_table(RANKS, results))["rope"][1] == "1.00"


def test_nothing_learned_is_no_rank():
    results = study(nope={20: (0.2,), 40: (0,)}, rope={20: (0.2,), 40: (0.1,)})
    assert cells(ranks_table(RANKS, results)) == {"nope": ["0.69", ""], "rope": ["0.33", ""]}


def test_exact_match_stands_beside_what_was_printed():
    block = Answers("a paper", "", "copy", 2.5, {"fire": "98", "rope": 12.5, "t5": "-"})
    results = study(fire={20: (1, 1, 1), 50: (0.98, 0, 0.5)}, rope={20: (1, 0.5, 1), 50: (0, 0, 0)})
    table = answers_table(block, results)
    assert "copy at 2.5x" in table.title
    assert cells(table) == {
        "fire": ["98", "50.0", "98.0", "3 of 3"],
        "rope": ["12.5", "0", "0", "2 of 3"],
        "t5": ["-", "", "", ""],
    }


def test_blocks_are_read_from_a_study_file():
    ranks = parse_expected({"source": "p", "ranks": {"nope": 0.69}})
    assert ranks == Ranks("p", "", {"nope": 0.69})
    node = {"source": "p", "exact_match": {"fire": "98"}, "task": "copy", "at": 2.5}
    assert parse_expected(node) == Answers("p", "", "copy", 2.5, {"fire": "98"})
    for wrong, words in (({"at": [2]}, "a number above 0"), ({"exact_match": 3}, "by name")):
        with pytest.raises(ConfigError, match=words):
            parse_expected(node | wrong)
    with pytest.raises(ConfigError, match="by name"):
        parse_expected({"source": "p", "ranks": {"nope": "first"}})


def test_the_section_of_a_study_has_both_tables(tmp_path):
    answers = {"source": "q", "exact_match": {"nope": 50}, "task": "copy", "at": 2}
    stored = {
        "name": "s", "scale": "mini", "claim": "c", "source": "x", "command": "lexp study",
        "deviations": [],
        "expected": [{"source": "p", "ranks": {"nope": 0.6, "rope": 0.4}}, answers],
    }  # fmt: skip
    (tmp_path / "study.json").write_text(json.dumps(stored))
    results = study(nope={20: (1,), 40: (0.1,)}, rope={20: (1,), 40: (0.2,)})
    section = study_section(tmp_path, [], results, [], {})
    ranks, exact = section.items
    assert cells(ranks) == {"nope": ["0.60", "0.50", "0.50"], "rope": ["0.40", "1.00", "1.00"]}
    assert cells(exact) == {"nope": ["50", "10.0", "10.0", "1 of 1"]}
