"""Exports in other programs: the recipes of docs/how_to/export.md."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from small_student import HALF

from jaxdistill import exporters
from jaxdistill.exporters.onnx_graph import Form
from jaxdistill.exporters.verify import flax_outputs
from jaxdistill.models import Student


def test_rembg_s_custom_session_computes_the_student_s_masks(
    small: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rembg = pytest.importorskip("rembg", reason="needs rembg")
    from PIL import Image

    assert small.normalization == HALF  # not ImageNet's, by which rembg normalises
    monkeypatch.setenv("REMBG_HOME", str(tmp_path))
    path = tmp_path / "person.onnx"
    exporters.export(small, path, input="imagenet", sigmoid=True, size=(320, 320))
    image = np.random.default_rng(0).integers(0, 256, (320, 320, 3), np.uint8)
    image[0, 0] = 255  # rembg divides by the largest value
    session = rembg.new_session("u2net_custom", model_path=str(path))
    mask = rembg.remove(Image.fromarray(image), session=session, only_mask=True)
    expected = flax_outputs(small, image[None], Form(sigmoid=True))[0, ..., 0]
    stretched = (expected - expected.min()) / (expected.max() - expected.min())
    # rembg cuts off fractions. Measured: -1.002 to 0.002.
    assert np.abs(np.asarray(mask) - 255 * stretched).max() < 1.1


def test_a_file_fits_the_place_of_obs_s_rmbg(small: Student, tmp_path: Path) -> None:
    """`ModelRMBG.h` of obs-backgroundremoval 1.2.0: sides that are not fixed count as 1."""
    path = tmp_path / "bria_rmbg_1_4_qint8.onnx"
    exporters.export(small, path, input="unit", sigmoid=True, size=(64, 96))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [image], [mask] = session.get_inputs(), session.get_outputs()
    shapes = [
        [side if isinstance(side, int) else 1 for side in each.shape] for each in (image, mask)
    ]
    assert shapes == [[1, 3, 64, 96], [1, 1, 64, 96]]
    assert image.type == mask.type == "tensor(float)"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    values = np.ascontiguousarray(pixels.astype(np.float32).transpose(2, 0, 1)[None] / 255)
    [found] = session.run(None, {image.name: values})
    expected = flax_outputs(small, pixels[None], Form(sigmoid=True))[0, ..., 0]
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-5)
