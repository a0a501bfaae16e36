"""The description that our export writes into an ONNX file (`exporters.model_card.stamp`)."""

import json
from pathlib import Path
from typing import Any, Literal

import onnx
from pydantic import BaseModel, Field, ValidationError

from jaxdistill import config
from jaxdistill.config import OutputKind, Size
from jaxdistill.runtime.errors import NetworkError

PRODUCER = "jaxdistill"


class _Input(BaseModel):
    dtype: str
    image_size: Size | None  # of files without a run that older versions wrote there is none


class _Output(BaseModel):
    range: str


class _Normalization(BaseModel):
    done_by: Literal["the caller", "the graph"] = Field(alias="done by")
    mean: config.Rgb = (0.0, 0.0, 0.0)
    std: config.Rgb = (1.0, 1.0, 1.0)


class OnnxMetadata(BaseModel):
    """How an ONNX file of our export is used."""

    input: _Input
    output: _Output
    normalization: _Normalization

    @property
    def takes_bytes(self) -> bool:
        """Whether the input is of uint8."""
        return self.input.dtype == "uint8"

    @property
    def image_size(self) -> Size | None:
        """Height and width of the images on which the student was trained; None: not known."""
        return self.input.image_size

    @property
    def description(self) -> dict[str, Any]:
        """How the file is read: keyword arguments of `teachers.Onnx`."""
        output: OutputKind = "logits" if self.output.range == "logits" else "probabilities"
        return {"output": output, "normalization": self.input_normalization}

    @property
    def input_normalization(self) -> config.Normalization:
        """What the file expects of pixels in [0, 1]."""
        if self.normalization.done_by == "the graph":
            return "bytes" if self.takes_bytes else "unit"
        return config.MeanStd(mean=self.normalization.mean, std=self.normalization.std)


def read_metadata(path: Path) -> OnnxMetadata | None:
    """Reads the description in an ONNX file.

    Args:
      path: A file that `OnnxGraph` has read: its content is a valid ONNX model.

    Returns:
      The description; None where another program wrote the file.

    Raises:
      NetworkError: The description is damaged (`onnx-metadata`).
    """
    model = onnx.load(path, load_external_data=False)
    if model.producer_name != PRODUCER:
        return None
    stored = {entry.key: entry.value for entry in model.metadata_props}
    try:
        values: dict[str, Any] = {
            name: json.loads(stored[name]) for name in OnnxMetadata.model_fields
        }
        metadata = OnnxMetadata.model_validate(values)
        metadata.input_normalization  # noqa: B018  checks mean and standard deviation
        return metadata
    except (KeyError, ValueError, RecursionError) as error:
        raise NetworkError(
            f"{path}: the description in the file is damaged ({_reason(error)}); export it again",
            code="onnx-metadata",
        ) from None


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return " ".join(str(error).split()) or type(error).__name__
