"""Random students, pictures and targets, as arrays that both sides are given."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from jaxtyping import Array
from torch import Tensor

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.models.feature_pairs import Pair
from jaxdistill.models.parameters import flat_variables, merge
from jaxdistill.models.student import Student
from jaxdistill.types import Variables

SMALL = (32, 24, 16, 12, 8)


def student(settings: config.Student, pairs: Sequence[Pair] = (), seed: int = 0) -> Student:
    """With BatchNorms, too, whose every number shows in the output."""
    blank = Student(settings, image_ops.resolve("imagenet"), pairs, seed=seed)
    return merge(nnx.graphdef(blank), randomised(flat_variables(blank), seed))


def randomised(variables: Variables, seed: int) -> Variables:
    """The same with random scales, shifts and statistics."""
    rng = np.random.default_rng(seed)
    draw = {
        "scale": lambda shape: rng.uniform(0.6, 1.4, shape),
        "var": lambda shape: rng.uniform(0.6, 1.4, shape),
        "bias": lambda shape: rng.normal(0, 0.2, shape),
        "mean": lambda shape: rng.normal(0, 0.2, shape),
    }
    changed = dict(variables)
    for path, value in variables.items():
        if leaf := draw.get(path.rpartition(".")[2]):
            changed[path] = jnp.asarray(leaf(value.shape), jnp.float32)
    return changed


def pictures(batch: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """(B, H, W, 3) in [0, 1]."""
    return np.random.default_rng(seed).uniform(size=(batch, *size, 3)).astype(np.float32)


def nchw(array: np.ndarray | Array) -> Tensor:
    return torch.from_numpy(np.asarray(array).transpose(0, 3, 1, 2).copy())


def nhwc(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def by_name(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}
