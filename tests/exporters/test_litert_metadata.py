"""The metadata of `.tflite` files, read back field by field."""

import io
import zipfile
from typing import Any

import numpy as np
import pytest
from flatbuffers import encode, number_types, packer
from flatbuffers.table import Table

from jaxdistill.exporters import litert_metadata
from jaxdistill.exporters.litert_metadata import Activation, Byte


def root(content: bytes) -> Table:
    return Table(bytearray(content), encode.Get(packer.uoffset, content, 0))


def place(table: Table, field: int) -> int:
    offset = table.Offset(4 + 2 * field)
    assert offset
    return table.Pos + offset


def text(table: Table, field: int) -> str:
    return table.String(place(table, field)).decode()


def byte(table: Table, field: int) -> int:
    return int(table.Get(number_types.Uint8Flags, place(table, field)))


def inner(table: Table, field: int) -> Table:
    return Table(table.Bytes, table.Indirect(place(table, field)))


def entries(table: Table, field: int) -> list[Table]:
    offset = table.Offset(4 + 2 * field)
    start = table.Vector(offset)
    return [
        Table(table.Bytes, table.Indirect(start + 4 * index))
        for index in range(table.VectorLen(offset))
    ]


def array(table: Table, field: int, dtype: Any) -> np.ndarray:
    offset = table.Offset(4 + 2 * field)
    return np.frombuffer(table.Bytes, dtype, table.VectorLen(offset), table.Vector(offset))


@pytest.mark.parametrize("activation", Activation)
def test_a_segmenter_is_described(activation: Activation) -> None:
    written = litert_metadata.segmenter_metadata("image", "logits", activation, (0, 1))
    assert written[4:8] == b"M001"
    model = root(written)
    assert text(model, 7) == "1.5.0"
    [graph] = entries(model, 3)
    [image], [output] = entries(graph, 2), entries(graph, 3)
    assert (text(image, 0), text(output, 0)) == ("image", "logits")
    assert byte(inner(image, 3), 0) == 2
    assert byte(inner(inner(image, 3), 1), 0) == 1
    [unit] = entries(image, 4)
    assert byte(unit, 0) == 1
    assert array(inner(unit, 1), 0, np.float32) == [0]
    assert array(inner(unit, 1), 1, np.float32) == [255]
    assert array(inner(image, 5), 0, np.float32) == [1]
    assert array(inner(image, 5), 1, np.float32) == [0]
    [labels] = entries(output, 6)
    assert (text(labels, 0), byte(labels, 2)) == (litert_metadata.LABELS_FILE, 2)
    [custom] = entries(graph, 9)
    assert text(custom, 0) == "SEGMENTER_METADATA"
    options = array(custom, 1, np.uint8).tobytes()
    assert options[4:8] == b"V001"
    offset = root(options).Offset(4)
    assert (byte(root(options), 0) if offset else 0) == activation


def test_tables_hold_lists_texts_and_bytes() -> None:
    table: litert_metadata.Table = {0: [{0: "a"}, {0: "b", 2: Byte(3)}], 3: "c"}
    read = root(litert_metadata.flatbuffer(table, b"ABCD"))
    first, second = entries(read, 0)
    assert (text(first, 0), text(second, 0), text(read, 3)) == ("a", "b", "c")
    assert byte(second, 2) == 3
    assert not read.Offset(4 + 2)


def test_a_file_keeps_its_constants_and_gains_metadata_and_labels() -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="needs LiteRT")
    import flatbuffers

    model = schema.ModelT()
    model.version, model.buffers = 3, []
    for count in (0, 5, 33):
        buffer = schema.BufferT()
        buffer.data = np.arange(count, dtype=np.uint8) if count else None
        model.buffers.append(buffer)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    metadata = litert_metadata.segmenter_metadata("image", "mask", Activation.NONE, (0, 255))
    whole = litert_metadata.attach(bytes(builder.Output()), metadata, {"labels.txt": "person\n"})
    read = schema.Model.GetRootAs(whole, 0)
    assert read.BuffersLength() == 4
    assert read.Metadata(0).Name() == b"TFLITE_METADATA"
    for index, expected in ((1, bytes(range(5))), (2, bytes(range(33))), (3, metadata)):
        buffer = read.Buffers(index)
        assert buffer.DataAsNumpy().tobytes() == expected
        assert buffer._tab.Vector(buffer._tab.Offset(4)) % 16 == 0
    assert read.Buffers(read.Metadata(0).Buffer()).DataAsNumpy().tobytes() == metadata
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert archive.read("labels.txt") == b"person\n"
        assert archive.getinfo("labels.txt").compress_type == zipfile.ZIP_STORED
