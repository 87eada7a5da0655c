"""Algorithmic tasks solved from the text of the problem alone, by slow and plain means.

Each function takes a problem as it is printed and returns its answer and its length; it imports no
`lexp` and shares no step with the generator.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

Solve = Callable[[str], tuple[str, int | tuple[int, ...]]]


def copy(prompt: str, times: int = 1) -> tuple[str, int]:
    """Write the word again, each time letter by letter."""
    (word,) = re.fullmatch(r"([a-z]+)=", prompt).groups()
    answer = ""
    for time in range(times):
        if time > 0:
            answer += ","
        for letter in word:
            answer += letter
    return answer, len(word)


def one_letter(prompt: str) -> tuple[str, int]:
    """Copy a word whose letters are all the same."""
    letter, rest = re.fullmatch(r"([a-z])(\1*)=", prompt).groups()
    return letter * (1 + len(rest)), 1 + len(rest)


def reverse(prompt: str, then_copy: bool = False) -> tuple[str, int]:
    """Put each letter before those that were read."""
    (word,) = re.fullmatch(r"([a-z]+)=", prompt).groups()
    answer = ""
    for letter in word:
        answer = letter + answer
    return answer + ("," + word if then_copy else ""), len(word)


def sort_symbols(prompt: str) -> tuple[str, int]:
    """Sort by counting."""
    (word,) = re.fullmatch(r"([a-z0-9]+)=", prompt).groups()
    counts = Counter(word)
    return "".join(chr(code) * counts[chr(code)] for code in range(128)), len(word)


def sort_numbers(prompt: str) -> tuple[str, int]:
    """Sort by taking the least number out, again and again."""
    assert re.fullmatch(r"\d+(,\d+)*=", prompt)
    left = [int(text) for text in re.findall(r"\d+", prompt)]
    n, answer = len(left), []
    while left:
        least = min(left)
        left.remove(least)
        answer.append(f"{least}")
    return ",".join(answer), n


def _operands(prompt: str, sign: str, backwards: bool) -> list[str]:
    """Return the numbers of a problem, first digit first."""
    assert re.fullmatch(rf"\d+(\{sign}\d+)+=", prompt), prompt
    texts = re.findall(r"\d+", prompt)
    return [text[::-1] for text in texts] if backwards else texts


def _by_columns(texts: list[str]) -> str:
    """Add numbers as on paper, from the last column, carrying."""
    width = max(map(len, texts))
    columns = list(zip(*(text.rjust(width, "0") for text in texts), strict=True))
    carry, digits = 0, ""
    for column in reversed(columns):
        total = carry + sum(ord(digit) - ord("0") for digit in column)
        digits = str(total % 10) + digits
        carry = total // 10
    digits = f"{carry or ''}{digits}"
    return digits.lstrip("0") or "0"


def addition(prompt: str, backwards: bool = False, width: Callable | None = None):
    """Add; width: the digits of the answer for the operands' number and width, if it is padded."""
    texts = _operands(prompt, "+", backwards)
    answer = _by_columns(texts)
    if width is None:
        assert all(text == "0" or text[0] != "0" for text in texts)
    else:
        assert len(set(map(len, texts))) == 1
        answer = answer.rjust(width(len(texts), len(texts[0])), "0")
        assert any(len(text) == 1 or text[0] != "0" for text in texts)
    return answer[::-1] if backwards else answer, tuple(map(len, texts))


def hinted_addition(prompt: str, backwards: bool = False, hints: str = "", padded: bool = False):
    """Add numbers with hints; hints: all that there are, in order."""
    assert prompt[-1] == "="
    place_of: dict[str, int] = {}
    texts = []
    for number in re.findall(r"(?:[^0-9+=][0-9])+", prompt):
        marks, digits = number[0::2], number[1::2]
        assert marks in hints  # they follow each other
        places = range(len(digits)) if backwards else range(len(digits) - 1, -1, -1)
        for mark, place in zip(marks, places, strict=True):
            assert place_of.setdefault(mark, place) == place
        texts.append(digits[::-1] if backwards else digits)
    assert len(texts) == 2
    # A hint for each place up to the one that only a carry reaches.
    longest = max(map(len, texts))
    one = next(mark for mark, place in place_of.items() if place == 0)
    step = 1 if backwards else -1
    order = [hints[hints.index(one) + step * place] for place in range(longest + 1)]
    answer = _by_columns(texts)
    if padded:
        answer = answer.rjust(longest + 1, "0")
    pairs = [order[place] + digit for place, digit in enumerate(reversed(answer))]
    lengths = tuple(map(len, texts))
    return "".join(pairs if backwards else reversed(pairs)), lengths


