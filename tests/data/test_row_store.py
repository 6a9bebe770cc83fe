"""Rows of files as memory-mapped tokens with a mask: files, renderings, masks, memory."""

import json
import subprocess
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import transformers
from hf_folders import WORDS, chat_folder

from etude.data.chat import ChatTemplate, rendered, transformers_tokenizer
from etude.data.row_files import row_file
from etude.data.row_kinds import Said
from etude.data.row_store import stored
from etude.data.tokenizers import Bytes
from etude.errors import BadInput
from etude.generate.pretrained import tokenizer_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return chat_folder(tmp_path_factory.mktemp("chat"))


def turn(role, content):
    return {"role": role, "content": content}


CONVERSATIONS = [
    [turn("user", "the quick fox?"), turn("assistant", "over a lazy dog.")],
    [turn("system", "be brief"), turn("user", "a"), turn("assistant", " ünicode 日本\n\n"), turn("user", "b"), turn("assistant", "two")],
]


def written(tmp_path, rows, name="r.jsonl"):
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return row_file(tmp_path / name)


def test_files_of_every_form_hold_the_same_rows(tmp_path):
    rows = [{"text": f"row {i}", "n": i} for i in range(3000)]
    lines = written(tmp_path, rows)
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / "r.parquet", row_group_size=700)
    folder = tmp_path / "saved" / "train"
    folder.mkdir(parents=True)
    for number in range(2):
        with pyarrow.ipc.new_stream(folder / f"data-{number}.arrow", table.schema) as out:
            out.write_table(table.slice(number * 2000, 2000))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": f"data-{n}.arrow"} for n in range(2)]}))
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    expected = list(enumerate(rows, start=1))
    for file in (lines, *(row_file(tmp_path / name) for name in ("r.parquet", "saved", "saved/train"))):
        assert list(file.rows()) == expected
    assert row_file(tmp_path / "saved").where(7, "text") == f"{tmp_path}/saved, row 7, field 'text'"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": \n', "r.jsonl, line 2: found no JSON"),
        (b'{"text": "a"}\n\n[1]\n', "r.jsonl, line 3: found a list, expected one JSON object a line, not one list"),
        (b'{"text": "\xff"}\n', r"line 1: found a byte that is not UTF-8 \(0xff, byte 11"),
        (b"\n", "found no rows"),
    ],
)
def test_damaged_lines(tmp_path, content, message):
    (tmp_path / "r.jsonl").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        stored(row_file(tmp_path / "r.jsonl"), Bytes())
    assert not list((tmp_path / "cache").rglob("*.tmp"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "which is not there"),
        ("r.csv", "a", "a file of another kind"),
        ("r.txt", "a", "r.txt, a plain text, expected rows"),
        ("r.parquet", "a", "unreadable content"),
        ("saved/x", "a", "without state.json"),
        ("saved/dataset_dict.json", '{"splits": ["test"]}', "with the splits test, expected one called train"),
    ],
)
def test_files_that_are_none(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=message):
        list(row_file(tmp_path / name.split("/")[0]).rows())


def test_the_mask_is_transformers_own(tmp_path, qwen):
    inner = transformers_tokenizer(qwen)
    store = stored(written(tmp_path, [{"messages": m} for m in CONVERSATIONS]), tokenizer_of(qwen), template=ChatTemplate(inner, "qwen"))
    for number, messages in enumerate(CONVERSATIONS):
        theirs = inner.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
        row = slice(store.offsets[number], store.offsets[number + 1])
        assert store.tokens[row].tolist() == theirs["input_ids"]
        assert store.said[row].tolist() == [bool(x) for x in theirs["assistant_masks"]]
        ends = store.tokens[row][np.flatnonzero(np.diff(store.said[row].astype(int)) == -1)]
        assert set(ends.tolist()) == {inner.convert_tokens_to_ids("<|im_end|>")}


def test_completions_end_with_the_end_token(tmp_path, qwen):
    tokenizer = tokenizer_of(qwen)
    store = stored(
        written(tmp_path, [{"prompt": "the fox", "completion": " jumps"}, {"prompt": "a", "completion": "b<|im_end|>"}]), tokenizer, end=2
    )
    first = slice(0, store.offsets[1])
    assert tokenizer.decode(store.tokens[first][store.said[first]][:-1]) == " jumps"
    assert tokenizer.decode(store.tokens[first][~store.said[first]]) == "the fox"
    assert [store.tokens[store.offsets[1] - 1], store.tokens[-1]] == [2, 2]
    assert store.tokens[-2] != 2


def test_pairs_and_bytes(tmp_path):
    store = stored(written(tmp_path, [{"prompt": "p", "chosen": "ab", "rejected": "c"}]), Bytes())
    assert (len(store), store.kind, store.lines.tolist()) == (1, "preference", [1, 1])
    assert bytes(store.tokens) == b"pabpc"
    assert store.said.tolist() == [False, True, True, False, True]


