"""Search trees of reasoning-gym's countdown, sudoku and zebra_puzzles, so that traces can be written for the problems themselves.

`searched("zebra_puzzles")` is that task with a tree (`traces.Search`). A response is read as etude's own tasks read it (`answers.py`): the
answer alone, or working and a last line `> ANSWER`; a sudoku's rows stand on that line, parted by `/`. The package's scorer judges.
Trees: countdown's as `countdown.py`'s (whole numbers >= 0, four given numbers at most, for it is searched whole); sudoku fills cells in
reading order with digits that break no rule, and fails where the next cell has none; zebra_puzzles places the things of a kind house by
house and fails where a clue is broken.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from etude.data.tasks.answers import answer_of
from etude.data.tasks.countdown import Countdown
from etude.data.tasks.gym import GymTask
from etude.engine.protocols import Problem
from etude.errors import BadInput

MOST_NUMBERS = 4
Board = tuple[int, ...]
"""81 digits in reading order, 0 for a blank."""


class _Searched:
    """A task of the package whose responses may hold working."""

    dataset = ""

    def __init__(self, **settings: Any) -> None:
        self.gym = GymTask(self.dataset, **settings)
        self.name = self.gym.name
        self.difficulties: Sequence[int] = self.gym.difficulties

    def problem(self, seed: int, index: int, difficulty: int = 0) -> Problem:
        return self.gym.problem(seed, index, difficulty)

    def verify(self, problem: Problem, response: str) -> float:
        """1 where the response's one answer is right, else 0."""
        answer = answer_of(response)
        return 0.0 if answer is None else self.gym.verify(problem, self.unfolded(answer))

    def unfolded(self, answer: str) -> str:
        """One line as the package writes it."""
        return answer


class SearchedCountdown(_Searched):
    dataset = "countdown"
    tree = Countdown()

    def problem(self, seed: int, index: int, difficulty: int = 0) -> Problem:
        """As the package's, with what the tree needs beside it. Raises BadInput for more than four numbers."""
        problem = self.gym.problem(seed, index, difficulty)
        given = problem.data["metadata"]
        if len(given["numbers"]) > MOST_NUMBERS:
            expected = f"at most {MOST_NUMBERS} (max_numbers={MOST_NUMBERS}): their tree is searched whole"
            raise BadInput(f"problem {problem.id}", f"{len(given['numbers'])} numbers", expected)
        data = {"numbers": given["numbers"], "target": given["target"], "each": "exactly", "operations": "+-*/"}
        return Problem(problem.id, problem.prompt, problem.answer, problem.difficulty, {**problem.data, **data})

    def root(self, data: Mapping[str, Any]) -> Any:
        return self.tree.root(data)

    def moves(self, data: Mapping[str, Any], state: Any) -> list[tuple[str, Any]]:
        return self.tree.moves(data, state)

    def failed(self, data: Mapping[str, Any], state: Any) -> bool:
        return self.tree.failed(data, state)

    def solved(self, data: Mapping[str, Any], state: Any) -> bool:
        return self.tree.solved(data, state)

    def label(self, data: Mapping[str, Any], state: Any) -> str:
        return self.tree.label(data, state)

    def answer(self, data: Mapping[str, Any], state: Any) -> str:
        return self.tree.answer(data, state)


