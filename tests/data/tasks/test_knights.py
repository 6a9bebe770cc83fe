"""Knights and Knaves: one answer each, by brute force from the text alone."""

from itertools import product

import numpy as np
import pytest

from etude.data.tasks.knights import Knights, columns, fitting, written

JOINED = {"&": lambda x, y: x and y, "|": lambda x, y: x or y, "=": lambda x, y: x == y}


def true_of(said, kinds):
    """Whether what is written holds of kinds: letter -> knight."""
    for sign, join in JOINED.items():
        if sign in said:
            return join(*(true_of(part, kinds) for part in said.split(sign)))
    return not kinds[said[1:]] if said.startswith("-") else kinds[said]


def answers(prompt):
    told = dict(part.split(":") for part in prompt.removesuffix(" ; ").split(" "))
    found = []
    for bits in product((False, True), repeat=len(told)):
        kinds = dict(zip(told, bits, strict=True))
        if all(kinds[who] == true_of(said, kinds) for who, said in told.items()):
            found.append("".join(str(int(b)) for b in bits))
    return found


@pytest.mark.parametrize("level", [2, 3, 5, 8])
def test_puzzles_have_one_answer_and_it_is_theirs(level):
    for index in range(20):
        problem = Knights().problem(1, index, level)
        assert answers(problem.prompt) == [problem.answer]


def test_statements_by_hand():
    assert columns(2) == [0b1100, 0b1010]  # ways 3 = "11" and 2 = "10" make the first a knight
    b_knave = (1, False)
    # a: "b is a knave", b: "a and b are of one kind". A true one of a's makes b lie, and then they do differ; a false one makes b
    # a knight who says what is not so.
    assert fitting([(b_knave, "", b_knave), ((0, True), "=", (1, True))]) == 1 << 0b10
    assert written(((2, False), "|", (0, True))) == "-c|a"
    assert written(((2, False), "", (0, True))) == "-c"


def test_statements_are_of_every_kind_and_nobody_speaks_of_themselves_alone():
    said = [part.split(":") for i in range(300) for part in Knights().problem(0, i, 4).prompt.removesuffix(" ; ").split(" ")]
    shares = [np.mean([sign in text for _, text in said]) for sign in JOINED]
    assert min(shares) > 0.1
    assert all(text.lstrip("-")[0] != who for who, text in said)
    answers_given = [Knights().problem(0, i, 4).answer for i in range(300)]
    assert len(set(answers_given)) == 16
    assert 0.3 < np.mean([a.count("1") / 4 for a in answers_given]) < 0.7