def multiplication(
    prompt: str, backwards: bool = False, padded: bool = False, modulus: int | None = None
) -> tuple[str, tuple[int, ...]]:
    """Multiply by adding the first number up, digit by digit of the second."""
    first, second = _operands(prompt, "*", backwards)
    total = 0
    for digit in second:
        total *= 10
        for _ in range(int(digit)):
            total += int(first)
    if modulus is not None:
        total -= total // modulus * modulus
    answer = f"{total}"
    if padded:
        assert len(first) == len(second)
        answer = answer.rjust(2 * len(first), "0")
    return answer[::-1] if backwards else answer, (len(first), len(second))


def modular_addition(prompt: str, modulus: int, backwards: bool = False):
    """Take the modulus off the sum as often as it goes, digit by digit."""
    texts = _operands(prompt, "+", backwards)
    rest = 0
    for digit in _by_columns(texts):
        rest = rest * 10 + int(digit)
        while rest >= modulus:
            rest -= modulus
    answer = f"{rest}"
    return answer[::-1] if backwards else answer, tuple(map(len, texts))


def sum_mod10(prompt: str) -> tuple[str, int]:
    """Go round a dial of ten digits."""
    assert re.fullmatch(r"[1-9](\+[1-9])*=", prompt)
    digits, dial = re.findall(r"\d", prompt), "0123456789"
    for digit in digits:
        dial = dial[int(digit) :] + dial[: int(digit)]
    return dial[0], len(digits)


def parity(prompt: str) -> tuple[str, int]:
    """Strike out ones in pairs."""
    (bits,) = re.fullmatch(r"([01]+)=", prompt).groups()
    return ("1" if bits.replace("0", "").replace("11", "") else "0"), len(bits)


def parities(prompt: str) -> tuple[str, int]:
    """Take the parity of each beginning."""
    bits = prompt[:-1]
    answer = "".join(parity(bits[: n + 1] + "=")[0] for n in range(len(bits)))
    return answer, len(bits)


def sum_mod10_steps(prompt: str, parts: str) -> tuple[str, int]:
    """Write Kazemnejad et al.'s steps from the prompt: what was read and what is left of it."""
    answer, n = sum_mod10(prompt)
    lines, left = [], prompt.removesuffix("=")
    before = "0"
    while left:
        digit, _, left = left.partition("+")
        both = f"{int(digit) + int(before):d}".rjust(2, "0")
        line = {"i": f">{digit}", "c": f":{digit}+{before}", "o": f";{both}", "v": f"[{both[1]}]"}
        lines.append("".join({**line, "r": f"~{left}"}[part] for part in parts))
        before = both[1]
    assert before == answer
    return "#".join(lines) + "|" + answer, n


def polynomial(prompt: str) -> tuple[str, int]:
    """Evaluate with Python's own arithmetic."""
    x, terms = re.fullmatch(r"x=(-?[0-2]):((?:[+-]?[0-3]x[0-3])+)=", prompt).groups()
    n_terms = terms.count("x")
    assert len(re.findall("[+-]", terms[1:])) == n_terms - 1 and terms[0] != "+"
    value = eval(re.sub(r"(\d)x(\d)", rf"\1*({x})**\2", terms))
    return str(value % 10), n_terms


def polynomial_steps(prompt: str, parts: str) -> tuple[str, int]:
    """Write Kazemnejad et al.'s steps from the prompt, the sum of each beginning anew."""
    answer, n = polynomial(prompt)
    x, terms = re.fullmatch(r"x=(-?\d):(.*)=", prompt).groups()
    terms = terms if terms[0] == "-" else "+" + terms

    def signed(number: int, digits: int) -> str:
        return ("-" if number < 0 else "+") + str(abs(number)).rjust(digits, "0")

    lines = []
    for at in range(0, len(terms), 4):
        term, power = terms[at : at + 4], 1
        for _ in range(int(term[3])):
            power *= int(x)
        so_far = polynomial(f"x={x}:{terms[: at + 4].removeprefix('+')}=")[0]
        line = {"i": f">{term}", "c": f":{term[:2]}*{signed(power, 1)}"}
        line |= {"o": f";{signed(int(term[:2]) * power, 2)}", "v": f"[{so_far}]"}
        lines.append("".join({**line, "r": f"~{terms[at + 4 :]}"}[part] for part in parts))
    return "#".join(lines) + "|" + answer, n


def parity_steps(prompt: str, parts: str) -> tuple[str, int]:
    """Write Kazemnejad et al.'s steps from the prompt, the parity of each beginning anew."""
    bits = prompt.removesuffix("=")
    lines = []
    for n in range(len(bits)):
        before = parity(f"{bits[:n]}=")[0] if n else "0"
        now = parity(f"{bits[: n + 1]}=")[0]
        line = {"i": f">{bits[n]}", "c": f":{bits[n]}^{before}", "o": f";{now}", "v": f"[{now}]"}
        lines.append("".join({**line, "r": f"~{bits[n + 1 :]}"}[part] for part in parts))
    return "#".join(lines) + "|" + parity(prompt)[0], len(bits)


