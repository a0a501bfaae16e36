"""Files of a student's weights: written and read without loss."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from refused import refused

from jaxdistill import models
from jaxdistill.models import weights
from jaxdistill.models.parameters import flat_variables
from jaxdistill.runtime.errors import WeightsError


def test_a_student_is_built_from_its_file_alone(tmp_path: Path) -> None:
    made = models.create(
        "light-unet",
        encoder="mobilenetv3_small_050",
        encoder_depth=4,
        decoder_channels=(16, 12, 8),
        upsampling="learned",
        seed=3,
    )
    path = str(tmp_path / "student.safetensors")
    models.save_weights(made, path)
    read = models.from_weights(path)
    own, other = flat_variables(made), flat_variables(read)
    assert own.keys() == other.keys()
    for name, value in own.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_weights_in_half_precision_are_trained_in_float32(tmp_path: Path) -> None:
    made = models.create("light-unet", encoder="mobilenetv3_small_050")
    path = tmp_path / "student.safetensors"
    models.save_weights(made, path)
    arrays, metadata = weights.load(path)
    halves = {name: array.astype(np.float16) for name, array in arrays.items()}
    weights.save(path, halves, metadata)
    variables = flat_variables(models.from_weights(path))
    assert {value.dtype for value in variables.values()} == {jnp.dtype("float32")}


def test_a_damaged_architecture_is_named(tmp_path: Path) -> None:
    made = models.create("light-unet", encoder="mobilenetv3_small_050")
    path = tmp_path / "student.safetensors"
    models.save_weights(made, path)
    arrays, metadata = weights.load(path)
    for text in ("[1", "3", '{"encoder_depth": "many"}'):
        weights.save(path, arrays, {**metadata, "architecture": text})
        with refused(WeightsError, "weights-metadata"):
            models.from_weights(path)
