"""The catalogue of `lexp list`, the generated pages and the README's count: those of the code."""

import importlib.util
import re

import pytest

from support import ROOT

GROUPS = ("attention", "extension", "protocol", "probes", "instruments", "study")


def script():
    spec = importlib.util.spec_from_file_location(
        "catalogue_pages", ROOT / "scripts" / "catalogue_pages.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    """Return what the script would write, by path."""
    return {path.relative_to(ROOT).as_posix(): text for path, text in script().pages().items()}


@pytest.mark.parametrize(
    "page",
    [
        "lexp/commands/catalogue.json",
        "docs/schemes.md",
        "docs/methods.md",
        "docs/architecture.md",
        "README.md",
    ],
)
def test_a_generated_file_is_what_its_script_writes(page, written):
    there = (ROOT / page).read_text(encoding="utf-8")
    assert written[page] == there, "run: python scripts/catalogue_pages.py"


def test_every_scheme_and_method_has_a_row(written):
    """Against the files of conf/, which the script reads in other ways."""
    assert rows(written["docs/schemes.md"]) == names("model")
    assert rows(written["docs/methods.md"]) == [name for group in GROUPS for name in names(group)]


def test_the_readme_counts_the_schemes_that_there_are():
    counts = re.findall(r"(\d+) position schemes", (ROOT / "README.md").read_text())
    assert counts == [str(len(names("model")))]


def test_the_architecture_page_has_every_package(written):
    there = {path.parent.name for path in (ROOT / "lexp").glob("*/__init__.py")}
    shown = set(re.findall(r"^\| \d+ \| `(\w+)/` \|", written["docs/architecture.md"], re.M))
    assert shown == there


def test_formulas_belong_to_the_class_and_not_to_its_neighbour_in_the_file():
    from lexp.position import KerpleLog, KerplePower, LogN, SSMax

    module = script()
    assert "log(1 + r2" in module.formula(KerpleLog)[0]
    assert "^r2" in module.formula(KerplePower)[0]
    assert len(module.formula(KerpleLog)) == len(module.formula(KerplePower)) == 1
    assert "2501.19399" in str(module.papers(module.paragraph_about(SSMax)))
    assert not module.papers(module.paragraph_about(LogN))


def test_the_shorter_of_two_lists_is_shown():
    combines = script().combines
    assert combines(["a", "b", "c"], {"a", "b", "c"}) == "all"
    assert combines(["a", "b", "c"], set()) == "none"
    assert combines(["a", "b", "c"], {"b"}) == "b"
    assert combines(["aaaaaaa", "bbbbbbb", "c"], {"aaaaaaa", "bbbbbbb"}) == "all but c"


def rows(page: str) -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", page, re.M)


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
