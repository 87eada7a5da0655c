"""Overrides as they are typed: paths taken literally, and words for what Hydra cannot read.

Hydra's grammar gives a meaning to brackets, braces, quotes, `=`, `#`, `~` and more. Globs and names
of files have such characters too, so a value of a key that takes paths is quoted where it cannot be
read otherwise. Of every other value the character is named, and what to write.
"""

import re
import shlex
import unicodedata
from itertools import pairwise

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from lexp.cli.flags import parse_flags
from lexp.system.errors import ConfigError

KEY = re.compile(r"(\+{1,2}|~)?[A-Za-z_$][\w$-]*([./@:][\w$-]+)*")
# Keys whose values are files, folders or globs, also as values for all stages of a study.
PATHS = re.compile(
    r"\+{0,2}((train|eval|probe|analyze|report)\.)?"
    r"(outputs|path|init_from|run|to|task_folder|prompt_file|"
    r"(dataset|task)\.(train|validation|test|path)|tokenizer\.path)"
)
LONGEST_KEY = 200
CLOSING = {"[": "]", "{": "}", "(": ")"}
TYPOGRAPHIC = "“”„‟«»‘’‚‛′″´"  # noqa: RUF001
QUOTES = TYPOGRAPHIC + "'\""
PLAIN = re.compile(r"[\w.$%*@?|/:,+\\ \t-]", re.ASCII)


def readable(arguments: list[str]) -> list[str]:
    """Return a command line, overrides first, with paths quoted where Hydra could not read them.

    ConfigError says of any other override that cannot be read which character it is.
    """
    parsed, rest = parse_flags(arguments)
    n_overrides = len(parsed.overrides) + len(rest)
    words = [readable_word(word, parsed.multirun) for word in arguments[:n_overrides]]
    return [*words, *arguments[n_overrides:]]


def split_prompt(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Return the text of `prompt=TEXT`, None without one, and the other words.

    Any text is taken as it is typed: Hydra would read `Hello, world` as a sweep, `${x}` as a key.
    """
    typed = [word for word in arguments if word.startswith("prompt=")]
    rest = [word for word in arguments if not word.startswith("prompt=")]
    return (typed[-1].partition("=")[2] if typed else None), rest


def readable_word(word: str, sweep: bool = False) -> str:
    """Return one override as `readable` does. sweep: whether commas separate jobs."""
    name, _, value = word.partition("=")
    if len(name) > LONGEST_KEY:  # Hydra looks for a file of that name
        raise ConfigError(f"{name[:20]}...: no key has {len(name)} characters")
    if _reads(word):
        return word
    if not PATHS.fullmatch(name) or _is_mistyped(value):
        raise ConfigError(f"cannot read {word!r}: {why(word)}")
    if _is_list(value):
        items = [_literal(item.strip()) for item in _split(value[1:-1])]
        return f"{name}=[{','.join(items)}]"
    return f"{name}={','.join(map(_literal, _split(value) if sweep else [value]))}"


def why(word: str) -> str:
    """Return why Hydra cannot read an override, and what to write instead."""
    name, equals, value = word.partition("=")
    if strange := next((c for c in word if not c.isprintable() and c not in "\t"), ""):
        return _control(word, strange)
    if quote := next((c for c in word if c in TYPOGRAPHIC), ""):
        return f"{quote} is a typographic quote; type the plain one: {name}='...'"
    if not equals:
        return f"it has no '='; write KEY=VALUE, without spaces around '='{_or_flag(word)}"
    if not name:
        return "there is no key before '='; write KEY=VALUE, without spaces around '='"
    if not KEY.fullmatch(name):
        return f"{name!r} is no key; write one such as train_len or dataset.path, then '='"
    if value[:1] in ("'", '"'):
        inner = quoted(name, value.strip(QUOTES))
        return f"the quote {value[0]} is not closed, or text follows it; write {inner}"
    problem = _brackets(value)
    if problem == "[ is not closed" and value.startswith("["):  # a shell parts words at blanks
        return f"{problem}; write a list with commas and without blanks: {name}=[A,B]"
    if problem:
        return f"{problem}; write {quoted(name, value)} if it belongs to the text"
    if value.endswith(","):
        return f"there is a comma at its end; write {name}={value.rstrip(', ')}"
    if value.startswith(",") or ",," in value.replace(" ", ""):
        return "there is nothing between two commas; remove one"
    special = next((c for c in value if not PLAIN.fullmatch(c) and c not in "[]{}"), "")
    special = special or next((c for c in value if c in "[{"), "")
    what = f"{special!r} has to be in quotes" if special else "it has to be in quotes"
    return f"{what}; write {quoted(name, value)}"


def quoted(name: str, value: str) -> str:
    """Return an override whose value is the text itself, as it is typed in a shell."""
    if _is_list(value):
        word = f"{name}=[{','.join(_literal(item.strip()) for item in _split(value[1:-1]))}]"
    else:
        word = f"{name}={_quote(value)}"
    if "!" in word:  # which a shell finds in double quotes too
        return shlex.quote(word)
    escaped = re.sub(r'(["$`\\])', r"\\\1", word)
    return f'"{escaped}"'


def _quote(text: str) -> str:
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def _reads(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return bool(word.partition("=")[0])


def _literal(value: str) -> str:
    """Return a path in Hydra's grammar: as it is where it can be read, else in quotes."""
    return value if _reads(f"x={value}") and "," not in value else _quote(value)


def _is_mistyped(value: str) -> bool:
    """Return True for a value that is no path, but a slip of the keyboard."""
    has_control = any(unicodedata.category(c) == "Cc" for c in value)
    at_ends = value[:1] in QUOTES or value[-1:] in (*QUOTES, ",")
    return has_control or at_ends or bool(_brackets(value))


def _is_list(value: str) -> bool:
    """Return True if the first bracket of a value is closed by its last character."""
    if not (value.startswith("[") and value.endswith("]")):
        return False
    depth = 0
    for n, c in enumerate(value):
        depth += (c == "[") - (c == "]")
        if depth == 0 and n < len(value) - 1:
            return False
    return depth == 0


def _split(value: str) -> list[str]:
    """Split at the commas outside of brackets and braces; not at all where these do not match."""
    cuts, opened = [-1], []
    for n, c in enumerate(value):
        if c in CLOSING:
            opened.append(CLOSING[c])
        elif opened and c == opened[-1]:
            opened.pop()
        elif c == "," and not opened:
            cuts.append(n)
    cuts.append(len(value))
    return [value] if opened else [value[a + 1 : b] for a, b in pairwise(cuts)]


def _brackets(value: str) -> str:
    """Return which bracket is not closed, or was not opened; "" if all match."""
    opened: list[str] = []
    for c in value:
        if c in CLOSING:
            opened.append(c)
        elif c in CLOSING.values() and (not opened or CLOSING[opened.pop()] != c):
            return f"{c} closes nothing"
    return f"{opened[-1]} is not closed" if opened else ""


def _control(word: str, c: str) -> str:
    if c == "\r" and word.rstrip("\r\n") == word.replace("\r", ""):
        return "there is a carriage return at its end (Windows line ends); remove it: tr -d '\\r'"
    called = unicodedata.name(c, "a control character").lower()
    return f"it contains {called} (U+{ord(c):04X}), which is not seen; remove it"


def _or_flag(word: str) -> str:
    return f"; a flag is -{word[1:]}" if word[:1] in "–—" else ""  # noqa: RUF001
