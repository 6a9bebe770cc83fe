"""Learning-rate schedules from a recipe's table."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from etude.engine.arguments import shown
from etude.engine.schedule import SCHEDULES, Schedule
from etude.errors import BadInput
from etude.recipe.config import expected_of
from etude.recipe.tables import ScheduleTable


def schedule_of(table: ScheduleTable, where: str = "schedule") -> Schedule:
    """Raises BadInput for a key that the kind of schedule does not have, or that it refuses."""
    kind = SCHEDULES[table.kind]
    given = {k: v for k, v in table.model_dump().items() if v is not None and k != "kind"}
    known = inspect.signature(kind).parameters
    for name in given:
        if name not in known:
            raise BadInput(f"{where}.{name}", shown(given[name]), f"a key of a {table.kind} schedule: {', '.join(known)}")
    try:
        return kind(**given)
    except BadInput as error:
        raise BadInput(error.where.replace("schedule", where, 1), error.found, error.expected) from error


def schedule_from(settings: Mapping[str, Any], where: str) -> Schedule:
    """A schedule from a table inside another, such as a method's."""
    try:
        table = ScheduleTable.model_validate_json(json.dumps(settings, default=str))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *(str(p) for p in first["loc"])])
        found = "an unknown key" if first["type"] == "extra_forbidden" else shown(first["input"])
        raise BadInput(place, found, expected_of(first)) from None
    return schedule_of(table, where)
