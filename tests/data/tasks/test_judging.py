import json
import pickle

import pytest

from etude.data.tasks import task
from etude.data.tasks.judging import Judge, VerifierFailed
from etude.data.tasks.problems import FileTask, read_problems, write_problems
from etude.engine.protocols import Problem
from etude.errors import BadInput


class Odd:
    name, difficulties = "odd", (1,)

    def __init__(self, gives):
        self.gives = gives

    def problem(self, seed, index, difficulty):
        return Problem("odd/1", "?", "!", 1)

    def verify(self, problem, response):
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


@pytest.mark.parametrize(
    ("gives", "what"),
    [
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"), (float("nan"), "ValueError: returned nan"),
        (float("inf"), "ValueError: returned inf"), (None, "TypeError: returned None, a NoneType"), ("1", "TypeError: returned '1', a str"),
        (1.5, "ValueError: returned 1.5"), (-0.1, "ValueError: returned -0.1"),
    ],
)  # fmt: skip
def test_a_verifier_that_fails_is_named_and_its_text_kept(gives, what):
    found = Odd(gives)
    p = found.problem(0, 0, 1)
    with pytest.raises(
        VerifierFailed, match=r"verifier of odd, problem odd/1: found .* on the response 'my answer', expected a number"
    ) as caught:
        Judge(found)(p, "my answer")
    again = pickle.loads(pickle.dumps(caught.value))  # as it comes from another process
    assert (again.failure.response, str(again)) == ("my answer", str(caught.value))
    assert what in str(caught.value)
    counting = Judge(found, failures="zero")
    assert [j.score for j in counting.group(p, ["a", "b"])] == [0.0, 0.0]
    assert [(f.where, f.response, f.what) for f in counting.failed] == [
        ("verifier of odd, problem odd/1", "a", what), ("verifier of odd, problem odd/1", "b", what),
    ]  # fmt: skip


def test_a_good_verifier_is_left_alone():
    found = task("addition")
    p = found.problem(0, 0, 2)
    judge = Judge(found)
    assert [j.score for j in judge.group(p, [p.answer, "x"])] == [1.0, 0.0]
    assert judge.failed == []
    assert Judge(Odd(True))(p, "as good as a number").score == 1.0
    with pytest.raises(BadInput, match="failures: found 'stopp', expected stop or zero"):
        Judge(found, failures="stopp")


def test_problems_go_to_a_file_and_come_back(tmp_path):
    found = task("countdown")
    problems = [found.problem(0, i, 3) for i in range(3)]
    write_problems(tmp_path / "p.jsonl", problems)
    assert read_problems(tmp_path / "p.jsonl") == problems
    again = FileTask(tmp_path / "p.jsonl")
    assert again.problem(9, 1, 3) == problems[1]
    assert again.verify(problems[1], problems[1].answer) == 1.0
    assert again.verify(problems[1], problems[1].answer + " or so") == 0.0
    with pytest.raises(BadInput, match="index: found 3, expected 0 to 2"):
        again.problem(0, 3, 3)


GOOD = {"id": "a", "prompt": "1+1=", "answer": "2"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "p.jsonl, line 2: found no JSON: the line ends before it does, after '{', expected .*, not an object over several lines"),
        ("[]", "p.jsonl, line 2: found a list, expected one JSON object a line, not one list of all"),
        (json.dumps({"id": "b", "prompt": "x"}), "p.jsonl, line 2, field 'answer': found nothing, expected a text"),
        (json.dumps({**GOOD, "prompt": "x\udce9"}), "field 'prompt': found 'x.*udce9', half of a character, expected text"),
        (json.dumps({**GOOD, "id": 5}), "p.jsonl, line 2, field 'id': found 5, expected a text"),
        (json.dumps({**GOOD, "id": "b", "difficulty": "3"}), "p.jsonl, line 2, field 'difficulty': found \"3\", expected a whole number"),
        (json.dumps({**GOOD, "id": "b", "difficulty": True}), "field 'difficulty': found true, expected a whole number"),
        (json.dumps({**GOOD, "id": "b", "anser": "2"}), "p.jsonl, line 2, field: found 'anser', .*did you mean 'answer'"),
        ('{"id": "b", "id": "c", "prompt": "x", "answer": ""}', "p.jsonl, line 2, field 'id': found the field twice"),
        ('{"id": "b", "prompt": "x", "answer": "", "data": {"x": NaN}}', "p.jsonl, line 2: found NaN, expected numbers that are finite"),
        (json.dumps(GOOD), "problem 2, field 'id': found 'a' again"),
        (json.dumps({**GOOD, "id": "b", "prompt": " "}), "problem 2, field 'prompt': found nothing"),
    ],
)  # fmt: skip
def test_malformed_problems_name_file_line_and_field(tmp_path, line, said):
    (tmp_path / "p.jsonl").write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(BadInput, match=said):
        read_problems(tmp_path / "p.jsonl")


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "p.jsonl").write_text("\n")
    with pytest.raises(BadInput, match="found no problem"):
        read_problems(tmp_path / "p.jsonl")
