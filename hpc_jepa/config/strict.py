"""Base of every configuration class: typed, frozen, unknown keys forbidden."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A configuration node. Immutable, and a misspelt key is an error rather than a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
