"""Which order of the data helps? Samplers, mixtures, subsets and curricula on four kinds of data in domains, at equal FLOPs.

What is scored is what a user would want of each pool, not what its mixture is made of: held-out text of both domains, clean text where
half of the pool are near copies, sums of two digits among those of one and three, sorting where hints of it lie beside it.
A paper enters with the settings that its own rule gives for each recipe; nothing is tuned for anyone, the learning rate is one that is
good for the baseline. Which domains are hints is told, as a user would have to.
"""

from __future__ import annotations

from pathlib import Path

from etude.arenas import recipes, work
from etude.arenas.arena import Arena
from etude.arenas.recipes import RecipeTask, Settings
from etude.evidence.study import Scale

SHAPE = """
schema = 1
[model]
kind = "transformer"
width = {width}
depth = {depth}
heads = 2
[optimizer]
kind = "adamw"
lr = 0.003
[run]
evaluate_every = 0.2
"""
TEXT = """
[data]
context = 64
batch = 16
[data.domains.{first}]
text = "{folder}/{first}.txt"
[data.domains.{second}]
text = "{folder}/{second}.txt"
"""
ROWS = """
[data]
rows = "{folder}/train.jsonl"
held_out_rows = "{folder}/held.jsonl"
domain = "domain"
context = {context}
batch = 32
"""


def shaped(text: str, width: int, depth: int, **more: object) -> str:
    told = SHAPE + text
    for name, value in {"width": width, "depth": depth, **more}.items():
        told = told.replace(f"{{{name}}}", str(value))
    return told


def tasks(width: int, depth: int, steps: int) -> dict[str, RecipeTask]:
    """steps: updates of about 1,024 tokens; of sums, whose rows are short and take longer to learn, twice as many."""
    texts = shaped(TEXT, width, depth, first="english", second="code")
    copies = shaped(TEXT, width, depth, first="clean", second="copies") + '[evaluate]\nmeasures = ["loss", "domains"]\n'
    return {
        "texts": RecipeTask(about="held-out loss on English and code", data=work.english_and_code, recipe=texts, steps=steps),
        "copies": RecipeTask(
            about="held-out loss on clean text, half of the pool being near copies", data=work.half_copies, recipe=copies, steps=steps,
            metric="domains/clean",
        ),
        "sums": RecipeTask(
            about="held-out loss on sums of two digits", data=work.sums, recipe=shaped(ROWS, width, depth, context=16), steps=2 * steps,
        ),
        "sorting": RecipeTask(
            about="held-out loss on sorting", data=work.sorting, recipe=shaped(ROWS, width, depth, context=40), steps=steps,
            told={"task-hinting": {"hints": ["successor", "fill"], "share": 0.5}},
        ),
    }  # fmt: skip


ARENA = Arena(
    name="curricula",
    question="Which order of the data helps?",
    goals={name: task.goal for name, task in tasks(8, 2, 1).items()},
    enter=recipes.entrant,
    scales={
        "smoke": Scale(settings=Settings(tasks=tasks(8, 2, 12)), seeds=1, size="3k parameters / 12 updates a task"),
        "quick": Scale(settings=Settings(tasks=tasks(24, 2, 120)), seeds=3, size="20k parameters / 120 updates a task"),
        "cpu": Scale(settings=Settings(tasks=tasks(48, 2, 400)), seeds=5, size="70k parameters / 400 updates a task"),
    },
    plots=recipes.curves(tasks(8, 2, 1)),
    code=(Path(__file__), Path(recipes.__file__), Path(work.__file__)),
    baseline_about="samples drawn evenly from the pool",
)
