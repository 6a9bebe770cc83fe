"""`etude generate` and `etude export`: what a finished run is good for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from etude.cli.browsing import Json, Offline
from etude.cli.output import print_json
from etude.errors import BadInput


def add(app: typer.Typer) -> None:
    for name, door in (("generate", generate), ("export", export)):
        app.command(name, rich_help_panel="Use")(door)


def generate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run of `etude train`, or a transformers folder.")],
    prompts: Annotated[list[str] | None, typer.Argument(metavar="[PROMPT ...]", help="Texts to go on from.")] = None,
    file: Annotated[Path | None, typer.Option("--prompts", metavar="FILE", help="More of them: JSONL with a field `prompt`.")] = None,
    samples: Annotated[int, typer.Option("--samples", "-n", metavar="N", min=1, help="Completions of each prompt.")] = 1,
    max_tokens: Annotated[int, typer.Option("--max-tokens", metavar="N", min=1, help="Of a completion, at most.")] = 128,
    temperature: Annotated[float, typer.Option("--temperature", metavar="T", help="0 takes the likeliest token.")] = 1.0,
    top_p: Annotated[float, typer.Option("--top-p", metavar="P", help="Draw from the likeliest tokens of this mass.")] = 1.0,
    top_k: Annotated[int, typer.Option("--top-k", metavar="K", help="Draw from the K likeliest tokens; 0 from all.")] = 0,
    stop: Annotated[list[str] | None, typer.Option("--stop", metavar="TEXT", help="End a completion at this text; repeatable.")] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed gives the same samples.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="JSONL, a completion a line; without it, stdout.")] = None,
    device: Annotated[str, typer.Option("--device", metavar="D", help="auto, cpu, cuda or mps.")] = "auto",
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Sample from a trained model: JSONL out, progress on stderr."""
    from etude.generate import hub
    from etude.papers.loading import load_methods, load_models
    from etude.recipe.sampled import sampled

    if seed < 0:
        raise BadInput("etude generate --seed", str(seed), "a whole number >= 0")
    with hub.offline(offline):
        lines = sampled(
            run, [*(prompts or ())], file=file, resolve=load_methods, models=load_models, samples=samples, max_tokens=max_tokens,
            temperature=temperature, top_p=top_p, top_k=top_k, stop=stop or (), seed=seed, device=device, out=out, quiet=json,
        )  # fmt: skip
    if json:
        print_json(lines)
    elif out is None:
        from etude.data.jsonl import jsonl

        sys.stdout.write(jsonl(lines))
    else:
        print(f"{len(lines)} completions in {out}")


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run of `etude train`.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the model goes; a new or empty folder.")],
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="hf: a transformers folder; peft: LoRA layers alone.")] = "hf",
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Write a trained model for transformers or peft, and check that it reads back as the same model."""
    from etude.generate import hub
    from etude.papers.loading import load_methods, load_models
    from etude.recipe.export import export_run

    with hub.offline(offline):
        done = export_run(run, folder, to=to, resolve=load_methods, models=load_models)
    if json:
        print_json(done)
    else:
        close = done["largest_difference"]
        same = "not read back: no peft here (pip install peft)" if close is None else f"logits within {close:.1e} of the run's"
        same += ", tokens the same" if done["tokenizer"] else ""
        print(f"{done['parameters']:,} parameters in {folder}; {same}")
