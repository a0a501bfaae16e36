"""What a predictor needs of a model, whatever its format: one backend per format."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxdistill.config import ChannelOrder, Layout, Normalization, OutputKind, Size

Images = UInt8[np.ndarray, "b h w 3"]
Logits = Float[Array, "b h w 1"]


class Backend(Protocol):
    """A model of one format, ready to run."""

    description: str
    """One line for people."""
    size: Size
    """Height and width of the images at which the model predicts best."""
    fingerprint: str
    """SHA-256, in hexadecimal, of the weights or of the file."""

    def logits(self, images: Images) -> Logits:
        """Returns mask logits at the size of the images; a person where they are positive."""
        ...


class ModelOptions(NamedTuple):
    """How to use a file that does not describe itself; None where that is not given.

    The names and their meaning are those of `teachers.Onnx`.
    """

    output: OutputKind | None = None
    """What the mask tensor holds."""
    normalization: Normalization | None = None
    """What the model expects of pixels in [0, 1]."""
    tensor: str | None = None
    """The mask tensor."""
    size: Size | None = None
    """Height and width of the model's input."""
    interpolate: float | None = None
    """Of a run: where between its start (0) and its best checkpoint (1) the student lies."""
    channel: int | Sequence[int] | None = None
    """The class of people in the mask tensor, or several ones."""
    channel_order: ChannelOrder | None = None
    """Order of the input's channels."""
    layout: Layout | None = None
    """Order of the input's axes."""
    output_layout: Layout | None = None
    """Order of the mask's axes."""

    @property
    def given(self) -> dict[str, Any]:
        """What is given, by its name."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    @property
    def describes_file(self) -> bool:
        """Whether anything is given that only a file needs."""
        return self._replace(size=None, interpolate=None) != ModelOptions()
