"""The state of a run as a checkpoint holds it, and a run put back into it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from etude.engine.identity import LOOKED_AT
from etude.engine.ledger import Ledger
from etude.engine.protocols import Stage
from etude.engine.run import Run
from etude.engine.schedule import from_state
from etude.errors import BadInput


def state_of(run: Run, parts: Mapping[str, str]) -> dict[str, Any]:
    """All that a run goes on from. parts: hashes of what the run is (`identity.digests`)."""
    return {
        "identity": dict(parts),
        "step": run.step,
        "micro_batch": run.micro_batch,
        "stage": None if run.stage is None else [run.stage.name, run.stage.index],
        "model": {name: value for name, value in run.model.state_dict().items() if name not in _elsewhere(run.model)},
        "elsewhere": glimpse(run.model),
        "optimizers": {name: _optimizer_state(run, o) for name, o in run.optimizers.items()},
        "stream": run.stream.state_dict(),
        "methods": {m.name: m.state_dict() for m in run.hooks.methods},
        "carried": run.carried,
        "replacements": run.replacements,
        "history": run.history,
        "ledger": run.ledger.as_dict(),
        "flops": [list(run._flops.items()), list(run._variable)],
        "files": run.metrics_log.lengths(),
        "pending": dict(run.metrics_log.pending),
    }


def restore(run: Run, state: Mapping[str, Any], parts: Mapping[str, str], where: str) -> None:
    """Puts a run that has just started into a checkpoint's state and cuts its logs there.

    where: the run's folder, for errors. Raises BadInput for a checkpoint of another run or another model.
    """
    differing = [k for k in parts if state["identity"].get(k) != parts[k]]
    if differing:
        raise BadInput(where, f"a checkpoint of another {' and '.join(differing)}", "one of the run being resumed")
    by_name = {m.name: m for m in run.hooks.methods}
    run.ledger = Ledger.from_dict(state["ledger"])
    run.step = state["step"]
    run.micro_batch = state.get("micro_batch")  # of "auto", what was found then: other pieces would sum in another order
    for entry in state["replacements"]:
        # Values come from the checkpoint below; only the shape of things is rebuilt here.
        run.model = by_name[entry["method"]].rebuild(run, run.model, entry["note"]).to(run.device)
        if entry["restart"]:
            run.schedule, run.schedule_start = from_state(entry["restart"]["schedule"]), entry["restart"]["start"]
        run.replacements.append(entry)
        run._refresh()
    load_weights(run.model, state, where, "a checkpoint of this model")
    for name, optimizer in run.optimizers.items():
        for key, values in state["optimizers"][name].items():
            optimizer.state[run.named_parameters()[key]] = values
    run.stage = None if state["stage"] is None else Stage(*state["stage"])
    run.stream.load_state_dict(state["stream"])
    for name, method in by_name.items():
        method.load_state_dict(state["methods"][name])
    run.carried, run.history = state["carried"], state["history"]
    run._flops = dict(state["flops"][0])
    run._variable = set(state["flops"][1])
    run.metrics_log.cut(state["files"])
    run.metrics_log.pending.update(state.get("pending", {}))


def load_weights(model: nn.Module, state: Mapping[str, Any], where: str, expected: str) -> None:
    """Puts a checkpoint's weights into a model. Raises BadInput at `where` for those of another model."""
    if state.get("elsewhere", "") != glimpse(model):
        raise BadInput(where, "a checkpoint beside other frozen weights", "the model folder that the run began with, unchanged")
    own = model.state_dict()
    try:
        model.load_state_dict(state["model"] | {name: own[name] for name in _elsewhere(model)})
    except RuntimeError as error:
        raise BadInput(where, str(error).replace("\n", " "), expected) from error


def _elsewhere(model: nn.Module) -> frozenset[str]:
    """Names in the model's state that no checkpoint holds: the model says of which (`kept_elsewhere`), and comes with them."""
    return getattr(model, "kept_elsewhere", frozenset())


def glimpse(model: nn.Module) -> str:
    """A digest of some values of each weight that is kept elsewhere; the empty string for none."""
    names, digest = sorted(_elsewhere(model)), hashlib.sha256()
    own = model.state_dict() if names else {}
    for name in names:
        flat = own[name].detach().flatten()
        places = torch.linspace(0, flat.numel() - 1, min(flat.numel(), LOOKED_AT), dtype=torch.float64).long()
        digest.update(name.encode() + flat[places.to(flat.device)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16] if names else ""


def _optimizer_state(run: Run, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    names = {id(p): n for n, p in run.named_parameters().items()}
    return {names[id(p)]: dict(state) for p, state in optimizer.state.items()}
