"""docs/config.md has every key there is and no other, with the defaults that hold."""

import importlib.util
import re

import pytest
import yaml
from omegaconf import OmegaConf

from lexp.cli.main import COMMANDS
from support import ROOT
from support.config import compose

PAGE = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"\| \[?`(?P<key>[^`]+)=`(?:\]\(#(?P<group>[^)]+)\))? \| `(?P<default>.*)` \| (.+) \|"
)


def section(title: str) -> str:
    """The text below a heading of the page."""
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    return found


def rows(command: str) -> list[re.Match]:
    lines = [
        line for line in section(f"lexp {command}").splitlines() if line.startswith(("| [`", "| `"))
    ]
    found = [ROW.fullmatch(line) for line in lines]
    assert lines and all(found), lines
    return [row for row in found if row]


def flat(node, prefix: str = ""):
    """Leaves of a config by dotted name, as they are written."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_the_page_is_what_its_script_writes():
    spec = importlib.util.spec_from_file_location("config_page", ROOT / "scripts/config_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == PAGE, "run: python scripts/config_page.py"


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "list"])
def test_every_key_of_a_command_is_there_with_its_default_and_no_other(command):
    """Against the config that Hydra composes, not against the files the page is made from."""
    found = {row["key"]: yaml.safe_load(row["default"]) for row in rows(command)}
    groups = {row["key"] for row in rows(command) if row["group"]}
    composed = OmegaConf.to_container(compose(command), resolve=False)
    expected = dict(flat({key: v for key, v in composed.items() if key not in groups}))
    assert {key: value for key, value in found.items() if key not in groups} == expected
    for group in groups:
        chosen, given = found[group], composed[group]
        if chosen is None:
            assert given in (None, "???"), group
        else:
            # A choice without a name in it has its name as its key, as a list of them does.
            keys = list(given)
            names = keys if isinstance(chosen, list) else given.get("name", keys[0])
            # reading=usual takes the name of the choice that it stands for.
            assert chosen == ("usual" if "${" in str(names) else names), group


def test_every_choice_of_every_group_is_there_and_no_other():
    groups = {
        path.parent.relative_to(ROOT / "conf").as_posix() for path in ROOT.glob("conf/**/*.yaml")
    }
    for group in groups - {"."}:
        there = sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
        named = re.findall(r"^\| `'?\+?[\w/]+=\[?(?:glue/)?(\w+)\]?'?` \|", section(group), re.M)
        assert named == there, group


GROUP_KEY = re.compile(r"`([a-z][\w.]*)=([^`]+)`")  # `01101=` is a problem of a task
COMMAND_OF = {"attention": "eval", "extension": "eval", "protocol": "eval", "probes": "probe",
              "instruments": "analyze"}  # fmt: skip


@pytest.mark.parametrize("group", ["model", "size", "tokenizer", "dataset", "debug", *COMMAND_OF])
def test_the_keys_of_a_choice_can_be_typed_as_they_stand_there(group):
    """Each as an override; a key that the choice does not have is refused by Hydra."""
    for line in section(group).splitlines():
        choice = re.match(r"\| `'?(\+?\w+=\[?\w+\]?)'?` \|", line)
        if choice:
            given = [f"{k}={v}" for k, v in GROUP_KEY.findall(line.split(" | ")[-1]) if v != "???"]
            given = [re.sub(r"=(.*\[.*)", r"='\1'", one) for one in given]
            compose(COMMAND_OF.get(group, "train"), choice[1], *given)
