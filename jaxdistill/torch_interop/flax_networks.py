"""Students and encoders as jitted functions of variables that come from elsewhere."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Float, PyTree

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.models.parameters import flat_variables, merge
from jaxdistill.models.registry import build_encoder
from jaxdistill.models.student import Student
from jaxdistill.types import Variables


class Network(NamedTuple):
    """A network whose variables are an argument."""

    variables: Variables
    """Random variables by path."""
    run: Callable[[Mapping[str, Any], Float[Any, "b h w 3"]], PyTree]
    """Computes the outputs in eval mode, from variables by path and normalised images."""
    stages: tuple[int, ...] = ()
    """Of an encoder: after how many stages each of its maps is taken."""


@cache
def student(encoder: str, decoder_channels: tuple[int, ...]) -> Network:
    """Returns a UNet student; its outputs are `ModelOutputs`.

    Args:
      encoder: Name of the encoder.
      decoder_channels: Channels of the decoder's blocks, coarsest first.

    Raises:
      ConfigError: There is no encoder of that name, or the decoder does not fit it.
    """
    settings = config.Student(encoder=encoder, decoder_channels=decoder_channels)
    return _network(Student(settings, image_ops.resolve("unit"), seed=0))


@cache
def encoder(name: str) -> Network:
    """Returns an encoder; its outputs are feature maps, finest first.

    Args:
      name: Name of the encoder.

    Raises:
      ConfigError: There is no encoder of that name.
    """
    module = build_encoder(name, rngs=nnx.Rngs(0))
    stages = tuple(feature.stages for feature in module.feature_info)
    return _network(module)._replace(stages=stages)


def _network(module: nnx.Module) -> Network:
    graph = nnx.graphdef(module)

    @jax.jit
    def run(variables: Mapping[str, Any], images: Any) -> PyTree:
        return merge(graph, dict(variables))(images, train=False)

    return Network(flat_variables(module), run)
