"""MediaPipe's selfie segmentation with BatchNorms behind its convolutions, as it was trained.

In MediaPipe's file they are folded into the convolutions. Here every convolution but those of the
gates has one again. `restore` gives it the mean and the variance of the convolution's output on
images, and a scale and a shift that undo the normalisation; so the network computes what it did as
long as the running statistics are used; `models.save_weights` writes it as a file to train from.
Exports fold the BatchNorms again.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxdistill import config
from jaxdistill.models.decoders.gated import GatedDecoder
from jaxdistill.models.encoders.mediapipe_selfie import ChannelGate, MediaPipeSelfie
from jaxdistill.models.layers import BatchNorm, Conv, ScaledConv, conv_norm
from jaxdistill.models.parameters import flat_variables, merge
from jaxdistill.models.registry import DECODERS, ENCODERS
from jaxdistill.models.student import Student
from jaxdistill.types import Variables

NAME = "mediapipe-selfie-bn"
"""Name of encoder and decoder."""


class NormedConv(nnx.Module):
    """A convolution without bias, and the BatchNorm behind it.

    Args:
      conv: The convolution; it loses its bias, which a BatchNorm would remove.
      outputs: Its output channels.
    """

    def __init__(self, conv: Conv, outputs: int) -> None:
        conv.bias = None
        self.conv, self.norm = conv, BatchNorm(outputs)
        self.batch, self.measuring = False, False

    def __call__(self, *inputs: Any) -> Any:
        """Applies both to the arguments of the convolution."""
        if self.measuring:
            return self._measure(self.conv(*inputs))
        return conv_norm(self.conv, self.norm, *inputs, train=self.batch)

    def _measure(self, y: Float[Array, "b h w c"]) -> Array:
        """Makes the BatchNorm one that only adds its bias, with the statistics of this map."""
        norm, mean, var = self.norm, y.mean((0, 1, 2)), y.var((0, 1, 2))
        y = y + norm.bias[...]
        norm.mean[...], norm.var[...] = mean, var
        norm.scale[...] = jnp.sqrt(var + norm.eps)
        norm.bias[...] += mean
        return y


def _take_statistics(module: nnx.Module, *, batch: bool) -> None:
    """Says whether BatchNorms take the statistics of the batch.

    Nothing is written where they do already: a student that is traced as a constant, as for LiteRT,
    must not be changed.
    """
    for _, node in nnx.iter_graph(module):
        if isinstance(node, NormedConv) and node.batch != batch:
            node.batch = batch


@ENCODERS.register(NAME)
class NormedSelfieEncoder(MediaPipeSelfie):
    """The encoder; see `MediaPipeSelfie`."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        super().__init__(rngs=rngs)
        _insert(self)

    def __call__(self, x: Any, *, train: bool) -> Any:
        """Computes the feature maps; `train` takes the statistics of the batch."""
        _take_statistics(self, batch=train)
        return super().__call__(x, train=train)


@DECODERS.register(NAME)
class NormedGatedDecoder(GatedDecoder):
    """The decoder; see `GatedDecoder`."""

    def __init__(self, encoder: Any, channels: Any = None, *, rngs: nnx.Rngs) -> None:
        super().__init__(encoder, channels, rngs=rngs)
        _insert(self)

    def __call__(self, features: Any, *, train: bool) -> Any:
        """Computes the maps; `train` takes the statistics of the batch."""
        _take_statistics(self, batch=train)
        return super().__call__(features, train=train)


def restore(student: Student, images: Float[np.ndarray, "b h w 3"]) -> Student:
    """Returns a student that computes the same and has BatchNorms.

    Args:
      student: A student with encoder and decoder `mediapipe-selfie`.
      images: RGB in [0, 1], on which the statistics are measured, as one batch.
    """
    given = student.settings.model_copy(update={"weights": None, "encoder_weights": None})
    settings = config.Student(**{**given.model_dump(), "encoder": NAME, "decoder": NAME})
    built = Student(settings, student.normalization)
    variables = flat_variables(built)
    for path, value in flat_variables(student).items():
        module, _, leaf = path.rpartition(".")
        inserted = {"kernel": f"{module}.conv.kernel", "bias": f"{module}.norm.bias"}[leaf]
        variables[inserted if inserted in variables else path] = value
    built = merge(nnx.graphdef(built), variables)
    built.set_attributes(NormedConv, measuring=True)
    graphdef, state = nnx.split(built)

    @jax.jit
    def measured(state: nnx.State, images: Array) -> Variables:
        measuring: Student = nnx.merge(graphdef, state)
        measuring(images, train=False)
        return flat_variables(measuring)

    built.set_attributes(NormedConv, measuring=False)
    restored: Student = merge(nnx.graphdef(built), measured(state, jnp.asarray(images)))
    return restored


def _insert(network: nnx.Module) -> None:
    """Puts a BatchNorm behind every convolution but those of gates, which see one position."""
    for _, module in list(nnx.iter_modules(network)):
        if isinstance(module, ChannelGate | NormedConv):
            continue
        for name, layer in list(vars(module).items()):
            if type(layer) in (Conv, ScaledConv) and name != "gate":
                setattr(module, name, NormedConv(layer, layer.kernel.shape[-1]))