def test_made_once_and_again_when_anything_changes(tmp_path, qwen):
    file, folder = written(tmp_path, [{"text": WORDS}]), tmp_path / "cache" / "rows"
    stored(file, Bytes())
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("tokens.bin")}
    stored(file, Bytes())
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("tokens.bin")} == made
    stored(file, Bytes(), end=3)
    stored(file, tokenizer_of(qwen))
    stored(written(tmp_path, [{"text": "other"}]), Bytes())
    assert len(list(folder.iterdir())) == 4


class Thoughtful:
    """A template that keeps thoughts in the last turn alone, as Qwen3's does; `named`: asks for the assistant in other words."""

    name, text = "thoughtful", ""

    def __init__(self, named=False):
        self.named = named

    def render(self, messages, *, ask=False, tools=None):
        turns = [
            f"[{m['role']}]" + f"<{m.get('thought', '')}>" * (m["role"] == "assistant" and m is messages[-1]) + f"{m['content']};\n"
            for m in messages
        ]
        return "".join(turns) + ("[me]" if self.named else "[assistant]") * ask


LONG = [
    {"role": "user", "content": "one"}, {"role": "assistant", "content": "A", "thought": "a"}, {"role": "user", "content": "two"},
    {"role": "assistant", "content": "B", "thought": "b"}, {"role": "user", "content": "left"},
]  # fmt: skip


def test_a_template_that_rewrites_earlier_turns_makes_a_sample_of_each(tmp_path):
    texts = rendered(Said([], LONG), Thoughtful(), "x")
    learnt = [[text.text[a:b] for a, b in text.spans] for text in texts]
    assert learnt == [["<a>A;"], ["<b>B;"]]
    for text, turn in zip(texts, (1, 3), strict=True):  # each after just what the model reads when it is asked
        assert text.text[: text.spans[0][0]] == Thoughtful().render(LONG[:turn], ask=True)
    # Of a completion, the prompt's turns are only read.
    (only,) = rendered(Said(LONG[:3], LONG[3:4]), Thoughtful(), "x")
    assert [only.text[a:b] for a, b in only.spans] == ["<b>B;"]
    store = stored(written(tmp_path, [{"messages": LONG}, {"messages": LONG[:2]}]), Bytes(), template=Thoughtful())
    assert (len(store), store.num_lines, store.lines.tolist()) == (3, 2, [1, 1, 2])
    assert bytes(store.tokens[store.said]) == b"<a>A;<b>B;<a>A;"
    pair = {"prompt": LONG[:1], "chosen": LONG[1:4], "rejected": LONG[1:2]}
    with pytest.raises(BadInput, match="line 1: found an answer of several turns, which the chat template writes differently"):
        stored(written(tmp_path, [pair]), Bytes(), template=Thoughtful())


def test_templates_that_cannot_be_used(tmp_path, qwen):
    with pytest.raises(BadInput, match="x: found a chat template of thoughtful whose turn 2 does not begin as it is asked for"):
        rendered(Said([], LONG), Thoughtful(named=True), "x")
    with pytest.raises(BadInput, match="x: found messages, expected a tokenizer with a chat template"):
        rendered(Said([], CONVERSATIONS[1]), None, "x")
    inner = transformers.AutoTokenizer.from_pretrained(qwen)
    inner.chat_template = None
    with pytest.raises(BadInput, match="the tokenizer of me: found no chat template, expected chat_template.jinja"):
        ChatTemplate(inner, "me")
    inner.chat_template = "{{ raise_exception('roles must take turns') }}"
    with pytest.raises(BadInput, match=r"x: found messages that the chat template of me refuses \(roles must take turns\)"):
        rendered(Said([], CONVERSATIONS[0]), ChatTemplate(inner, "me"), "x")


PEAK = """
import resource, sys
from etude.data.row_files import row_file
from etude.data.row_store import stored
from etude.data.tokenizers import Bytes
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
stored(row_file(sys.argv[1]), Bytes())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_stays_flat(tmp_path):
    line = json.dumps({"text": WORDS * 50}) + "\n"
    grown = {}
    for megabytes in (6, 18):
        with (tmp_path / f"{megabytes}.jsonl").open("w") as out:
            for _ in range(megabytes * 1_000_000 // len(line)):
                out.write(line)
        run = subprocess.run([sys.executable, "-c", PEAK, tmp_path / f"{megabytes}.jsonl"], capture_output=True, text=True, check=True)
        grown[megabytes] = int(run.stdout) / 1024 * (1 if sys.platform == "linux" else 1 / 1024)
    assert grown[18] < grown[6] + 4, grown


@pytest.mark.parametrize("cores", [0, 999])
def test_documents_are_the_tokenizers_own_ids(tmp_path, qwen, monkeypatch, cores):
    monkeypatch.setattr("etude.data.row_store.FEW_CORES", cores)
    tokenizer, texts = tokenizer_of(qwen), ["the fox", "naïve", "it's <|im_start|> 12", "ends<|im_end|>", WORDS]
    store = stored(written(tmp_path, [{"text": text} for text in texts]), tokenizer, end=2)
    assert store.said is None
    for number, text in enumerate(texts):
        ids = store.tokens[store.offsets[number] : store.offsets[number + 1]].tolist()
        assert ids == [*tokenizer.encode(text.removesuffix("<|im_end|>")).tolist(), 2]
