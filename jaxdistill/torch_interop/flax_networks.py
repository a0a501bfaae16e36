"""Our networks as jitted functions of their weights, which come from elsewhere."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float, PyTree

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.models.parameters import flat_variables, merge
from jaxdistill.models.registry import build_encoder
from jaxdistill.models.student import Student
from jaxdistill.types import Variables


class Network(NamedTuple):
    """Random variables by dotted path, and what the network makes of pictures in eval mode."""

    variables: Variables
    run: Callable[[Mapping[str, Array], Float[Array, "b h w 3"]], PyTree]


@cache
def student(encoder: str, decoder_channels: tuple[int, ...]) -> Network:
    """Normalised pixels to `Outputs`.

    Raises:
      UserError: there is no encoder of that name.
    """
    settings = config.Student(encoder=encoder, decoder_channels=decoder_channels)
    return _network(Student(settings, image_ops.resolve("unit"), seed=0))


@cache
def encoder(name: str) -> Network:
    """Normalised pixels to five taps.

    Raises:
      UserError: there is no encoder of that name.
    """
    return _network(build_encoder(name, rngs=nnx.Rngs(0)))


def _network(module: nnx.Module) -> Network:
    graph = nnx.graphdef(module)

    @jax.jit
    def run(variables: Mapping[str, Array], pictures: Array) -> PyTree:
        return merge(graph, dict(variables))(pictures, train=False)

    return Network(flat_variables(module), run)
