"""`Onnx`: a teacher that runs one ONNX file."""

import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
from jaxtyping import Array, Float, UInt8

from jaxdistill import config
from jaxdistill.config import Normalization, OutputKind, Size
from jaxdistill.data import image_ops
from jaxdistill.runtime.errors import ConfigError, NetworkError
from jaxdistill.teachers.base import OutputShapes
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_session import OnnxSession
from jaxdistill.teachers.target_cache import CachedTeacher
from jaxdistill.types import TeacherOutputs

PROBABILITY_MARGIN = 1e-4
"""Distance from 0 and 1 at which a probability is clipped before it becomes a logit.

A float32 sigmoid reaches 0 and 1 exactly, whose logits are infinite. Beyond +-9.2, the squared
distance between logits would be dominated by pixels on which all networks agree.
"""
CONVERSION_VERSION = 1
"""Part of the provenance. Increase it when `prepare` or `to_logits` compute other values, so that
nothing cached before is used. The margin is a part by itself."""


class Onnx:
    """A teacher that runs one ONNX file: a mask, inner feature maps, or both.

    The file is read at once, and opened in onnxruntime when it is first needed.

    Args:
      path: The ONNX file, or an `OnnxGraph` that was read before. It has one image input
        (N, 3, H, W).
      tensor: The mask tensor (N, 1, h, w), an output or an inner tensor; None is the first output.
      output: What the mask tensor holds; None for a network that is read for its features only.
      normalization: What the network expects of pixels in [0, 1].
      size: Height and width of the network's input; None uses the file's own where it is fixed,
        else the size of the images.
      features: Tensors (N, C, h, w), outputs or inner ones, one per feature pair.
      threads: Upper bound of onnxruntime's threads on the CPU; None uses every core.
      options: How a GPU computes the network; None takes the defaults.

    Raises:
      ConfigError: Neither a mask nor features are asked for (`teacher-without-outputs`).
      NetworkError: The file cannot be read, or has no such tensor; see `OnnxGraph`.
    """

    def __init__(
        self,
        path: Path | str | OnnxGraph,
        *,
        tensor: str | None = None,
        output: OutputKind | None = "logits",
        normalization: Normalization = "imagenet",
        size: Size | None = None,
        features: Sequence[str] = (),
        threads: int | None = None,
        options: config.Onnxruntime | None = None,
    ) -> None:
        graph = path if isinstance(path, OnnxGraph) else OnnxGraph(Path(path))
        if output is None and not features:
            raise ConfigError(
                f"{graph.path}: nothing to compute; name features, or say with output whether the "
                f"mask holds logits or probabilities",
                code="teacher-without-outputs",
            )
        self.graph, self.output, self.normalization = graph, output, normalization
        self.size, self.threads = size, threads
        self.options = options or config.Onnxruntime(precision="float32")
        self.tensor = None if output is None else tensor or graph.outputs[0]
        """The mask tensor; None where there is no mask."""
        self.features = tuple(features)
        """The feature tensors."""
        tensors = list(dict.fromkeys([*filter(None, [self.tensor]), *self.features]))
        for name in tensors:
            graph.check_tensor(name)
        # Shared with what `restrict` returns: the file is opened once.
        self._open = functools.cache(
            lambda: OnnxSession(
                graph,
                tensors,
                size,
                threads,
                self.options,
                [self.tensor] if output == "probabilities" and self.tensor else [],
            )
        )

    def __call__(self, images: Float[Array, "b h w 3"]) -> TeacherOutputs:
        """Runs the network on images in [0, 1]; see `Teacher`."""
        _, height, width, _ = images.shape
        self.output_shapes((height, width))
        session = self._open()
        network_size = session.input_size((height, width))
        inputs = prepare(images, image_ops.resolve(self.normalization), network_size)
        maps = dict(zip(session.tensors, session(inputs), strict=True))
        logits = None
        if self.tensor is not None and self.output is not None:
            logits = to_logits(maps[self.tensor], self.output, (height, width))
        return TeacherOutputs(logits, tuple(maps[tensor] for tensor in self.features))

    def set_batch_size(self, batch_size: int) -> None:
        """Says how many images a GPU is to compute at once; see `OnnxSession.set_batch_size`.

        Args:
          batch_size: Number of images on each device.
        """
        self._open().set_batch_size(batch_size)

    def output_shapes(self, image_size: Size) -> OutputShapes:
        """Returns the shapes of the outputs for images of a size.

        Raises:
          NetworkError: onnxruntime cannot open or run the file, or the mask has more than one
            channel (`teacher-channels`).
        """
        session = self._open()
        shapes = session.shapes(session.input_size(image_size))
        known = dict(zip(session.tensors, shapes, strict=True))
        if self.tensor is not None and known[self.tensor][2] != 1:
            raise NetworkError(
                f"{self.graph.path}: the teacher's tensor {self.tensor!r} should be a mask of 1 "
                f"channel, but has {known[self.tensor][2]}; name another one as teacher.tensor",
                code="teacher-channels",
            )
        return OutputShapes(
            None if self.tensor is None else (*image_size, 1),
            tuple(known[tensor] for tensor in self.features),
        )

    @property
    def provenance(self) -> dict[str, Any]:
        """All that `logits` and `features` depend on, each under its name."""
        common = {
            "file": self.graph.fingerprint,
            "normalization": {
                name: list(values)
                for name, values in image_ops.resolve(self.normalization)._asdict().items()
            },
            "size": None if self.size is None else list(self.size),
            "provider": self._open().provider,
            "precision": self._open().precision,
            "onnxruntime": onnxruntime.__version__,
            "conversion": CONVERSION_VERSION,
        }
        parts: dict[str, Any] = {}
        if self.tensor is not None:
            margin = PROBABILITY_MARGIN if self.output == "probabilities" else None
            parts["logits"] = {
                **common,
                "tensor": self.tensor,
                "output": self.output,
                "margin": margin,
            }
        if self.features:
            parts["features"] = {**common, "tensors": list(self.features)}
        return parts

    def restrict(self, *, logits: bool = True, features: bool = True) -> "Onnx | None":
        """Returns this teacher with fewer outputs; None where no output is left.

        Args:
          logits: Whether the mask is needed.
          features: Whether the feature maps are needed.
        """
        fewer = copy.copy(self)
        if not logits:
            fewer.tensor = fewer.output = None
        if not features:
            fewer.features = ()
        return fewer if fewer.tensor is not None or fewer.features else None

    def stored_mask(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b _ _ 1"]:
        """Returns the mask tensor as the network gives it, for images on the host.

        No program is compiled for it.

        Args:
          images: RGB.
        """
        assert self.tensor is not None
        session = self._open()
        size = session.input_size(images.shape[1:3])
        mean, std = (np.asarray(v, np.float32) for v in image_ops.resolve(self.normalization))
        resized = np.stack([image_ops.resize_image(image, size) for image in images])
        inputs = (resized.astype(np.float32) / 255 - mean) / std
        return session.on_host(inputs)[self.tensor]

    def cached(self, directory: Path | str) -> CachedTeacher:
        """Returns this teacher with its outputs kept in a cache directory; see `CachedTeacher`."""
        return CachedTeacher(self, directory)

    def describe(self) -> list[str]:
        """Returns a line for the mask and one for the features: file, tensors, input, provider."""
        session = self._open()
        size, shapes = next(iter(session.known_shapes.items()), (self.size, ()))
        known = dict(zip(session.tensors, shapes, strict=False))

        def show(tensor: str) -> str:
            return f"{tensor} ({' x '.join(map(str, known[tensor]))})" if known else tensor

        images = f"images of {size[0]} x {size[1]}" if size else "images of any size"
        end = f"from {images} ({self.normalization}), on {session.provider}"
        if session.float16_error is not None:
            end += f", in float16 ({session.float16_error:.2g} from float32)"
        lines = []
        if self.tensor is not None:
            lines.append(f"teacher: {self.graph.path}, {show(self.tensor)} as {self.output}, {end}")
        if self.features:
            lines.append(
                f"detector: {self.graph.path}, {', '.join(map(show, self.features))}, {end}"
            )
        return lines

    def fed_as(self, other: "Onnx") -> bool:
        """Returns whether another teacher runs the same file on the same input."""
        own, others = (
            (
                each.graph.path.resolve(),
                image_ops.resolve(each.normalization),
                each.size,
                each.threads,
                each.options,
            )
            for each in (self, other)
        )
        return own == others


@functools.partial(jax.jit, static_argnums=(1, 2))
def prepare(
    images: Float[Array, "b h w 3"], normalization: image_ops.Normalization, size: Size
) -> Float[Array, "b {*size} 3"]:
    """Resizes and normalises images in [0, 1] for a network.

    Args:
      images: Images in [0, 1].
      normalization: What the network expects.
      size: Height and width of the network's input.
    """
    return image_ops.normalize(image_ops.resize(images, size), normalization)


@functools.partial(jax.jit, static_argnums=(1, 2))
def to_logits(
    mask: Float[Array, "b h w 1"], output: OutputKind, size: Size
) -> Float[Array, "b {*size} 1"]:
    """Converts a mask tensor into logits of another size.

    Args:
      mask: The mask as the network gives it.
      output: What the mask holds. Probabilities become `log(p / (1 - p))`, after resizing, with p
        clipped to `PROBABILITY_MARGIN` from 0 and 1.
      size: Height and width of the result.
    """
    mask = image_ops.resize(mask, size)
    if output == "logits":
        return mask
    return jax.scipy.special.logit(jnp.clip(mask, PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN))
