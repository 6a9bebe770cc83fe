"""What rows of TRL's columns hold, and how each that is wrong is named."""

import pytest

from etude.data.row_kinds import Said, kind_of, said
from etude.errors import BadInput

U, A, B = ({"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"})


def read(row, kind=None):
    return said(row, kind or kind_of(row, "f, line 1"), "f, line 1")


@pytest.mark.parametrize(
    ("row", "kind", "parts"),
    [
        ({"text": "t", "id": 3}, "text", [Said("", "t")]),
        ({"prompt": "p", "completion": "c"}, "completion", [Said("p", "c")]),
        ({"prompt": [U], "completion": [A]}, "completion", [Said([U], [A])]),
        ({"messages": [U, A], "prompt": "told beside"}, "messages", [Said([], [U, A])]),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "preference", [Said("p", "c"), Said("p", "r")]),
        ({"prompt": [U], "chosen": [A], "rejected": [B]}, "preference", [Said([U], [A]), Said([U], [B])]),
        ({"chosen": [U, A], "rejected": [U, B]}, "preference", [Said([U], [A]), Said([U], [B])]),
        ({"prompt": "u", "chosen": [U, A], "rejected": [U, B]}, "preference", [Said([U], [A]), Said([U], [B])]),
        ({"chosen": "It is so.", "rejected": "It is not."}, "preference", [Said("It is", " so."), Said("It is", " not.")]),
    ],
)
def test_kinds(row, kind, parts):
    assert kind_of(row, "") == kind
    assert read(row) == parts


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"question": "q"}, None, "f, line 1: found the columns question, expected text; prompt and completion"),
        ({"prompt": "p"}, None, "field 'completion': found nothing, expected it beside prompt"),
        ({"question": "q"}, "text", "field 'text': found nothing, expected text, as in the rows before"),
        ({"text": "t"}, "messages", "f, line 1: found a row of text, expected messages, as in the rows before"),
        ({"text": "t", "messages": [U, A]}, "text", "found a row of messages, expected text, as"),
        ({"text": 3}, None, "field 'text': found 3, expected a text"),
        ({"prompt": "p", "completion": " "}, None, "field 'completion': found an empty text"),
        ({"prompt": "p", "completion": None}, None, "field 'completion': found nothing, expected a text$"),
        ({"prompt": [U], "completion": None}, None, "field 'completion': found nothing, expected messages, as prompt"),
        ({"prompt": None, "completion": 3}, None, "field 'completion': found 3, expected a text or a list of messages"),
        ({"prompt": "", "completion": "c"}, None, "field 'prompt': found an empty text"),
        ({"prompt": 1, "completion": "c"}, None, "field 'prompt': found 1, expected a text"),
        ({"prompt": "p", "completion": [A]}, None, "field 'prompt': found \"p\", expected a list of messages"),
        ({"prompt": "p", "chosen": "c", "rejected": "c"}, None, "field 'chosen': found chosen = rejected, expected two"),
        ({"prompt": "p", "chosen": "c", "rejected": [A]}, None, "field 'rejected': found .*, expected a text, as chosen"),
        ({"chosen": "yes", "rejected": "no"}, None, "field 'prompt': found nothing, expected a prompt"),
        ({"chosen": [U, A], "rejected": [A]}, None, "field 'prompt': found nothing"),
        ({"messages": []}, None, "field 'messages': found no messages"),
        ({"messages": [U]}, None, "found no turn of the assistant"),
        ({"messages": [U, {"role": "bot", "content": "x"}]}, None, "message 2, role: found 'bot', expected system, developer"),
        ({"messages": [U, {"role": "assistant"}]}, None, "message 2, content: found nothing, expected a text"),
        ({"messages": [U, {"role": "assistant", "content": ""}]}, None, "message 2, content: found an empty text"),
        ({"messages": ["hi"]}, None, 'message 1: found "hi", expected an object'),
    ],
)
def test_bad_rows(row, kind, message):
    with pytest.raises(BadInput, match=message):
        read(row, kind)