@lru_cache(maxsize=1)
def _peers() -> list[list[int]]:
    """For each cell those that must differ from it."""
    places = [(cell // 9, cell % 9) for cell in range(81)]
    return [
        [
            other
            for other, (r, c) in enumerate(places)
            if other != cell and (r == row or c == column or (r // 3, c // 3) == (row // 3, column // 3))
        ]
        for cell, (row, column) in enumerate(places)
    ]


class SearchedSudoku(_Searched):
    dataset = "sudoku"

    def unfolded(self, answer: str) -> str:
        return answer.replace("/", "\n")

    def root(self, data: Mapping[str, Any]) -> Board:
        return tuple(digit for row in data["metadata"]["puzzle"] for digit in row)

    def _fitting(self, state: Board, cell: int) -> list[int]:
        taken = {state[other] for other in _peers()[cell]}
        return [digit for digit in range(1, 10) if digit not in taken]

    def moves(self, data: Mapping[str, Any], state: Board) -> list[tuple[str, Board]]:
        cell = state.index(0)
        return [(f"{self._name(cell)}={d}", (*state[:cell], d, *state[cell + 1 :])) for d in self._fitting(state, cell)]

    def failed(self, data: Mapping[str, Any], state: Board) -> bool:
        return 0 in state and not self._fitting(state, state.index(0))

    def solved(self, data: Mapping[str, Any], state: Board) -> bool:
        return 0 not in state  # a digit that breaks a rule is no move

    @staticmethod
    def _name(cell: int) -> str:
        return f"{'abcdefghi'[cell // 9]}{cell % 9 + 1}"

    def label(self, data: Mapping[str, Any], state: Board) -> str:
        return self._name(state.index(0))

    def answer(self, data: Mapping[str, Any], state: Board) -> str:
        return "/".join(" ".join(map(str, state[row : row + 9])) for row in range(0, 81, 9))


RELATIONS = {
    "THING is directly left of THING.": "left",
    "THING is somewhere to the left of THING.": "before",
    "THING is somewhere to the right of THING.": "after",
    "THING and THING are next to each other.": "beside",
    "There is one house between THING and THING.": "two apart",
    "There are two houses between THING and THING.": "three apart",
    "THING is not in the HOUSE house.": "not at",
    "THING is in the HOUSE house.": "at",
    "THING is THING.": "same",
}
ORDINALS = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh")
THINGS = "reasoning_gym.logic.contrib.logic_puzzle.literals"


def _holds(relation: str, a: int, b: int) -> bool:
    match relation:
        case "left":
            return a + 1 == b
        case "before":
            return a < b
        case "after":
            return a > b
        case "beside":
            return abs(a - b) == 1
        case "two apart":
            return abs(a - b) == 2
        case "three apart":
            return abs(a - b) == 3
        case "not at":
            return a != b
    return a == b


class SearchedZebra(_Searched):
    dataset = "zebra_puzzles"

    def problem(self, seed: int, index: int, difficulty: int = 0) -> Problem:
        """As the package's, with its kinds and clues read from the text. Raises BadInput where a sentence is not understood."""
        problem = self.gym.problem(seed, index, difficulty)
        return Problem(problem.id, problem.prompt, problem.answer, problem.difficulty, {**problem.data, **_read(problem)})

    def root(self, data: Mapping[str, Any]) -> tuple[str, ...]:
        return ()

    def moves(self, data: Mapping[str, Any], state: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
        kind, house = divmod(len(state), len(data["kinds"][0]))
        if kind == len(data["kinds"]):
            return []
        left = [thing for thing in data["kinds"][kind] if thing not in state]
        return [(f"{thing} in house {house + 1}", (*state, thing)) for thing in left]

    def failed(self, data: Mapping[str, Any], state: tuple[str, ...]) -> bool:
        size = len(data["kinds"][0])
        house: dict[Any, int] = {thing: place % size + 1 for place, thing in enumerate(state)}
        for relation, a, b in data["clues"]:
            first, second = house.get(a), b if isinstance(b, int) else house.get(b)
            if first is not None and second is not None and not _holds(relation, first, second):
                return True
        return False

    def solved(self, data: Mapping[str, Any], state: tuple[str, ...]) -> bool:
        return len(state) == len(data["kinds"]) * len(data["kinds"][0]) and not self.failed(data, state)

    def label(self, data: Mapping[str, Any], state: tuple[str, ...]) -> str:
        kind, house = divmod(len(state), len(data["kinds"][0]))
        return f"{data['kinds'][kind][0].split(' ', 1)[0]} in house {house + 1}"

    def answer(self, data: Mapping[str, Any], state: tuple[str, ...]) -> str:
        return state[data["asked"] - 1].split(" ", 1)[1]  # names come first


def _read(problem: Problem) -> dict[str, Any]:
    """kinds: things of each kind, names first, each as "Kind thing"; clues: (relation, thing, thing or house); asked: the house."""
    base = importlib.import_module(THINGS).Literal
    by_heading = {kind.description().split(":")[0]: kind for kind in base.__subclasses__()}
    kinds, phrases = [], {}
    for line in re.findall(r"^ - (.+)$", problem.prompt, re.MULTILINE):
        kind = next((k for heading, k in by_heading.items() if line.split(":")[0] == heading), None)
        listed = line.rsplit(": ", 1)[1].split(", ")
        if kind is None:
            raise BadInput(f"problem {problem.id}", f"'{line}'", "a kind of the package's literals")
        things = []
        for literal in kind:
            word = literal.name.replace("_", " ")
            if word in listed:
                things.append(f"{kind.__name__} {word}")
                phrases[literal.value.lower()] = things[-1]
        if len(things) != len(listed):
            raise BadInput(f"problem {problem.id}", f"'{line}'", "things of the package's literals")
        kinds.append(sorted(things))
    # A thing's words may hold an " is " of their own, so sentences are read by the words of this puzzle's things.
    thing = "(" + "|".join(map(re.escape, sorted(phrases, key=len, reverse=True))) + ")"
    patterns = [
        (re.compile(re.escape(said).replace("THING", thing).replace("HOUSE", f"({'|'.join(ORDINALS[1:])})"), re.IGNORECASE), relation)
        for said, relation in RELATIONS.items()
    ]
    clues = []
    for line in re.findall(r"^\d+\. (.+)$", problem.prompt, re.MULTILINE):
        relation, match = next(((r, m) for pattern, r in patterns if (m := pattern.fullmatch(line))), ("", None))
        if match is None:
            raise BadInput(f"problem {problem.id}", f"'{line}'", "a clue of the package's kinds")
        second = match[2].lower()
        clues.append((relation, phrases[match[1].lower()], ORDINALS.index(second) if relation.endswith("at") else phrases[second]))
    asked = re.search(r"What is Name of the person who lives in House (\d+)", problem.prompt)
    if asked is None or not kinds[0][0].startswith("Name "):
        raise BadInput(f"problem {problem.id}", "another question", "who lives in a house")
    return {"kinds": kinds, "clues": clues, "asked": int(asked[1])}


SEARCHED = {kind.dataset: kind for kind in (SearchedCountdown, SearchedSudoku, SearchedZebra)}


def searched(name: str, **settings: Any) -> Any:
    """A task of reasoning-gym with its search tree; `settings` as for `GymTask`.

    Raises BadInput, by name, for a task whose solver does not branch here, and as `GymTask` does.
    """
    if name not in SEARCHED:
        GymTask(name)  # an unknown name is refused as one
        raise BadInput(f"task reasoning-gym/{name}", "no solver that branches, hence no traces", f"one of {', '.join(SEARCHED)}")
    return SEARCHED[name](**settings)
