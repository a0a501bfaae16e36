"""Types that the sections of the configuration share."""

from pathlib import Path
from typing import Annotated, Any, Literal, LiteralString

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

# Bounds far beyond any use: a configuration may come from an untrusted source, and memory grows
# with these values.
LARGEST_SIDE = 2**14
"""The largest height or width of an image, in pixels."""
Side = Annotated[int, Field(gt=0, le=LARGEST_SIDE)]
Channels = Annotated[int, Field(gt=0, le=2**13)]
Size = tuple[Side, Side]
"""Height and width in pixels."""
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Rgb = tuple[float, float, float]
"""A number for each of red, green and blue."""
Channel = Annotated[int, Field(ge=0, lt=2**16)]
OutputKind = Literal["logits", "probabilities", "softmax_logits", "class_indices"]
"""What a network's mask holds."""
Layout = Literal["nchw", "nhwc"]
"""Order of the axes of a network's input."""
ChannelOrder = Literal["rgb", "bgr"]
"""Order of the colours of a network's input."""
Precision = Literal["float32", "bfloat16"]
"""Number format of feature maps."""
Upsampling = Literal["bilinear", "learned"]
"""How logits of a coarser map reach the size of the image."""


class Section(BaseModel):
    """Base class of all sections: immutable, without unknown keys, NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*")
    @classmethod
    def _expand_path(cls, value: Any) -> Any:
        """Replaces `~` in paths by the home folder, and refuses paths with a NUL character."""
        if isinstance(value, Path):
            if "\0" in str(value):
                raise invalid("invalid-path", "a path cannot contain the character NUL")
            try:
                return value.expanduser()
            except RuntimeError:
                raise invalid("invalid-path", f"there is no home folder {value.parts[0]}") from None
        return value


def invalid(code: LiteralString, message: str) -> PydanticCustomError:
    """Returns the error to raise in a validator; `check` turns it into a `ConfigError`.

    Args:
      code: The code of the `ConfigError`, in kebab case.
      message: What is wrong, and what to do.
    """
    return PydanticCustomError(code, "{message}", {"message": message})


def _not_zero(value: float) -> float:
    if value == 0:
        raise invalid("out-of-range", f"expected a number other than 0, got {value:g}")
    return value


NonZero = Annotated[float, AfterValidator(_not_zero)]


class MeanStd(Section):
    """Channel statistics of a network's input: it gets `(scale * pixels - mean) / std`."""

    mean: Rgb
    """Mean per channel (red, green, blue) of pixels in [0, scale]."""
    std: tuple[NonZero, NonZero, NonZero]
    """Standard deviation per channel (red, green, blue) of pixels in [0, scale]. A negative one
    inverts the grey levels, as of a thermal camera that shows what is warm in black."""
    scale: Positive = 1.0
    """The largest value of a pixel, to which mean and std refer: 1, or 255."""


Normalization = Literal["imagenet", "unit", "half", "bytes"] | MeanStd
"""`imagenet`: ImageNet's mean and standard deviation; `unit`: pixels in [0, 1] as they are;
`half`: mean 0.5 and standard deviation 0.5, hence pixels in [-1, 1]; `bytes`: pixels in
[0, 255]."""
