"""A small student, and random values for every variable of it."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.models import Pair, Student
from jaxdistill.models.parameters import flat_variables, merge

HALF = image_ops.resolve("half")
SMALL = config.Student(encoder="tf_efficientnet_lite0", decoder_channels=(16, 8, 8, 4, 4))


def small_student(
    pairs: Sequence[Pair] = (), settings: config.Student = SMALL, seed: int = 0
) -> Student:
    """A student as it begins."""
    return Student(settings, HALF, pairs, seed=seed)


def randomised(student: Student, seed: int = 0) -> Student:
    """The student with no variable at its default, the statistics of BatchNorm included."""
    random = np.random.default_rng(seed)
    variables = flat_variables(student)
    for path, value in variables.items():
        match path.rpartition(".")[2]:
            case "scale" | "var":
                variables[path] = jnp.asarray(random.uniform(0.6, 1.5, value.shape), "float32")
            case "bias" | "mean":
                variables[path] = jnp.asarray(random.normal(0, 0.2, value.shape), "float32")
    return merge(nnx.graphdef(student), variables)
