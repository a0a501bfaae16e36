"""Metadata of `.tflite` files: what MediaPipe's image segmenter reads.

MediaPipe reads three things that the network itself does not say: how pixels become numbers, which
function of the output is a probability, and the names of the classes. The first two are flatbuffers
in the file (`metadata_schema.fbs` and `image_segmenter_metadata_schema.fbs` of MediaPipe, whose
fields are numbered below), the last is a text file in a zip archive behind it.
"""

import io
import zipfile
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import flatbuffers
import numpy as np

LABELS_FILE = "labels.txt"
"""Name of the file in the archive that holds a class per line."""

_NAME = "TFLITE_METADATA"
_SEGMENTER_NAME = "SEGMENTER_METADATA"
_PARSER_VERSION = "1.5.0"  # the first whose metadata have entries such as the segmenter's
_ALIGNMENT = 16  # bytes, of constants in a `.tflite` file
_IMAGE_PROPERTIES, _NORMALIZATION_OPTIONS = 2, 1  # numbers in their unions
_RGB, _GREY = 1, 2
_AXIS_LABELS = 2


class Activation(IntEnum):
    """What MediaPipe computes from the output before it is a confidence."""

    NONE = 0
    SIGMOID = 1


class Byte(NamedTuple):
    """A value of an enumeration."""

    value: int


Table = dict[int, Any]
"""Fields of a flatbuffer's table by their numbers: texts, `Byte`s, tables, lists of tables, and
arrays of float32 or uint8."""


def segmenter_metadata(
    image: str, output: str, activation: Activation, stats: tuple[float, float]
) -> bytes:
    """Returns the description of a network with an image and one mask.

    Args:
      image: Name of the input, (1, H, W, 3). Pixels of 0 ... 255 are divided by 255 for an input of
        float32, and taken as they are for one of uint8.
      output: Name of the output, (1, H, W, 1).
      activation: Function that makes a probability of the output.
      stats: Smallest and largest value of the input.
    """
    low, high = (np.array([value], np.float32) for value in stats)
    scale: Table = {0: np.zeros(1, np.float32), 1: np.full(1, 255, np.float32)}
    labels: Table = {0: LABELS_FILE, 1: "The class of each channel.", 2: Byte(_AXIS_LABELS)}
    image_metadata: Table = {
        0: image,
        1: "The image to segment, RGB.",
        3: {0: Byte(_IMAGE_PROPERTIES), 1: {0: Byte(_RGB)}},
        4: [{0: Byte(_NORMALIZATION_OPTIONS), 1: scale}],
        5: {0: high, 1: low},
    }
    output_metadata: Table = {
        0: output,
        1: "Where the image shows a person.",
        3: {0: Byte(_IMAGE_PROPERTIES), 1: {0: Byte(_GREY)}},
        6: [labels],
    }
    options = flatbuffer({0: Byte(activation)}, b"V001")
    graph: Table = {
        2: [image_metadata],
        3: [output_metadata],
        9: [{0: _SEGMENTER_NAME, 1: np.frombuffer(options, np.uint8)}],
    }
    model: Table = {
        0: "ImageSegmenter",
        1: "Segments people; trained with jaxdistill.",
        3: [graph],
        7: _PARSER_VERSION,
    }
    return flatbuffer(model, b"M001")


def attach(content: bytes, metadata: bytes, files: Mapping[str, str]) -> bytes:
    """Adds metadata and files to a `.tflite` file.

    Args:
      content: The file.
      metadata: From `segmenter_metadata`.
      files: Texts by name, which are appended as a zip archive.

    Returns:
      The whole file.
    """
    from ai_edge_litert import schema_py_generated as schema

    class Aligned(schema.BufferT):
        """Constants at multiples of 16 bytes, as runtimes expect; the schema's code forgets it."""

        def Pack(self, builder: flatbuffers.Builder) -> int:
            data = None if self.data is None else _bytes(builder, np.asarray(self.data, np.uint8))
            schema.BufferStart(builder)
            if data is not None:
                schema.BufferAddData(builder, data)
            end: int = schema.BufferEnd(builder)
            return end

    def aligned(data: Any) -> Aligned:
        buffer = Aligned()
        buffer.data = data
        return buffer

    model = schema.ModelT.InitFromPackedBuf(content)
    entry = schema.MetadataT()
    entry.name, entry.buffer = _NAME, len(model.buffers)
    model.metadata = [*(model.metadata or ()), entry]
    model.buffers = [aligned(buffer.data) for buffer in model.buffers]
    model.buffers.append(aligned(np.frombuffer(metadata, np.uint8)))
    builder = flatbuffers.Builder(len(content) + len(metadata))
    builder.Finish(model.Pack(builder), b"TFL3")
    whole = io.BytesIO(bytes(builder.Output()))
    with zipfile.ZipFile(whole, "a") as archive:  # stored: MediaPipe unpacks nothing
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # dated 1980, in every file the same
    return whole.getvalue()


def flatbuffer(table: Table, identifier: bytes) -> bytes:
    """Serialises a table.

    Args:
      table: The root.
      identifier: Four bytes that name the schema.
    """
    builder = flatbuffers.Builder(1024)
    builder.Finish(_add(builder, table), identifier)
    return bytes(builder.Output())


def _add(builder: flatbuffers.Builder, value: Any) -> int:
    """Writes what a field refers to, and returns its place."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, np.ndarray):
        if value.dtype == np.uint8:
            return _bytes(builder, value)
        return int(builder.CreateNumpyVector(value))
    if isinstance(value, list):
        places = [_add(builder, entry) for entry in value]
        builder.StartVector(4, len(places), 4)
        for place in reversed(places):  # a flatbuffer is written from its end
            builder.PrependUOffsetTRelative(place)
        return int(builder.EndVector())
    places_by_field = {
        field: _add(builder, entry) for field, entry in value.items() if not isinstance(entry, Byte)
    }
    builder.StartObject(max(value) + 1)
    for field, entry in value.items():
        if isinstance(entry, Byte):
            builder.PrependUint8Slot(field, entry.value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(field, places_by_field[field], 0)
    return int(builder.EndObject())


def _bytes(builder: flatbuffers.Builder, data: np.ndarray) -> int:
    """Writes bytes at a multiple of 16."""
    builder.StartVector(1, len(data), _ALIGNMENT)
    builder.head = builder.head - len(data)
    builder.Bytes[builder.head : builder.head + len(data)] = data.tobytes()
    return int(builder.EndVector())
