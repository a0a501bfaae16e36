"""A transposed student sees transposed images as the student sees upright ones."""

from pathlib import Path

import numpy as np
import pytest
from refused import refused

from jaxdistill import models
from jaxdistill.commands import convert_weights
from jaxdistill.models import transposition, weights
from jaxdistill.models.parameters import flat_variables
from jaxdistill.runtime.errors import WeightsError

PAIRS = [
    ("unet", "mobilenetv3_small_050"),
    ("lr-aspp", "mobilenetv4_conv_small_035"),
    ("mediapipe-selfie", "mediapipe-selfie"),
]


@pytest.mark.parametrize(("decoder", "encoder"), PAIRS)
def test_logits_of_transposed_images_are_transposed(decoder: str, encoder: str) -> None:
    student = models.create(decoder, encoder=encoder)
    made = transposition.transposed(student)
    assert transposition.check_transposed(student, made) < transposition.TOLERANCE


def test_a_student_that_is_not_transposed_is_refused() -> None:
    student = models.create("mediapipe-selfie", encoder="mediapipe-selfie")
    with refused(WeightsError, "conversion-differs", "mediapipe-selfie"):
        transposition.check_transposed(student, student)


def test_the_file_of_a_student_is_transposed_and_back(tmp_path: Path) -> None:
    first, turned, back = (tmp_path / f"{name}.safetensors" for name in ("first", "turned", "back"))
    models.save_weights(models.create("mediapipe-selfie", encoder="mediapipe-selfie"), first)
    for source, output in ((first, turned), (turned, back)):
        convert_weights.main(["transpose", str(source), str(output)])
    own, metadata = weights.load(first)
    again, kept = weights.load(back)
    assert kept == metadata
    for name, value in own.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    assert any((own[name] != array).any() for name, array in weights.load(turned)[0].items())


def test_the_file_of_an_encoder_stays_one(tmp_path: Path) -> None:
    encoder, output = tmp_path / "encoder.safetensors", tmp_path / "turned.safetensors"
    student = models.create("light-unet", encoder="mobilenetv3_small_050")
    own = flat_variables(student)
    arrays = {name: np.asarray(own[name]) for name in own if name.startswith("encoder.")}
    weights.save(encoder, arrays, {"encoder": "mobilenetv3_small_050"})
    transposition.transpose(encoder, output)
    other = flat_variables(
        models.create("light-unet", encoder="mobilenetv3_small_050", weights=output)
    )
    expected = flat_variables(transposition.transposed(student))
    for name in arrays:
        np.testing.assert_array_equal(other[name], expected[name], err_msg=name)
