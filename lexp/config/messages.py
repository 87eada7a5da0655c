"""Errors of Hydra and OmegaConf as one line that a user can act on."""

import difflib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from lexp.config.comments import takes_list
from lexp.config.sweep import OF_ONE_STUDY
from lexp.system.files import config_folder

# What libraries say of a value, and what was expected instead.
EXPECTED = {
    r"is not a ListConfig|with ListConfig|to List": "expected a list; write {key}=[{value}]",
    r"is not a DictConfig|not a subclass of|to Dict|with DictConfig": (
        "expected values by name, such as {key}.NAME=VALUE"
    ),
    r"is not Optional": "null is not allowed",
    r"converted to Integer": "expected a whole number",
    r"converted to Float": "expected a number",
    r"valid bool": "expected true or false",
    r"to string": "expected text",
}


# What Hydra says of an unknown choice.
UNKNOWN_CHOICE = (
    r"Could not find '((?:hydra/)?\w+)/([^']*)', Available options in '(?:hydra/)?\w+': (.*)"
)
# What Hydra says of overrides with + and ~ and of choices, and what lexp says instead.
SAID = {
    r"already at '.*remove \+ prefix: '([^']*)'": "+{0}: there is a value already; write {0}",
    r"not delete from config. '([^']*)' does not exist": "~{0}: there is no such key; leave it out",
    r"not delete from config. The value of '([^']*)' is (.*) and not (.*)\.$": (
        "~{0}={2}: the value is {1}; write ~{0}"
    ),
    r"Could not delete '([^']*)'. No match": (
        "~{0}: it cannot be left out; choose another by {0}=NAME"
    ),
    r"override a value use 'override (\w+): ([^']*)'": (
        "+{0}={1}: one is chosen already; write {0}={1}"
    ),
    r"force-add of config groups is not supported: '\+\+([^']*)'": "++{0}: write {0}",
    r"Override (\S+) looks like a config group override, but config group '(\w+)'": (
        "{0}: {1} is no group of configs here; write {1}=VALUE"
    ),
    r"Could not override '([^']*)'\.": "no key {0!r}",
}


# A value that is another key's unless it is given, where that other key is null.
NULL_TAKEN = (
    r"While dereferencing interpolation '\$\{oc\.select:([\w.]+),.*Incompatible value 'None'"
)


def said_of_override(text: str) -> str:
    """Return what lexp says where Hydra refuses an override; "" for any other text."""
    if found := re.search(UNKNOWN_CHOICE, text):
        group, given, there = found.groups()
        if folder := _folder_with(group, given):
            return f"no {group} {given!r}; {folder}/{group} has one: add --config-dir {folder}"
        near = difflib.get_close_matches(given.lower(), there.split(", "), n=3)
        if near:
            return f"no {group} {given!r}; did you mean {' or '.join(near)}? --help shows all"
        return f"no {group} {given!r}; there are {there}"
    for pattern, words in SAID.items():
        if found := re.search(pattern, text):
            return words.format(*found.groups())
    return ""


def _folder_with(group: str, given: str) -> str:
    """Return a folder here whose configs have a choice, which --config-dir would add; or ""."""
    is_name = re.fullmatch(r"[\w.-]+", given)
    paths = sorted(Path().glob(f"*/{group}/{given}.yaml")) if is_name else []
    return paths[0].parents[group.count("/") + 1].as_posix() if paths else ""


def missing(key: str) -> str:
    """Return what lexp says of a key without a value."""
    if (config_folder() / key).is_dir():
        return f"{key}= is missing; there are {options(key)}"
    return f"{key}= is missing; write {key}=VALUE"


def in_words(text: str, override: str = "") -> str:
    """Return a message of OmegaConf without names of its classes. override: KEY=VALUE, if typed."""
    if said := said_of_override(text):
        return said
    body, _, full_key = text.partition(", full_key: ")
    if body.startswith("Missing mandatory value"):
        return missing(full_key)
    if found := re.match(NULL_TAKEN, body):
        taken = f"{full_key} is taken from it; give it a value, or write {full_key}=VALUE"
        return f"{found[1]}=null: {taken}"
    key, _, value = override.partition("=")
    for pattern, expected in EXPECTED.items():
        if re.search(pattern, body):
            told = expected.format(key=key or full_key, value=value or "VALUE")
            given = re.search(r"Value '(.{,80}).*' (of type|is not)", body)
            place = override or (f"{full_key}={given[1]}" if given else full_key)
            return f"{place}: {told}" if place else told
    body = re.sub(r"\w+(Error|Exception) raised while composing config: ", "", body)
    body = re.sub(r"(Key '[^']*') (is )?not in '?\w+'?", r"\1 does not exist", body)
    body = body.replace("DictConfig", "mapping").replace("ListConfig", "list")
    if override:
        return f"{override}: {body}"
    return f"{full_key}: {body}" if full_key else body


def one_line(error: BaseException) -> str:
    """Return an exception of a library as one line: the value, what is allowed, no search paths."""
    text, cause = _joined(error), error.__cause__
    if cause is not None and not text:
        return one_line(cause)
    if cause is not None and text.startswith("Error merging override "):
        override = str(error).strip().splitlines()[0].removeprefix("Error merging override ")
        return in_words(_joined(cause), override)
    return in_words(text) or "this config cannot be composed"


def _joined(error: BaseException) -> str:
    """Return the lines of a message that say something to a user, as one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept: list[str] = []
    for line in lines:
        if line.startswith(("Config search path", "To append", "Set the environment", "See https")):
            break
        if not line.startswith(("object_type", "reference_type")):
            kept.append(line)
    # "Available options in 'model':" is followed by one option a line.
    text = ""
    for line in kept:
        text += line if not text else (" " if text.endswith(":") else ", ") + line
    return text


def explained(error: BaseException) -> str:
    """Return `one_line` of an error; for a choice that does not exist, the choices there are."""
    choice = re.search(r"Could not load '((?:hydra/)?\w+)/([^']+)'", str(error))
    # Hydra does not name the choices in folders of a group, such as task=glue/rte.
    choice = choice or re.search(r"Could not find '(task)/([^']+)'", str(error))
    if choice:
        return f"no {choice[1]} {choice[2]!r}; there are {options(choice[1])}"
    if missing := re.search(r"You must specify '(\w+)'", str(error)):
        return f"no {missing[1]} given; there are {options(missing[1])}"
    return one_line(error)


def several_values(error: BaseException) -> str:
    """Return the override with several values that Hydra refuses without -m; "" if it is none."""
    found = re.match(r"(Ambiguous value for argument|Sweep parameters) '(.*)'", str(error))
    return found[2] if found else ""


def list_or_sweep(override: str, word: str, arguments: Sequence[str]) -> str:
    """Return what to type instead of an override with several values: a list, or a sweep.

    arguments: all that stood after the command's word.
    """
    key, _, value = override.partition("=")
    if takes_list(key.lstrip("+"), word, config_folder()) and "," in value and "(" not in value:
        quoted = shlex.quote(f"{key}=[{value}]")
        return f"{override}: several values are a list; write {quoted}"
    if word in OF_ONE_STUDY:
        return f"{override}: several values; lexp {word} takes one, repeat the command for each"
    command = shlex.join(["lexp", word, "-m", *arguments])
    return f"{override}: several values are a sweep; add -m: {command}"


def options(group: str) -> str:
    """Return every choice of a group that lexp has."""
    folder = config_folder() / group
    paths = [path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml")]
    return ", ".join(sorted(path.as_posix() for path in paths))
