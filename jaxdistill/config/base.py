"""What every part of the configuration is made of."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

# Bounds far beyond any use: a configuration may be somebody else's, and memory grows with these.
LARGEST_SIDE = 2**14
Side = Annotated[int, Field(gt=0, le=LARGEST_SIDE)]
Channels = Annotated[int, Field(gt=0, le=2**13)]
Size = tuple[Side, Side]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Rgb = tuple[float, float, float]
OutputKind = Literal["logits", "probabilities"]
Precision = Literal["float32", "bfloat16"]


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*")
    @classmethod
    def _usable(cls, value: Any) -> Any:
        """A path is one that a system can have, and `~` the home folder."""
        if isinstance(value, Path):
            if "\0" in str(value):
                raise ValueError("a path cannot hold the character NUL")
            try:
                return value.expanduser()
            except RuntimeError:
                raise ValueError(f"there is no home folder {value.parts[0]}") from None
        return value
