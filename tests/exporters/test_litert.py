"""Export to `.tflite` files: refusals, and, with the extra, masks of LiteRT and MediaPipe."""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from refused import refused
from small_student import randomised, small_student

from jaxdistill import config, exporters
from jaxdistill.commands import export as command_line
from jaxdistill.exporters.litert_student import LiteRTStudent
from jaxdistill.exporters.registry import Input
from jaxdistill.exporters.verify import MAX_IOU_LOSS
from jaxdistill.models import Student
from jaxdistill.runtime.errors import ConfigError, ExportError, OutputError

SIZE = (64, 96)
needs_extra = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("tensorflow", "ai_edge_litert")),
    reason="needs the extra tflite",
)
needs_mediapipe = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None, reason="needs MediaPipe"
)


@pytest.mark.parametrize("kind", ["normalized", "imagenet"])
def test_normalised_input_is_refused(small: Student, tmp_path: Path, kind: Input) -> None:
    with refused(ConfigError, "invalid-argument", kind):
        exporters.export(small, tmp_path / "a.tflite", input=kind, size=SIZE)


@pytest.mark.parametrize("missing", ["tensorflow", "ai_edge_litert"])
def test_a_missing_extra_is_named(
    small: Student, tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with refused(ConfigError, "extra-missing", "tflite"):
        exporters.export(small, tmp_path / "a.tflite", size=SIZE)


def test_a_folder_is_not_overwritten(small: Student, tmp_path: Path) -> None:
    (tmp_path / "a.tflite").mkdir()
    with refused(OutputError, "output-exists"):
        exporters.export(small, tmp_path / "a.tflite", size=SIZE)


@needs_extra
def test_a_run_becomes_verified_files_with_cards(trained: Path, tmp_path: Path) -> None:
    precisions = ("float32", "float16", "int8")
    command_line.main([str(trained), str(tmp_path / "person.tflite"), "--precision", *precisions])
    sizes, ious = [], []
    for precision in precisions:
        path = tmp_path / f"person.{precision}.tflite"
        content = path.read_bytes()
        sizes.append(len(content))
        card = json.loads((tmp_path / f"person.{precision}.tflite.json").read_text())
        assert card["file"]["sha256"] == hashlib.sha256(content).hexdigest()
        assert card["input"]["shape"] == [1, *SIZE, 3]
        assert (card["input"]["dtype"], card["input"]["layout"]) == ("float32", "NHWC")
        assert card["output"]["name"] == "logits"
        assert card["normalization"]["done by"] == "the graph"
        assert "tensorflow" in card["versions"]
        ious.append(card["measured"]["mean_iou"])
    assert sizes[0] > 1.8 * sizes[1] > 1.8 * 1.5 * sizes[2]
    assert ious[0] - ious[2] <= MAX_IOU_LOSS


@needs_extra
@pytest.mark.parametrize(
    "settings",
    [
        None,
        config.Student(
            encoder="mediapipe-selfie", decoder="mediapipe-selfie", normalization="unit", frozen=()
        ),
        config.Student(encoder="mobilenetv3_small_050", decoder="lr-aspp", frozen=()),
    ],
    ids=["unet", "mediapipe-selfie", "mobilenet-lr-aspp"],
)
def test_xnnpack_takes_the_whole_graph(
    small: Student, tmp_path: Path, settings: config.Student | None
) -> None:
    student = small if settings is None else randomised(small_student(settings=settings))
    student(np.zeros((1, *SIZE, 3), np.float32), train=False)  # other forms have been traced before
    report = exporters.export(student, tmp_path / "a.tflite", size=SIZE)
    assert report.measured["float32"]["difference"] < 1e-4
    file = LiteRTStudent((tmp_path / "a.tflite").read_bytes(), "unit")
    operators = file.interpreter._get_ops_details()
    [delegate] = [each for each in operators if each["op_name"] == "DELEGATE"]
    assert file.image["index"] in delegate["inputs"]
    assert list(delegate["outputs"]) == [file.output["index"]]


@needs_extra
def test_a_student_that_cannot_be_converted_is_refused(
    small: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_form(self: Student, images: jax.Array, *, train: bool) -> Any:
        raise NotImplementedError("no such operation")

    monkeypatch.setattr(Student, "__call__", without_form)
    with refused(ExportError, "no-tflite-form"):
        exporters.export(small, tmp_path / "a.tflite", size=SIZE)
    assert list(tmp_path.iterdir()) == []


@needs_extra
@needs_mediapipe
@pytest.mark.parametrize(
    "options",
    [{}, {"sigmoid": True}, {"input": "uint8"}],
    ids=["logits", "probabilities", "uint8"],
)
def test_mediapipe_computes_the_students_masks(
    small: Student, tmp_path: Path, options: dict[str, Any]
) -> None:
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    path = tmp_path / "a.tflite"
    exporters.export(small, path, size=SIZE, **options)
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    logits = small(image[None].astype(np.float32) / 255, train=False).logits
    expected = np.asarray(jax.nn.sigmoid(logits))[0]
    chosen = vision.ImageSegmenterOptions(
        base_options=BaseOptions(model_asset_path=str(path)), output_category_mask=True
    )
    with vision.ImageSegmenter.create_from_options(chosen) as segmenter:
        assert segmenter.labels == ["person"]
        found = segmenter.segment(
            mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image)
        )
    [confidence] = found.confidence_masks
    np.testing.assert_allclose(confidence.numpy_view(), expected, atol=1e-5)
    # Category 0 is the only class; 255 is no class.
    person = found.category_mask.numpy_view() == 0
    assert (person == (expected > 0.5)).mean() > 0.999
