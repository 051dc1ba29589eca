"""The base of every stage's options: typed, flat, frozen; one truth for schema, flags and reference."""

from pydantic import BaseModel, ConfigDict


class StageOptions(BaseModel):
    """Options of one stage; each field has a type, a default and a sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
