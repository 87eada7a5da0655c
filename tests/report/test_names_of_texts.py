"""Tables that hold several texts name each by what was typed, not by its fingerprint alone."""

import pytest

from lexp.commands.load_runs import source_of
from lexp.config.schema import plain
from lexp.config.settings import Node
from lexp.evaluate import text_names
from support.config import TINY, compose
from support.forked import lexp, words_for
from support.studies import run_info


@pytest.mark.parametrize(
    ("values", "source"),
    [
        ({"name": "text", "test": "books/*.txt"}, "books/*.txt"),
        ({"name": "text", "test": ["a/*.txt", "b/*.txt"]}, "a/*.txt, b/*.txt"),
        ({"name": "hub", "path": "org/set", "test": "test"}, "org/set"),
        ({"name": "stdlib"}, ""),
        ({"name": "text", "test": None}, ""),
    ],
)
def test_a_text_is_named_by_what_was_typed(values, source):
    assert source_of(Node(values)) == source


def test_one_text_has_one_name_however_its_globs_are_spelt():
    settings = plain(compose("train", *TINY))
    first = run_info("a", settings, text="0" * 8, source="a/*.txt")
    again = run_info("b", settings, text="0" * 8, source="./a/*.txt")
    other = run_info("c", settings, text="1" * 8, source="b/*.txt")
    assert text_names([first, again, other]) == {
        "0" * 8: "books a/*.txt (00000000)", "1" * 8: "books b/*.txt (11111111)",
    }  # fmt: skip
    assert text_names([run_info("d", settings)]) == {"aaaaaaaa": "books aaaaaaaa"}


def test_a_report_of_two_texts_names_their_globs(texts, tmp_path):
    assert lexp("train", *words_for(texts), cwd=tmp_path).code == 0
    same = ["eval", "lengths=[8,16]", "attention=[full]"]
    assert lexp(*same, cwd=tmp_path).code == 0
    other = [f"dataset.{split}={texts}/{split}/*.txt" for split in ("train", "test")]
    other[1] = f"dataset.test={texts}/test/[01].txt"
    ended = lexp(*same, "dataset=text", *other, cwd=tmp_path)
    assert ended.code == 0, ended.said
    ended = lexp("report", cwd=tmp_path)
    assert ended.code == 0, ended.said
    page = (tmp_path / "outputs/default/report/report.html").read_text(encoding="utf-8")
    assert f"text {texts}/test/*.txt (" in page and f"text {texts}/test/[01].txt (" in page
