"""Which way of learning from its own samples helps a small language model most, at equal FLOPs?

Every entrant is given the same taught base, problems with a verifier, right answers to a quarter of them, and FLOPs for everything after
the base: samples, scores, searches and training. It comes with its study's settings, the amounts scaled by a rule that its package's
`arena.py` states, the learning rates times the best of three factors on another seed. The baseline, fine-tuning on the right answers, and
the control, GRPO and nothing else, have the best of as many rates or more.
"""

from __future__ import annotations

import string
from functools import partial
from pathlib import Path
from typing import Any

from etude.arenas import programs
from etude.arenas.arena import Arena
from etude.arenas.programs import ProblemTask, Settings
from etude.evidence.study import Scale

LETTERS, DIGITS = string.ascii_lowercase, string.digits


def tasks(flops: float, held_out: int, updates: int, **more: Any) -> dict[str, ProblemTask]:
    return {
        "countdown": ProblemTask(
            about="sums and differences of three and four numbers that come to a target", family="countdown", levels=(3, 4),
            options={"operations": "+-", "largest": 9, "target": 30}, letters=DIGITS + LETTERS + "+-*/()=: ", context=56, max_tokens=14,
            taught=(3_000, 1_000), updates=updates, flops=flops, held_out=held_out, **more,
        ),
        "paths": ProblemTask(
            about="shortest paths in graphs of four and five nodes", family="paths", levels=(4, 5), letters=LETTERS + ": ;", context=64,
            max_tokens=8, taught=(2_000, 2_000), updates=updates * 3 // 5, flops=flops, held_out=held_out, **more,
        ),
        "sorting": ProblemTask(
            about="three to five numbers of two digits in order", family="sorting", levels=(3, 4, 5), letters=LETTERS + DIGITS + ": ",
            context=48, max_tokens=16, taught=(1_000, 1_500, 1_000), updates=updates * 13 // 20, flops=flops, held_out=held_out, **more,
        ),
    }  # fmt: skip


ARENA = Arena(
    name="improvement",
    question="Which way of learning from its own samples helps a model most?",
    goals={name: one.goal for name, one in tasks(1.0, 1, 2).items()},
    enter=partial(programs.entrant, arena="improvement"),
    scales={
        "smoke": Scale(settings=Settings(tasks=tasks(6e9, 8, 40, width=16)), seeds=1, size="8k parameters / 6 GFLOPs a task"),
        "quick": Scale(settings=Settings(tasks=tasks(5e10, 60, 500)), seeds=3, size="0.1M parameters / 50 GFLOPs a task"),
        "cpu": Scale(settings=Settings(tasks=tasks(3e11, 250, 500)), seeds=5, size="0.1M parameters / 0.3 TFLOPs a task"),
    },
    d=0.02,
    planned=programs.planned,
    controls={"grpo": (programs.control, "GRPO on the problems, with nothing else")},
    code=(Path(__file__), Path(programs.__file__)),
    baseline_about="supervised fine-tuning on the right answers",
)
