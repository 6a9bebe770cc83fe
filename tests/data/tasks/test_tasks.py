import itertools
import re
from dataclasses import replace

import pytest

import etude
from etude.data.tasks import names, task
from etude.data.tasks.answers import answer_of, whole_number
from etude.data.tasks.countdown import Countdown
from etude.data.tasks.expressions import NotAnExpression, evaluate
from etude.data.tasks.strings import ConstrainedStrings
from etude.data.tasks.traces import check_trace
from etude.engine.protocols import Problem
from etude.errors import BadInput


def levels(found):
    return [d for d in found.difficulties if d <= 12][:: max(1, len([d for d in found.difficulties if d <= 12]) // 3)]


@pytest.mark.parametrize("name", names())
def test_every_task(name):
    """Its own answer is right, with and without working; problems repeat by name and differ by seed, index and difficulty."""
    found = task(name)
    assert found.name == name
    for level in levels(found):
        problems = [found.problem(3, i, level) for i in range(4)]
        assert problems == [found.problem(3, i, level) for i in range(4)]
        for p in problems:
            assert found.verify(p, p.answer) == 1.0
            assert found.verify(p, f"  {p.answer}\n") == 1.0
            assert found.verify(p, f"some thought\n> {p.answer}") == 1.0
            assert len({p.id for p in problems}) == 4
            for char in p.prompt + p.answer:
                assert " " <= char <= "~"
    hard = found.difficulties[len(found.difficulties) // 2]
    prompts = {found.problem(seed, i, hard).prompt for seed in range(5) for i in range(10)}
    assert len(prompts) > (1 if hard < 3 else 25)


@pytest.mark.parametrize("name", names())
def test_formatting_fools_no_verifier(name):
    found = task(name)
    # With few constraints many strings are right: there only the most constrained level tells.
    for level in levels(found) if name != "constrained-strings" else (4,):
        p = found.problem(5, 1, level)
        wrong = next(q.answer for i in range(50) if found.verify(p, (q := found.problem(9, i, level)).answer) == 0.0)
        right = p.answer
        for response in (
            "", " ", "\n", ">", "> ", "\x00", right + " " + right, f"{right} {wrong}", f"{wrong} {right}", f"x{right}", f"{right}x",
            f"The answer is {right}", f"{right}.", f"> {right}\n> {wrong}", f"> {wrong}\n> {right}", f"> {right}\n> {right}",
            f"> {right}\nbut no", f"{right}\n{wrong}", f"{right}\n> {wrong}", f"no, back\n> {right}\n{wrong}", f"'{right}'", f"[{right}]",
            right + "\u200b", f"\\boxed{{{right}}}", right.replace(right[-1], right[-1] + "\u0301"), f"{right}\x00", right * 3000,
            "".join(chr(0xFF00 + ord(c) - 0x20) if c != " " else c for c in right),
            re.sub("[0-9]", lambda m: chr(0x0660 + int(m[0])), right) if re.search("[0-9]", right) else right + "٠",
            "".join({"1": "¹", "2": "²", "3": "³"}.get(c, c) for c in right) + "²", wrong, "()" * 5000, "(" * 100_000, "9" * 5000,
        ):  # fmt: skip
            assert found.verify(p, response) == 0.0, response[:80]


def test_numbers_are_read_strictly():
    assert [whole_number(t) for t in ("0", "7", "-12", "120")] == [0, 7, -12, 120]
    for text in ("-0", "+7", "07", "7.0", "7e0", "1_0", "٧", "²", "", "-", "--7", " 7", "0x7", "9" * 99):
        assert whole_number(text) is None
    zero = Problem("z", "3-3=", "0", 2, {"result": 0})
    assert task("sum-chains").verify(zero, "0") == 1.0
    assert task("sum-chains").verify(zero, "-0") == 0.0


def test_one_answer_is_read_or_none():
    assert answer_of(" 12 \r\n") == "12"
    assert answer_of("a\nb\n> 12\n\n") == "12"
    for text in ("a\nb", "> 1\n> 2", "> 1\nb", ">", "\u00a012", "1\u20282"):
        assert answer_of(text) is None


def test_expressions_are_parsed_exactly():
    for text, value in (
        ("2+3*4", 14),
        ("(2+3)*4", 20),
        ("8-3-2", 3),
        ("8/4/2", 1),
        ("1/3*3", 1),
        ("((7))", 7),
        (" 1 + 2 ", 3),
        ("2*(3-5)", -4),
    ):
        assert evaluate(text)[0] == value
    for text in (
        "", "1+", "+1", "-1", "1 2", "1**2", "1//2", "2(3)", "(1", "1)", "1.5", "1e3", "01", "x", "__import__('os')", "1/0", "1/(2-2)",
        "1,2", "(" * 99 + "1" + ")" * 99, "１+1", "1+1=2", "1\t+1", "1+" * 300 + "1",
    ):  # fmt: skip
        with pytest.raises(NotAnExpression):
            evaluate(text)


def test_a_leading_minus_only_where_it_is_allowed():
    assert evaluate("-3+5", signed=True)[:2] == (2, [3, 5])
    assert evaluate("2*(-3+5)", signed=True)[0] == 4
    for text in ("--3", "2*-3", "3+-5", "-", "+3"):
        with pytest.raises(NotAnExpression):
            evaluate(text, signed=True)


def test_countdown_counts_each_number():
    exactly, most = Countdown(), Countdown(each="at most")
    p = Problem("p", "", "", 3, {"numbers": [3, 4, 5], "target": 17, "each": "exactly", "operations": "+-*/"})
    q = Problem("q", "", "", 3, {"numbers": [3, 4, 5], "target": 20, "each": "at most", "operations": "+-*"})
    for text, score in (
        ("3*4+5", 1),
        ("5+4*3", 1),
        ("(5+(3*4))", 1),
        ("17", 0),
        ("12+5", 0),
        ("3*4+5+0", 0),
        ("3*4+5*1", 0),
        ("34-17", 0),
        ("5*4-3", 1),
    ):
        assert exactly.verify(p, text) == score, text
    for text, score in (("4*5", 1), ("4*5*3/3", 0), ("4*5+3-3", 0), ("5*4", 1), ("20", 0), ("60/3", 0)):
        assert most.verify(q, text) == score, text
    only = Countdown(operations="+-")
    assert only.verify(Problem("r", "", "", 3, {"numbers": [2, 3], "target": 6, "each": "exactly", "operations": "+-"}), "2*3") == 0
    for i in range(20):
        made = only.problem(0, i, 3)
        assert set(made.answer) <= set("0123456789+-()")
        assert only.verify(made, made.answer) == 1.0


def test_constraints_are_each_checked():
    found = ConstrainedStrings(kinds=("length", "count", "case", "end", "begin"))
    p = Problem("p", "", "", 5, {"length": 5, "count": ["a", 2], "case": "lower", "end": "z", "begin": "q"})
    assert found.verify(p, "qaazz"[:3] + "xz") == 1
    for text in ("qaxyz", "qaaxxz", "qaaxx", "Qaaxz", "xaaxz", "qaa xz", "qáaxz", "qaa1z"):
        assert found.verify(p, text) == 0, text


def test_a_letter_is_left_out():
    found = ConstrainedStrings(kinds=("case", "without"))
    p = Problem("p", "", "", 2, {"case": "lower", "without": "e"})
    assert [found.verify(p, text) for text in ("abc", "abe", "abE", "ABC")] == [1, 0, 0, 0]
    for i in range(20):
        drawn = found.problem(0, i, 2)
        assert drawn.prompt.endswith(f"without {drawn.data['without']}: ")
        assert drawn.data["without"] not in drawn.answer.lower()
    with pytest.raises(BadInput, match="at most 25 with the kind 'without'"):
        ConstrainedStrings(kinds=("without",), lengths=(3, 26))


def test_chains_tell_lucky_answers_from_sound_ones():
    chains = task("chains")
    for i in range(30):
        p = chains.problem(0, i, 4)
        solution = chains.solution(p)
        assert chains.sound(p, solution)
        assert chains.audit(p, solution) == [True] * 4
        lines = solution.split("\n")
        assert not chains.sound(p, "\n".join([*lines[:1], *lines[2:]]))
        assert chains.verify(p, lines[-1]) == 1.0
        assert not chains.sound(p, lines[-1])
        swapped = "\n".join([lines[1], lines[0], *lines[2:]])
        assert not chains.sound(p, swapped)
        wrong = lines[0][:-1] + str((int(lines[0][-1]) + 1) % 10)
        assert chains.audit(p, "\n".join([wrong, *lines[1:]]))[0] is False


def test_chains_by_hand():
    chains = task("chains")
    data = {"start": ["a", 7], "steps": [["b", "a", "+", 5], ["c", "b", "*", 3]], "lines": ["b=7+5=2", "c=2*3=6"], "result": 6}
    p = Problem("p", "c=b*3 a=7 b=a+5 ; c: ", "6", 2, data)
    assert chains.audit(p, "b=7+5=2\nc=2*3=6\n> 6") == [True, True]
    assert chains.audit(p, "b=7+5=2\nb=7+5=2\nc=3*2=6\n> 6") == [True, False, False]


def test_sudoku_and_zebra_have_one_solution():
    from etude.data.tasks.sudoku import solutions

    sudoku, zebra = task("sudoku-4x4"), task("zebra")
    for i in range(5):
        p = sudoku.problem(1, i, 9)
        assert len(solutions(tuple(p.data["cells"]), 5)) == 1
        assert p.prompt.count("_") == 9
        q = zebra.problem(1, i, 3)
        answers = [
            "/".join(map("".join, zip(*rows, strict=True))) for rows in itertools.product(*map(itertools.permutations, q.data["things"]))
        ]
        assert [a for a in answers if zebra.verify(q, a) == 1.0] == [q.answer]


def test_paths_are_shortest():
    paths = task("paths")
    p = Problem("p", "", "", 4, {"edges": ["ab", "bc", "cd", "bd", "ac"], "start": "a", "end": "d", "steps": 2})
    assert [paths.verify(p, t) for t in ("abd", "acd", "abcd", "ad", "a b d", "abdd", "ABD")] == [1, 1, 0, 0, 0, 0, 0]


def test_streams_do_not_overlap():
    """Items of neighbouring seeds are other ones: nothing is drawn from seed + index."""
    addition = task("addition")
    items = {seed: {addition.problem(seed, i, 6).prompt for i in range(200)} for seed in (0, 1, 2)}
    assert not items[0] & items[1]
    assert not items[1] & items[2]


def test_bad_input():
    assert etude.task("countdown").name == "countdown"
    with pytest.raises(BadInput, match="task: found 'contdown', expected a known name; did you mean 'countdown'"):
        etude.task("contdown")
    with pytest.raises(BadInput, match="task countdown, setting: found 'larges', .*did you mean 'largest'"):
        task("countdown", larges=3)
    with pytest.raises(BadInput, match="task countdown, difficulty: found 9, expected one of 2, 3, 4, 5, 6"):
        task("countdown").problem(0, 0, 9)
    with pytest.raises(BadInput, match="operations"):
        Countdown(operations="^")
    with pytest.raises(BadInput, match="index"):
        task("parity").problem(0, -1, 3)


@pytest.mark.parametrize("settings", [{}, {"operations": "+-*"}, {"each": "at most", "target": 30}])
def test_countdown_writes_the_steps_to_its_own_answer_and_audits_working(settings):
    countdown = task("countdown", **settings)
    for level in (2, 3, 4):
        for i in range(40):
            problem = countdown.problem(5, i, level)
            text = countdown.solution(problem)
            assert text.endswith(f"> {problem.answer}")
            if "each" not in settings:  # where not all numbers need be used, a search may be at its end before the answer is
                assert check_trace(countdown, problem, text) == 0
            assert countdown.audit(problem, text) == [True] * (len(text.split("\n")) - 1)
            assert countdown.sound(problem, text)


def test_countdown_audit_by_hand():
    countdown = task("countdown")
    problem = replace(
        countdown.problem(0, 0, 3), prompt="", answer="(3+4)*5", data={**countdown.problem(0, 0, 3).data, "numbers": [3, 4, 5]}
    )
    problem = replace(problem, data={**problem.data, "target": 35})
    assert countdown.audit(problem, "4+3=7\n7*5=35\n> (3+4)*5") == [True, True]
    assert countdown.sound(problem, "4+3=7\n7*5=35\n> (3+4)*5")
    # A right expression after wrong working: a wrong sum, a number that is not left, a line that is no step.
    for text, audited in (
        ("4+3=8\n8*5=40\n> (3+4)*5", [False, False]),
        ("4+3=7\n4*5=20\n> (3+4)*5", [True, False]),
        ("hm\n4+3=7\n7*5=35\n> (3+4)*5", [False, True, True]),
        ("5*4=20\n20+3=23\n> (3+4)*5", [True, True]),
        ("> (3+4)*5", []),
    ):
        assert countdown.verify(problem, text) == 1.0
        assert countdown.audit(problem, text) == audited
        assert not countdown.sound(problem, text)
    with pytest.raises(BadInput, match="answer: found '1'"):
        countdown.solution(replace(problem, answer="1"))
