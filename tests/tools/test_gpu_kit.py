"""What the check on a GPU takes along: the kit, in pieces, small enough to travel."""

import lzma
import struct
from pathlib import Path

import kit as kits
import numpy as np
import onnx
import onnx_models
import pieces
import prune
import pytest
import skeleton
import step_program
from onnx import numpy_helper


@pytest.mark.parametrize("kit", [kits.FULL, kits.SMALL])
def test_a_kit_is_read_as_it_was_written(tmp_path: Path, kit: kits.Kit) -> None:
    kits.write(tmp_path / "kit", kit)
    assert kits.read(tmp_path / "kit") == kit
    assert f"data.root={tmp_path}/images" in kits.run_settings(kit, tmp_path)
    for precision, batch in [*kit.steps, *kit.whole]:
        settings = step_program.settings_of(kit, precision, batch)
        assert (settings.precision, settings.training.batch_size) == (precision, batch)


def test_pieces_are_put_together(tmp_path: Path) -> None:
    content, work = tmp_path / "content", tmp_path / "work"
    kits.write(content / "kit", kits.SMALL)
    noise = np.random.default_rng(0).bytes(30_000)
    (content / "onnxruntime").mkdir()
    (content / "onnxruntime" / "library.so").write_bytes(noise)
    (content / "kit" / "networks").mkdir()
    model = onnx_models.save(onnx_models.segmenter(), tmp_path)
    skeleton.strip(model, content / "kit" / "networks" / "a.onnx.skeleton")
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0}]
    found = pieces.split(content, tmp_path / "pieces", 12_000, filters)
    assert len(found) == 3
    assert max(each.stat().st_size for each in found) <= 12_000
    assert [pieces.receive(each, work) for each in reversed(found)] == [False, False, True]
    assert kits.read(work / "kit") == kits.SMALL
    assert (work / "site" / "library.so").read_bytes() == noise
    onnx.checker.check_model(work / "kit" / "networks" / "a.onnx")
    with pytest.raises(SystemExit):
        pieces.receive(model, work)


def test_a_network_without_weights_costs_the_same(tmp_path: Path) -> None:
    model = onnx_models.segmenter()
    values = np.random.default_rng(0).normal(3, 2, (64, 64, 3, 3)).astype(np.float16)
    model.graph.initializer.append(numpy_helper.from_array(values, "large"))
    source = onnx_models.save(model, tmp_path)
    skeleton.strip(source, tmp_path / "stripped")
    assert (tmp_path / "stripped").stat().st_size < 2_500
    skeleton.fill(tmp_path / "stripped", tmp_path / "filled.onnx")
    before, after = onnx.load(source).graph, onnx.load(tmp_path / "filled.onnx").graph
    assert before.node == after.node
    *small, large = map(numpy_helper.to_array, after.initializer)
    for one, other in zip(small, before.initializer, strict=False):
        np.testing.assert_array_equal(one, numpy_helper.to_array(other))
    assert (large.shape, large.dtype) == (values.shape, values.dtype)
    assert float(large.astype(float).mean()) == pytest.approx(3, abs=0.1)
    assert float(large.astype(float).std()) == pytest.approx(2, abs=0.1)


def container(*entries: tuple[int, int, bytes]) -> bytes:
    """A fat binary of entries (kind, architecture, code)."""
    body = b"".join(
        struct.pack("<HHIQ", kind, 0, 64, len(code))
        + bytes(12)
        + struct.pack("<I", architecture)
        + bytes(32)
        + code
        for kind, architecture, code in entries
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_other_cards_code_is_cleared_and_nothing_else() -> None:
    ours, other, ptx = b"H" * 40, b"A" * 50, b"P" * 60
    both = container((2, 80, other), (2, 90, ours), (1, 90, ptx))
    elsewhere = container((2, 80, other), (1, 80, ptx))  # no code for the card: it compiles PTX
    magic_by_chance = struct.pack("<I", 0xBA55ED50) + b"text"
    library = bytearray(b"ELF" + magic_by_chance + both + elsewhere + magic_by_chance)
    size = len(library)
    assert prune.prune(library, 90) == len(other) + len(ptx)
    kept = both.replace(other, bytes(len(other))).replace(ptx, bytes(len(ptx)))
    assert bytes(library) == b"ELF" + magic_by_chance + kept + elsewhere + magic_by_chance
    assert len(library) == size