def addition_steps(prompt: str, parts: str) -> tuple[str, tuple[int, ...]]:
    """Write Kazemnejad et al.'s steps from the prompt, a column at a time by division."""
    answer, lengths = addition(prompt)
    a, b = (int(text) for text in re.findall(r"\d+", prompt))
    lines = []
    for column in range(len(answer)):
        unit = 10**column
        x, y = a // unit % 10, b // unit % 10
        carry = (a % unit + b % unit) // unit
        total = x + y + carry
        line = {"i": f">{x},{y}", "c": f":{x}+{y}+{carry},{x + y:02d}+{carry},{total:02d}"}
        line |= {"o": f";{answer[-1 - column]}", "v": f"[{total // 10}]", "r": "~+"}
        if column + 1 < max(lengths):  # what is left has digits
            line["r"] = f"~{a // unit // 10}+{b // unit // 10}"
        lines.append("".join(line[part] for part in parts))
    return "#".join(lines) + "|" + answer, lengths


def sort_steps(prompt: str, parts: str, comma: str) -> tuple[str, int]:
    """Write Kazemnejad et al.'s steps from the prompt: exchange the first with the least."""
    answer, n = sort_numbers(prompt) if comma else sort_symbols(prompt)
    whole = prompt.removesuffix("=")
    items = whole.split(comma) if comma else list(whole)
    lines = []
    for at, wanted in enumerate(answer.split(comma) if comma else answer):
        first = items[at]
        where = items.index(wanted, at)
        items[at], items[where] = wanted, first
        line = {"i": f">{first}", "c": ":min", "o": f";{wanted}"}
        line["r"] = "~" + comma.join(items[at + 1 :])
        lines.append("".join(line[part] for part in parts))
    return "#".join(lines) + "|" + answer, n


def lego(prompt: str) -> tuple[str, int]:
    """Put in what is known until all variables are; the length is the number of variables."""
    clauses = prompt[:-1].split(";")
    asked = clauses.pop()
    known = {"1": 1}
    waiting = [re.fullmatch(r"([a-zA-Z])=([+-])([a-zA-Z1])", clause).groups() for clause in clauses]
    names = [name for name, _, _ in waiting]
    assert len(set(names)) == len(names) and sum(value == "1" for _, _, value in waiting) == 1
    places = []
    while waiting:
        (ready,) = (clause for clause in waiting if clause[2] in known)
        name, sign, value = ready
        known[name] = known[value] * (1 if sign == "+" else -1)
        places.append(name)
        waiting.remove(ready)
    half = len(names) / 2
    assert places.index(asked) >= half, "a variable of the first half"
    return f"{known[asked]:+}", len(names)


def lego_steps(prompt: str, parts: str) -> tuple[str, int]:
    """Write Kazemnejad et al.'s steps from the prompt, each value an answer of its own."""
    answer, n = lego(prompt)
    *clauses, asked = prompt.removesuffix("=").split(";")
    chain = [next(clause for clause in clauses if clause[0] == asked)]
    while chain[0][-1] != "1":
        chain.insert(0, next(clause for clause in clauses if clause[0] == chain[0][-1]))
    lines, value = [], 0
    for n_done, clause in enumerate(chain):
        name, sign, before = clause[0], clause[2], clause[3]
        line = {"i": f">{name}", "c": ":"}
        if n_done:
            line["c"] = f":{sign}{before},{sign}{value:+d}"
        value = int(f"{sign}1") * (value if n_done else 1)
        left = [text.replace("=", "") for text in clauses if text not in chain[: n_done + 1]]
        line |= {"o": f";{value:+d}", "r": "~" + ",".join(left)}
        lines.append("".join(line[part] for part in parts))
    return "#".join(lines) + "|" + answer, n


def path_star(prompt: str, arms: int) -> tuple[str, int]:
    """Walk from the leaf back to the start."""
    edges, start, leaf = re.fullmatch(r"((?:\w\w,)*\w\w)/(\w)(\w)=", prompt).groups()
    came_from = {edge[1]: edge[0] for edge in edges.split(",")}
    assert len(came_from) == len(edges.split(",")) and start not in came_from
    path = leaf
    while path[0] != start:
        path = came_from[path[0]] + path
    outgoing = Counter(came_from.values())
    assert outgoing.pop(start) == arms and set(outgoing.values()) <= {1}
    assert leaf not in outgoing and len(came_from) == arms * (len(path) - 1)
    return path, len(path)


