"""Labels name every value that was given, and files named after them lie where they are looked for.

Values that a label does not show are another method under the same name in every table.
"""

from dataclasses import dataclass, field

import pytest

from lexp.system.text import file_stem, in_ranges, label_of


@dataclass(frozen=True)
class Part:
    """Values with every kind of default."""

    needed: int
    usual: float = 1.5
    listed: list[int] = field(default_factory=list)
    named: dict[str, int] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Part(1), Part(2)),
        (Part(1), Part(1, listed=[2])),
        (Part(1, listed=[2]), Part(1, listed=[3])),
        (Part(1, named={"a": 1}), Part(1, named={"a": 2})),
        (Part(1), Part(1, 1.5 + 2**-50)),
    ],
)
def test_unlike_values_have_unlike_labels(one, other):
    assert label_of("part", one) != label_of("part", other)


def test_only_what_was_given_stands_in_a_label():
    assert label_of("part", Part(1)) == "part-1"


@pytest.mark.parametrize(
    "label", ["a/b", "../up", ".hidden", "/tmp/x", "a\0b\n", "x" * 300, "é" * 200]
)
def test_a_label_becomes_one_visible_file_in_its_folder(label, tmp_path):
    path = tmp_path / f"{file_stem(label)}-{'0' * 8}.json"
    path.write_text("")
    assert list(tmp_path.glob("*.json")) == [path] and not path.name.startswith(".")


@pytest.mark.parametrize(
    "label", ["window-64", "yarn-beta_fast=8", "masked-by-15s2-512", "m-0.5", "a+b"]
)
def test_usual_labels_are_names_of_files_as_they_are(label):
    assert file_stem(label) == label


@pytest.mark.parametrize(
    ("numbers", "text"),
    [((), ""), ((3,), "3"), ((2, 3), "2,3"), ((1, 2, 3, 4), "1-4"), ((1, 3, 4, 5, 7), "1,3-5,7")],
)
def test_numbers_in_a_row_are_a_range(numbers, text):
    assert in_ranges(numbers) == text
