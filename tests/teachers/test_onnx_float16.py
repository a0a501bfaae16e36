"""Copies of frozen networks in float16, on onnxruntime's CPU provider."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from onnx_models import noise_images, parse, save, segmenter

from jaxdistill import config
from jaxdistill.runtime.errors import NetworkError
from jaxdistill.teachers import onnx_float16
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_session import OnnxSession
from jaxdistill.teachers.onnx_teacher import Onnx

HALF = config.Onnxruntime(precision="float16")
AUTO = config.Onnxruntime(precision="auto")
SIZE = (32, 64)

OVERFLOWS = """
    net (float[N, 3, H, W] image) => (float[N, 3, H, W] mask)
    <float factor = {1e6}>
    { mask = Mul (image, factor) }"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(onnx_float16, "FOLDER", tmp_path / "float16")
    return tmp_path / "float16"


def test_a_copy_gives_the_values_of_the_file_within_its_error(tmp_path: Path) -> None:
    path, images = save(segmenter(), tmp_path), jnp.asarray(noise_images(2, *SIZE))
    plain = Onnx(path, tensor="score", features=["deep"])
    half = Onnx(path, tensor="score", features=["deep"], options=HALF)
    for one, two in zip(
        (plain(images).logits, *plain(images).features),
        (half(images).logits, *half(images).features),
        strict=True,
    ):
        assert two.dtype == jnp.float32
        relative = np.sqrt(np.square(one - two).mean() / np.square(one).mean())
        assert 0 < relative < 2e-3
    assert "in float16" in half.describe()[0]
    assert "in float16" not in plain.describe()[0]
    # What is cached in one precision is not read in the other.
    other = {"precision": "float16"}
    assert half.provenance["logits"] == {**plain.provenance["logits"], **other}


def test_a_copy_is_made_once(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = OnnxGraph(save(segmenter(), tmp_path))
    first = onnx_float16.half_copy(graph, ["score"], [], SIZE)
    assert 0 < first.error < 2e-3
    assert first.cut.input.dtype == "float16"
    [copy] = folder.iterdir()

    def convert(*args: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(onnx_float16, "_convert", convert)
    assert onnx_float16.half_copy(graph, ["score"], [], SIZE).error == first.error
    monkeypatch.undo()
    monkeypatch.setattr(onnx_float16, "FOLDER", folder)
    copy.write_bytes(b"damaged")
    assert onnx_float16.half_copy(graph, ["score"], [], SIZE).error == first.error


def test_a_copy_that_differs_much_is_refused(tmp_path: Path) -> None:
    """Its weight is beyond the largest float16, 65504."""
    path = save(parse(OVERFLOWS), tmp_path)
    with pytest.raises(NetworkError) as caught:
        OnnxSession(OnnxGraph(path), ["mask"], options=HALF).shapes(SIZE)
    assert caught.value.code == "onnx-float16"


def test_where_it_was_not_asked_for_float32_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session = OnnxSession(OnnxGraph(save(parse(OVERFLOWS), tmp_path)), ["mask"], options=AUTO)
    session.on_gpu = True
    images = noise_images(1, *SIZE)
    [mask] = session(jnp.asarray(images))
    np.testing.assert_allclose(mask, 1e6 * images, rtol=1e-6)
    assert session.float16_error is None
    assert "float32" in caplog.text


def test_a_cpu_needs_no_copy(tmp_path: Path, folder: Path) -> None:
    session = OnnxSession(OnnxGraph(save(segmenter(), tmp_path)), ["mask"], options=AUTO)
    session.shapes(SIZE)
    assert session.float16_error is None
    assert not folder.exists()


def test_the_error_of_probabilities_is_not_relative(tmp_path: Path) -> None:
    """A mask without a person is nearly 0, of which any error is a large share."""
    graph = OnnxGraph(save(segmenter(), tmp_path))
    relative = onnx_float16.half_copy(graph, ["mask"], [], SIZE).error
    absolute = onnx_float16.half_copy(graph, ["mask"], ["mask"], SIZE).error
    assert 0 < absolute < relative


def test_a_real_network_is_good_enough(shared) -> None:
    graph = OnnxGraph(shared("models", "u2netp.onnx"))
    [mask, *_] = graph.outputs
    assert onnx_float16.half_copy(graph, [mask], [mask], (320, 320)).error < 1e-3