def even_pairs(prompt: str) -> tuple[str, int]:
    """Compare the ends: as many changes as make them differ or not."""
    (bits,) = re.fullmatch(r"([01]+)=", prompt).groups()
    return str(int(bits[0] != bits[-1])), len(bits)


def modular_arithmetic(prompt: str) -> tuple[str, int]:
    """Evaluate with Python's own arithmetic."""
    (expression,) = re.fullmatch(r"([0-4](?:[-+*][0-4])*)=", prompt).groups()
    return str(eval(expression) % 5), len(expression)


def cycle_navigation(prompt: str) -> tuple[str, int]:
    """Walk step by step."""
    (actions,) = re.fullmatch(r"([-+0]+)=", prompt).groups()
    place = 0
    for action in actions:
        place = {"0": place, "+": (place + 1) % 5, "-": (place + 4) % 5}[action]
    return str(place), len(actions)


def missing_duplicate(prompt: str) -> tuple[str, int]:
    """Try both bits."""
    words, rest = re.fullmatch(r"([01]*_[01]*)(\.?)=", prompt).groups()
    half = len(words) // 2
    (bit,) = (b for b in "01" if words.replace("_", b)[:half] == words.replace("_", b)[half:])
    return bit, len(words) + len(rest)


def stack_manipulation(prompt: str) -> tuple[str, int]:
    """Keep the stack as a text with its top at the left."""
    bits, actions = re.fullmatch(r"([01]+)([-ab]*)=", prompt).groups()
    stack = ""
    for bit in bits:
        stack = bit + stack
    for action in actions:
        stack = {"-": stack[1:], "a": "0" + stack, "b": "1" + stack}[action]
    return stack + ".", len(bits) + len(actions)


def mqar(prompt: str, key_letters: int = 1, queries: int = 4) -> tuple[str, int]:
    """Look each key up in the text."""
    pairs, asked = prompt[:-1].split("/")
    keys = re.findall("." * key_letters, asked)
    shown = [pair[:-1] for pair in pairs.split(",")]
    assert len(set(shown)) == len(shown) and {len(key) for key in shown} == {key_letters}
    assert len(set(keys)) == len(keys) == min(queries, len(shown))
    answer = "".join(re.search(rf"(?:^|,){key}(\d)", pairs)[1] for key in keys)
    return answer, len(shown)


def scan(prompt: str) -> tuple[str, int]:
    """Apply the rules of SCAN's interpretation (Lake & Baroni 2018, figure 7), outermost first."""
    answer = _interpret(prompt.removesuffix("="))
    return answer, len(answer)


def _interpret(command: str) -> str:
    for word, in_order in ((" and ", True), (" after ", False)):
        if word in command:
            left, right = map(_interpret, command.split(word))
            return left + right if in_order else right + left
    if command.endswith("twice"):
        return _interpret(command.removesuffix(" twice")) * 2
    if command.endswith("thrice"):
        return _interpret(command.removesuffix(" thrice")) * 3
    verb, *rest = command.split()
    action = {"walk": "W", "look": "L", "run": "R", "jump": "J", "turn": ""}[verb]
    if not rest:
        return action
    turn = {"left": "<", "right": ">"}[rest[-1]]
    if rest[0] == "around":
        return turn + action + turn + action + turn + action + turn + action
    return (turn + turn if rest[0] == "opposite" else turn) + action


def deduplicate(prompt: str) -> tuple[str, int]:
    """Shorten the text while two neighbours are equal."""
    assert re.fullmatch(r"(?:(\d)(?:\1\1){0,2}(?!\1))+=", prompt)
    text = prompt[:-1]
    while re.search(r"(\d)\1", text):
        text = re.sub(r"(\d)\1", r"\1", text)
    return text, len(text)


def grammar_of_scan() -> Iterator[str]:
    """Yield all commands: the phrase structure grammar of figure 6, rule by rule."""
    verbs = ["walk", "look", "run", "jump"]
    directed = [f"{u} {side}" for u in [*verbs, "turn"] for side in ("left", "right")]
    around = [d.replace(" ", f" {how} ") for d in directed for how in ("opposite", "around")]
    sentences = [
        v + often for v in [*verbs, *directed, *around] for often in ("", " twice", " thrice")
    ]
    yield from sentences
    for joint in ("and", "after"):
        yield from (f"{one} {joint} {two}" for one in sentences for two in sentences)


def sum_width(n_operands: int, width: int) -> int:
    """Return the digits of so many nines, added."""
    return len(_by_columns(["9" * width] * n_operands))


backwards_addition = partial(addition, backwards=True)
padded_addition = partial(addition, width=sum_width)
