"""What the keys of a recipe may hold: counts, shares, texts. No torch here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _whole(value: Any) -> Any:
    """1e6 is a float to TOML and a count to everyone else."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("a text that is not empty")
    return text


Whole = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[Whole, Field(ge=1)]
Real = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[Real, Field(ge=0, le=1)]
Part = Annotated[Real, Field(gt=0, lt=1)]
Below1 = Annotated[Real, Field(ge=0, lt=1)]
Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
Text = Annotated[str, AfterValidator(_not_empty)]
Ending = Annotated[str, Field(min_length=1)]
Weights = Annotated[dict[str, NotNegative], Field(min_length=1)]
Activation = Literal["relu", "gelu", "silu", "tanh", "sigmoid"]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
