"""Carry out a command: `walk left twice and jump=` -> `<W<WJ`.

Source: Lake & Baroni 2018 (SCAN, arXiv 1711.00350, section 2), whose grammar has 20,910 commands.
Their split by length trains on answers of 1 to 22 actions and tests on 24 to 48; Kazemnejad et al.
2023 (arXiv 2305.19466, appendix C) train up to 25. An action is one letter here: `W` walk, `L`
look, `R` run, `J` jump, `<` and `>` turn left and right.

Length n: actions of the answer, each command with as many as likely. No command has 23, 29, 31, 34,
35, 37 to 39, 41 to 47, or more than 48.
"""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import one_length

ACTIONS = {"walk": "W", "look": "L", "run": "R", "jump": "J"}
TURNS = {"left": "<", "right": ">"}
TIMES = {"": 1, " twice": 2, " thrice": 3}


@dataclass(frozen=True)
class Scan(Task):
    """Write the `length` actions of a command."""

    name: ClassVar[str] = "scan"

    def sample(self, length: Length, rng: Generator) -> Example:
        commands = _commands_of(self, one_length(self, length))
        return commands[int(rng.integers(len(commands)))]

    def longest_row(self, length: int) -> int:
        """Return the most characters at any length up to this: a shorter answer may take more."""
        fitting = [n for n in _commands() if n <= one_length(self, length)]
        return max(command.n_chars for n in fitting for command in _commands()[n])

    def n_problems(self, length: int) -> float:
        return float(len(_commands_of(self, one_length(self, length))))


def _commands_of(task: Task, length: int) -> list[Example]:
    """Return all commands of a length. ValueError if there are none."""
    commands = _commands().get(length)
    if commands is None:
        known = ", ".join(map(str, sorted(_commands())))
        raise ValueError(f"{task.name}: no command has {length} actions (but {known})")
    return commands


@cache
def _commands() -> dict[int, list[Example]]:
    """Return the commands of the grammar by number of actions."""
    phrases = {
        command + word: actions * times
        for command, actions in _verb_phrases().items()
        for word, times in TIMES.items()
    }
    commands = dict(phrases)
    for first, first_actions in phrases.items():
        for second, second_actions in phrases.items():
            commands[f"{first} and {second}"] = first_actions + second_actions
            commands[f"{first} after {second}"] = second_actions + first_actions
    by_length: dict[int, list[Example]] = {}
    for command, actions in commands.items():
        by_length.setdefault(len(actions), []).append(Example(f"{command}=", actions))
    return by_length


def _verb_phrases() -> dict[str, str]:
    """Return the commands with one verb, without a number of times."""
    phrases = dict(ACTIONS)
    for verb, action in {**ACTIONS, "turn": ""}.items():
        for side, turn in TURNS.items():
            phrases[f"{verb} {side}"] = turn + action
            phrases[f"{verb} opposite {side}"] = turn + turn + action
            phrases[f"{verb} around {side}"] = (turn + action) * 4
    return phrases
